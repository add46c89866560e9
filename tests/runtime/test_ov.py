from __future__ import annotations

import importlib
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import (
    BackendError,
    BackendUnavailableError,
    DeviceUnavailableError,
    OutOfMemoryError,
)
from autosam_deploy.parity import compare, reference_of
from autosam_deploy.runtime import ov, ov_model
from autosam_deploy.runtime.backend import Request
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.ov import OvBackend, OvOptions
from autosam_deploy.spec import HEAD_KINDS, HeadKind

openvino = pytest.importorskip("openvino")

Exported = Callable[[HeadKind], Path]
ToyBundle = Callable[..., Path]
SLICES = np.linspace(-3, 5, 2 * 5 * 7, dtype=np.float32).reshape(2, 1, 5, 7)
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16")


def open_ov(bundle: Bundle | Path, **options: Any) -> Engine:
    return Engine.open(bundle, backend="openvino", **{"device": "cpu", "threads": 1, **options})


def chain_of(engine: Engine) -> ov_model.Chain:
    assert isinstance(engine.backend, OvBackend)
    return engine.backend.chain


def waves(offset: float = 0.0) -> np.ndarray:
    """A batch (2, 1, 40, 56) of smooth slices with values from offset to offset + 100."""
    rows, columns = np.mgrid[:40, :56] / 40
    image = np.sin(6 * columns) * np.cos(5 * rows)
    return (np.stack([image, image[::-1]])[:, None] * 50 + 50 + offset).astype(np.float32)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_float32_is_pinned(exported: Exported, precision: str) -> None:
    """OpenVINO's own default is bf16 on CPUs that have it."""
    with open_ov(exported("linear"), precision=precision) as engine:
        engine.logits(waves())
        (found,) = chain_of(engine).precisions()
        assert engine.info.precision == "fp32"
    assert not {kind for kind, dtype in found if dtype in ("bf16", "f16")}
    assert {dtype for kind, dtype in found if kind == "FullyConnected"} == {"f32"}


@needs_bf16
def test_bf16_where_it_belongs(exported: Exported) -> None:
    with open_ov(exported("autosam"), precision="bf16") as engine:
        engine.logits(waves())
        front, middle, tail = chain_of(engine).precisions()
        assert engine.info.precision == "bf16"
        assert engine.info.artefact == "model.fp32.onnx"
        assert "bf16 was asked for" in engine.info.reason
        assert "parity record does not cover it" in engine.info.notes[-1]
    heavy = {"Convolution", "FullyConnected", "MatMul"}
    assert {dtype for kind, dtype in middle if kind == "FullyConnected"} == {"bf16"}
    for part in (front, tail):
        assert not {kind for kind, _ in part} & heavy
        assert "bf16" not in {dtype for _, dtype in part}
    assert "Reduce" in {kind for kind, _ in front}
    assert "TopK" in {kind for kind, _ in tail}


@needs_bf16
@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_bf16_errs_no_more_than_plain_pytorch(exported: Exported, kind: HeadKind) -> None:
    import torch
    from safetensors.torch import load_file

    from autosam_deploy.fused.rounding import run_rounded
    from autosam_deploy.models.segmenter import Segmenter

    bundle = Bundle.open(exported(kind), verify=False)
    segmenter = Segmenter(bundle.manifest.model).eval()
    segmenter.load_state_dict(load_file(bundle.path / "weights.safetensors"), strict=True)
    rng = np.random.default_rng(3)
    batches = [waves(), waves(900.0), rng.integers(-300, 1900, (2, 1, 33, 71)).astype(np.float32)]
    with torch.inference_mode():
        truth = [segmenter(torch.from_numpy(batch)).numpy() for batch in batches]
    tensors = [torch.from_numpy(batch) for batch in batches]
    plain = [run_rounded(segmenter, batch, torch.bfloat16).numpy() for batch in tensors]
    with open_ov(bundle, precision="bf16") as engine:
        outputs = [engine.outputs(batch) for batch in batches]
    reference = reference_of("rounded", plain, truth)
    found = compare(outputs, truth, artefact="openvino", precision="bf16", reference=reference)
    assert found.passed, found.detail
    assert found.required_tolerance is not None
    # Else float32 was run.
    assert found.required_tolerance > reference.max_error / 100


@needs_bf16
def test_bf16_keeps_faint_contrast_on_a_large_offset(exported: Exported) -> None:
    """In bf16 31000 to 31100 are two values; normalisation must come before rounding."""
    with open_ov(exported("linear"), precision="bf16") as engine:
        near, far = engine.logits(waves()), engine.logits(waves(31000.0))
    spread = float(near.max() - near.min())
    assert np.abs(near - far).max() < 0.05 * spread


@needs_bf16
def test_results_in_bf16_belong_to_the_caller(exported: Exported) -> None:
    with open_ov(exported("cnn"), precision="bf16") as engine:
        first = engine.outputs(waves())
        kept = {name: array.copy() for name, array in first.items()}
        engine.outputs(waves()[::-1])
        again = engine.outputs(waves())
        for name, array in first.items():
            assert (array == kept[name]).all()
            assert (again[name] == kept[name]).all()
        assert (first["labels"] == first["logits"].argmax(axis=1)).all()
        for shape in ((1, 7, 5), (3, 64, 64), (2, 1, 30), (1, 1, 1)):
            assert engine.labels(np.ones(shape)).shape == shape


def test_bf16_on_a_cpu_without(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ov, "_processor", lambda library: ("Old CPU", ["FP32", "INT8"]))
    with pytest.raises(
        DeviceUnavailableError, match=r"no bf16 arithmetic; got Old CPU with FP32, INT8; expected"
    ):
        open_ov(exported("linear"), precision="bf16")
    with open_ov(exported("linear")) as engine:
        assert engine.info.precision == "fp32"


@needs_bf16
def test_precision_that_openvino_did_not_take(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU may turn one hint into another precision without a word."""
    monkeypatch.setitem(ov_model.HINTS, "fp32", "bf16")
    with pytest.raises(BackendError, match=r"did not take the precision; got \w+; expected fp32"):
        open_ov(exported("linear"))


@needs_bf16
def test_graph_without_normalisation_is_refused_in_bf16(toy_bundle: ToyBundle) -> None:
    with pytest.raises(BackendError, match="cannot run in bf16; got no normalisation"):
        open_ov(toy_bundle(), precision="bf16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "no fp16 on CPUs, .*; got fp16; expected auto, fp32, bf16 or int8"),
        ({"precision": "int4"}, "unknown precision; got 'int4'; expected auto, fp32, bf16 or int8"),
        ({"provider": "cuda"}, "belong to backend 'onnxruntime'; got provider cuda"),
        ({"device": "cuda"}, "runs on CPUs; got device cuda; expected auto or cpu; use backend"),
        ({"device": "cuda:1"}, "runs on CPUs; got device cuda:1"),
    ],
)
def test_what_it_cannot_do(toy_bundle: ToyBundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        open_ov(toy_bundle(), **options)


def test_without_openvino(toy_bundle: ToyBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def absent(name: str) -> ModuleType:
        if name.startswith("openvino"):
            raise ImportError("No module named 'openvino'")
        return real(name)

    monkeypatch.setattr("autosam_deploy.extras.importlib.import_module", absent)
    with pytest.raises(
        BackendUnavailableError, match=r"needs the package 'openvino'; .*\[openvino"
    ):
        open_ov(toy_bundle())


def test_bundle_without_a_float32_graph(toy_bundle: ToyBundle) -> None:
    with pytest.raises(BackendError, match=r"no fp32 graph, .*; got graphs in fp16; export again"):
        open_ov(toy_bundle(precisions=("fp16",)))


@pytest.mark.parametrize("content", [b"", b"text" * 100, None], ids=["empty", "text", "cut"])
def test_broken_graph(
    toy_bundle: ToyBundle, content: bytes | None, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = Bundle.open(toy_bundle())
    graph = bundle.path / "model.fp32.onnx"
    graph.write_bytes(graph.read_bytes()[:-40] if content is None else content)
    with pytest.raises(BackendError, match=r"OpenVINO cannot|contradicts the man") as caught:
        open_ov(bundle)
    assert len(str(caught.value).splitlines()) == 1
    assert capfd.readouterr().err == ""


def test_weights_beside_the_graph_but_not_elsewhere(toy_bundle: ToyBundle) -> None:
    path = toy_bundle(external=True)
    with open_ov(path) as engine:
        np.testing.assert_allclose(engine.logits(SLICES)[:, 2], SLICES[:, 0] - 2, atol=1e-6)
    bundle = Bundle.open(path)
    (path.parent / "outside.data").write_bytes((path / "model.fp32.onnx.data").read_bytes())
    model = onnx.load(path / "model.fp32.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../outside.data"
    (path / "model.fp32.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BackendError, match=r"cannot read 'model.fp32.onnx'; got .*outside"):
        open_ov(bundle)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"rename": "image"}, "'image', 'float32'"),
        ({"labels_type": TensorProto.INT64}, "'labels', 'i64'"),
        ({"width": 7}, r"'slices', 'float32', \('\?', 1, '\?', 7\)"),
        ({"outputs": ("logits",), "claimed": ("labels", "logits")}, "'logits', 'float32'"),
        ({"outputs": ("logits", "labels"), "claimed": ("labels", "logits")}, "'logits', 'float32'"),
    ],
)
def test_graph_that_contradicts_the_manifest(
    toy_bundle: ToyBundle, fields: dict[str, Any], found: str
) -> None:
    fields = {"claimed": fields.get("outputs", ("labels", "logits")), **fields}
    with pytest.raises(BackendError, match=rf"contradicts the manifest; got \[.*{found}"):
        open_ov(toy_bundle(**fields))


def test_threads_and_stream_are_explicit(
    toy_bundle: ToyBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ov, "usable_cores", lambda: 1)
    with open_ov(toy_bundle(), threads=None) as engine:
        (compiled,) = chain_of(engine)._compiled
        words = ("INFERENCE_NUM_THREADS", "NUM_STREAMS", "PERFORMANCE_HINT", "ENABLE_CPU_PINNING")
        found = [compiled.get_property(word) for word in words]
        assert engine.info.threads == 1
    assert [str(value) for value in found] == ["1", "1", "LATENCY", "False"]


def test_threads_beyond_the_machine_are_told(toy_bundle: ToyBundle) -> None:
    with open_ov(toy_bundle(), threads=4096) as engine:
        assert engine.info.threads <= (os.cpu_count() or 1)
        assert engine.info.notes == (
            f"4096 threads were asked for, OpenVINO takes {engine.info.threads}",
        )


def open_cached(path: Path, cache: Path) -> OvBackend:
    request = Request(device="cpu", threads=1)
    return OvBackend(Bundle.open(path), request, options=OvOptions(cache=cache))


def test_cache_holds_one_folder_for_graph_version_and_precision(
    exported: Exported, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    first, second = (open_cached(exported("linear"), cache) for _ in range(2))
    (folder,) = cache.iterdir()
    artefact = first.bundle.find("onnx", "fp32")
    assert artefact is not None
    version = first.info.versions["openvino"]
    assert folder.name.startswith(f"{artefact.file.sha256[:16]}-openvino-{version}-")
    assert folder.name.endswith("-fp32")
    assert first.info.notes == (f"cache of compiled models '{folder}' (filled)",)
    assert second.info.notes == (f"cache of compiled models '{folder}' (used)",)
    logits = [one.run(waves(), ("logits",))["logits"] for one in (first, second)]
    for one in (first, second):
        one.close()
    (blob,) = folder.iterdir()
    blob.unlink()
    blob.write_bytes(b"not a model" * 1000)
    third = open_cached(exported("linear"), cache)
    assert third.info.notes == first.info.notes
    logits.append(third.run(waves(), ("logits",))["logits"])
    # A model that is read has other kernels than one that is compiled, so it rounds otherwise.
    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=1e-5)
    assert (logits[0] == logits[2]).all()


def test_cache_that_cannot_be_made_is_told(toy_bundle: ToyBundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    backend = open_cached(toy_bundle(), tmp_path / "file")
    (note,) = backend.info.notes
    assert note.startswith("no cache of compiled models (")
    assert "Not a directory" in note
    assert backend.run(SLICES, ("labels",))["labels"].shape == (2, 5, 7)


def test_read_only_slices_and_writable_results(toy_bundle: ToyBundle) -> None:
    frozen = SLICES.copy()
    frozen.flags.writeable = False
    with open_ov(toy_bundle()) as engine:
        engine.logits(frozen)[:] = 0
        assert (engine.labels(frozen) == engine.labels(SLICES)).all()
    assert (frozen == SLICES).all()


def test_closing_frees(toy_bundle: ToyBundle) -> None:
    engine = open_ov(toy_bundle())
    engine.labels(SLICES)
    freed = weakref.ref(chain_of(engine)._compiled[0])
    assert freed() is not None
    engine.close()
    assert freed() is None


def test_failure_of_the_runtime_is_one_line(
    toy_bundle: ToyBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ov(toy_bundle()) as engine:
        with pytest.raises(BackendError, match=r"OpenVINO failed; got .*shape"):
            engine.backend._run(np.zeros((1, 2, 5, 7), np.float32), ("labels",))
        assert engine.labels(SLICES).shape == (2, 5, 7)


SCRIPT = """
import logging, resource, sys
import numpy as np
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.volumes.volume import Geometry, Volume

logging.basicConfig(stream=sys.stdout, format="%(message)s")
engine = Engine.open(sys.argv[1], backend="openvino", threads=1)
engine.labels(np.zeros((1, 8, 8), np.float32))
array = np.full((16, 1024, 1024), 3, np.float32)
unit = Geometry((1.0,) * 3, (0.0,) * 3, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
volume = Volume(array, unit, "big")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20),) * 2)
found = engine.segment(volume, axis="k", batch=16).array
sys.stdout.write(f"{found.min()} {found.max()} {engine.info.notes}")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own address space")
def test_memory_that_really_runs_out(toy_bundle: ToyBundle) -> None:
    """16 slices need 64 MiB of input, 192 MiB of logits and as much between: over 400 MiB.

    OpenVINO 2026.4 gives no error then but the results of an earlier run.
    """
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(toy_bundle())],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    assert "out of memory: going on with batches of 8 slices" in done.stdout
    assert "2 2 ('out of memory: batches were halved to" in done.stdout


def test_nothing_instead_of_results_is_a_full_memory(toy_bundle: ToyBundle) -> None:
    """A smaller batch then runs, on a model that was loaded again."""
    with open_ov(toy_bundle()) as engine:
        before = chain_of(engine)
        real = before._compiled[0]

        class Silent:
            """A compiled model and its request: takes everything, gives nothing."""

            inputs, outputs = real.inputs, real.outputs

            def create_infer_request(self) -> Silent:
                return self

            def infer(self, *args: Any, **kwargs: Any) -> dict[Any, np.ndarray]:
                return dict.fromkeys(self.outputs, np.zeros((0, 0, 0), np.uint8))

        before._compiled[0] = Silent()
        with pytest.raises(OutOfMemoryError, match=r"batch of 2 slices .* an empty 'labels'"):
            engine.labels(SLICES)
        assert engine.labels(SLICES).shape == (2, 5, 7)
        assert chain_of(engine) is not before
