from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError, BundleError, DeviceUnavailableError
from autosam_deploy.runtime import ort
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.ort import OrtBackend
from autosam_deploy.runtime.providers import PROVIDERS, open_session

ToyBundle = Callable[..., Path]
SLICES = np.linspace(-3, 5, 2 * 5 * 7, dtype=np.float32).reshape(2, 1, 5, 7)


def test_only_the_cpu_is_engaged(toy_bundle: ToyBundle) -> None:
    with Engine.open(toy_bundle(), device="cpu", threads=1) as engine:
        assert engine.info.provider == "CPUExecutionProvider"
        assert engine.info.notes == ()
        assert isinstance(engine.backend, OrtBackend)
        assert engine.backend.session.get_providers() == ["CPUExecutionProvider"]
        # Else a provider's failure in the middle of a volume would move it to the CPU.
        assert engine.backend.session._enable_fallback is False


def test_threads_are_explicit(toy_bundle: ToyBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "usable_cores", lambda: 2)
    with Engine.open(toy_bundle(), device="cpu") as engine:
        assert isinstance(engine.backend, OrtBackend)
        options = engine.backend.session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)


def test_weights_beside_the_graph(toy_bundle: ToyBundle) -> None:
    path = toy_bundle(external=True)
    with Engine.open(path, device="cpu", threads=1) as engine:
        expected = engine.logits(SLICES)
    assert (expected[:, 2] == SLICES[:, 0] - 2).all()
    data = path / "model.fp32.onnx.data"
    data.write_bytes(b"\1" * data.stat().st_size)
    with pytest.raises(BundleError, match=r"'model.fp32.onnx.data' .* was altered; got sha256"):
        Engine.open(path, device="cpu", threads=1)


def test_weights_outside_the_bundle_are_not_read(toy_bundle: ToyBundle) -> None:
    """A graph may name any file as its weights; ONNX Runtime must not follow it out."""
    path = toy_bundle(external=True)
    outside = path.parent / "outside.data"
    outside.write_bytes((path / "model.fp32.onnx.data").read_bytes())
    bundle = Bundle.open(path)
    model = onnx.load(path / "model.fp32.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../outside.data"
    (path / "model.fp32.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BackendError, match=r"cannot load 'model.fp32.onnx'; got .*outside"):
        Engine.open(bundle, device="cpu", threads=1)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"rename": "image"}, "'image', 'float32'"),
        ({"labels_type": TensorProto.INT64}, r"'labels', 'tensor\(int64\)'"),
        ({"width": 7}, r"'slices', 'float32', \('B', 1, 'H', 7\)"),
        ({"outputs": ("logits",), "claimed": ("labels", "logits")}, "'logits', 'float32'"),
        ({"outputs": ("logits", "labels"), "claimed": ("labels", "logits")}, "'logits', 'float32'"),
    ],
)
def test_graph_that_contradicts_the_manifest(
    toy_bundle: ToyBundle, fields: dict[str, Any], found: str
) -> None:
    fields = {"claimed": fields.get("outputs", ("labels", "logits")), **fields}
    with pytest.raises(BackendError, match=rf"contradicts the manifest; got \[.*{found}"):
        Engine.open(toy_bundle(**fields), device="cpu", threads=1)


def test_low_precision_on_a_cpu_is_warned_of(
    toy_bundle: ToyBundle, caplog: pytest.LogCaptureFixture
) -> None:
    path = toy_bundle(precisions=("fp32", "fp16"))
    with Engine.open(path, device="cpu", threads=1) as engine:
        assert engine.info.artefact == "model.fp32.onnx"
    assert caplog.text == ""
    with Engine.open(path, device="cpu", precision="fp16", threads=1) as engine:
        assert engine.info.artefact == "model.fp16.onnx"
        assert "slower than fp32 on a CPU" in engine.info.reason
    assert "model.fp16.onnx on a CPU is slower than fp32" in caplog.text


def test_precision_that_is_not_there(toy_bundle: ToyBundle) -> None:
    with pytest.raises(BackendError, match=r"no bf16 graph; got graphs in fp32, fp16; bf16 is for"):
        Engine.open(toy_bundle(precisions=("fp32", "fp16")), precision="bf16")


@pytest.mark.parametrize(
    ("precisions", "expected", "reason"),
    [
        (("fp32", "fp16"), "fp16", "fp16 is the best for a GPU"),
        (("fp32",), "fp32", "fp32, since the bundle has no fp16 graph"),
        (("fp32", "bf16"), "fp32", "fp32, since the bundle has no fp16 graph"),
    ],
)
def test_precision_on_a_gpu(
    toy_bundle: ToyBundle,
    monkeypatch: pytest.MonkeyPatch,
    precisions: tuple[str, ...],
    expected: str,
    reason: str,
) -> None:
    """The choice alone: the session is a CPU one, since tests run without a GPU."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: list(PROVIDERS.values()))
    monkeypatch.setattr(ort, "cuda_devices", lambda: 1)
    real = open_session
    monkeypatch.setattr(
        ort, "open_session", lambda *a, provider, **k: real(*a, provider="cpu", **k)
    )
    monkeypatch.setattr(ort, "work_on_cpu", lambda session: Counter(Shape=2))
    with Engine.open(toy_bundle(precisions=precisions)) as engine:
        assert engine.info.precision == expected
        assert engine.info.reason == f"a CUDA device is there; {reason}"
        assert engine.info.device == "cuda:0"
        assert engine.info.notes == ("nodes that ONNX Runtime keeps on the CPU: 2 Shape",)
        # A GPU reports a full memory, so larger batches may be tried there.
        assert engine.auto_batch() == 16


def test_provider_and_device_must_agree(toy_bundle: ToyBundle) -> None:
    with pytest.raises(DeviceUnavailableError, match="contradict each other; got device cpu"):
        Engine.open(toy_bundle(), device="cpu", provider="tensorrt")


def test_provider_of_another_build(toy_bundle: ToyBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceUnavailableError, match="no CUDAExecutionProvider; got CPUExec"):
        Engine.open(toy_bundle(), device="cuda")


def test_device_beyond_the_last(toy_bundle: ToyBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: list(PROVIDERS.values()))
    monkeypatch.setattr(ort, "cuda_devices", lambda: 2)
    with pytest.raises(DeviceUnavailableError, match="available: cpu, cuda:0, cuda:1"):
        Engine.open(toy_bundle(), device="cuda:2")


def test_auto_says_why_it_took_the_cpu(
    toy_bundle: ToyBundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver that reports a device does not make CUDA usable; `auto` says what was wrong."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: list(PROVIDERS.values()))
    monkeypatch.setattr(ort, "cuda_devices", lambda: 1)
    real = open_session

    def no_cuda(*args: Any, provider: str, **kwargs: Any) -> Any:
        if provider == "cuda":
            raise DeviceUnavailableError("libcublas is missing")
        return real(*args, provider=provider, **kwargs)

    monkeypatch.setattr(ort, "open_session", no_cuda)
    with Engine.open(toy_bundle(precisions=("fp32", "fp16")), threads=1) as engine:
        assert engine.info.device == "cpu"
        assert engine.info.precision == "fp32"
        assert "libcublas is missing" in engine.info.reason
    assert "running on the CPU: the GPU is not usable (libcublas is missing)" in caplog.text
    with pytest.raises(DeviceUnavailableError, match="libcublas is missing"):
        Engine.open(toy_bundle(), device="cuda")


def test_failure_of_the_runtime_is_one_line(toy_bundle: ToyBundle) -> None:
    with Engine.open(toy_bundle(), device="cpu", threads=1) as engine:
        with pytest.raises(BackendError, match=r"ONNX Runtime failed; got .*Invalid output name"):
            engine.backend._run(SLICES, ("no such output",))
        assert engine.labels(SLICES).shape == (2, 5, 7)


SCRIPT = """
import logging, resource, sys
import numpy as np
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.volumes.volume import Geometry, Volume

logging.basicConfig(stream=sys.stdout, format="%(message)s")
engine = Engine.open(sys.argv[1], device="cpu", threads=1)
engine.labels(np.zeros((1, 8, 8), np.float32))
array = np.full((16, 1024, 1024), 3, np.float32)
unit = Geometry((1.0,) * 3, (0.0,) * 3, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
volume = Volume(array, unit, "big")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (220 << 20),) * 2)
found = engine.segment(volume, axis="k", batch=16).array
sys.stdout.write(f"{found.min()} {found.max()} {engine.info.notes}")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own address space")
def test_memory_that_really_runs_out(toy_bundle: ToyBundle) -> None:
    """16 slices need 192 MiB of logits at least; the process may take 220 MiB more in all."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(toy_bundle())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert "out of memory: going on with batches of 8 slices" in done.stdout
    assert "2 2 ('out of memory: batches were halved to" in done.stdout
