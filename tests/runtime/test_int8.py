"""int8 graphs in both backends that run them: only when asked for, and really in integers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError, DeviceUnavailableError
from autosam_deploy.runtime import ort as ort_backend
from autosam_deploy.runtime import ov, ov_model
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.ov import OvBackend
from autosam_deploy.spec import HeadKind
from autosam_deploy.volumes.phantom import make_phantom

pytest.importorskip("onnxruntime.quantization")
BACKENDS = ["onnxruntime", "openvino"]
_CPUINFO = Path("/proc/cpuinfo")
#: Without it sums of two products saturate in 16 bits (docs/cpu.md): integers are then off.
HAS_VNNI = not _CPUINFO.is_file() or bool(
    re.search(r"\b(?:avx512_vnni|avx_vnni|asimddp)\b", _CPUINFO.read_text("utf-8"))
)
needs_vnni = pytest.mark.skipif(not HAS_VNNI, reason="this CPU has no VNNI")


@pytest.fixture
def bundle(int8_bundle: Path) -> Path:
    return int8_bundle


def opened(path: Path, backend: str, **options: Any) -> Engine:
    pytest.importorskip(backend)
    return Engine.open(path, **{"backend": backend, "device": "cpu", "threads": 1, **options})


def slices() -> np.ndarray:
    return make_phantom(5, shape=(2, 40, 48))[0].array[:, None].astype(np.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_int8_is_only_for_those_who_ask(bundle: Path, backend: str) -> None:
    with opened(bundle, backend) as plain, opened(bundle, backend, precision="int8") as engine:
        assert (plain.info.precision, engine.info.precision) == ("fp32", "int8")
        assert engine.info.artefact == "model.int8.onnx"
        assert "int8 was asked for" in engine.info.reason
        assert "slower" not in engine.info.reason
        assert not np.array_equal(plain.logits(slices()), engine.logits(slices()))


@needs_vnni
@pytest.mark.parametrize("backend", BACKENDS)
def test_integers_are_near_float32(bundle: Path, backend: str) -> None:
    with opened(bundle, backend) as plain, opened(bundle, backend, precision="int8") as engine:
        first, second = plain.logits(slices()), engine.logits(slices())
    assert 0 < np.abs(first - second).max() < 0.2 * np.abs(first).max()


def test_the_graph_is_near_float32_on_any_cpu(bundle: Path) -> None:
    """Nothing merged, its integers are computed in float32: no CPU can overflow."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        str(bundle / "model.int8.onnx"), options, providers=["CPUExecutionProvider"]
    )
    (second,) = session.run(["logits"], {"slices": slices()})
    with opened(bundle, "onnxruntime") as plain:
        first = plain.logits(slices())
    assert 0 < np.abs(first - second).max() < 0.2 * np.abs(first).max()


def test_both_backends_agree(bundle: Path) -> None:
    with (
        opened(bundle, "onnxruntime", precision="int8") as one,
        opened(bundle, "openvino", precision="int8") as other,
        opened(bundle, "onnxruntime") as plain,
    ):
        first, second, truth = (engine.logits(slices()) for engine in (one, other, plain))
    assert np.abs(first - second).max() < 2 * np.abs(first - truth).max()


def test_onnxruntime_multiplies_integers(bundle: Path, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(bundle / "model.int8.onnx", options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    layers = 6 * Bundle.open(bundle).manifest.model.encoder.depth
    assert kinds.count("QLinearMatMul") == layers


@pytest.mark.parametrize("rest", ["fp32", "bf16"])
def test_openvino_multiplies_integers(bundle: Path, rest: str) -> None:
    openvino = pytest.importorskip("openvino")
    if rest == "bf16" and "BF16" not in openvino.Core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        pytest.skip("this CPU has no bf16")
    with opened(bundle, "openvino", precision="int8", options={"rest": rest}) as engine:
        engine.logits(slices())
        assert isinstance(engine.backend, OvBackend)
        found = set().union(*engine.backend.chain.precisions())
        assert f"int8 in the encoder's linear layers, the rest in {rest}" in engine.info.notes
        told = "the bundle's parity record covers int8 with the rest in fp32"
        assert (told in engine.info.notes) == (rest == "bf16")
    assert ("FullyConnected", "u8") in found
    assert ("Convolution", "f32" if rest == "fp32" else "bf16") in found


def test_openvino_that_computes_in_floats_is_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(ov_model, "_layers", lambda compiled: [("FullyConnected", "f32")] * 99)
    with pytest.raises(BackendError, match=r"all quantized layers in integers; got 0 of \d+"):
        opened(bundle, "openvino", precision="int8")


def test_cpu_without_int8(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(ov, "_processor", lambda module: ("An old CPU", ["FP32"]))
    with pytest.raises(DeviceUnavailableError, match="no int8 arithmetic; got An old CPU"):
        opened(bundle, "openvino", precision="int8")
    monkeypatch.setattr(ov, "_processor", lambda module: ("A CPU", ["FP32", "INT8"]))
    with pytest.raises(DeviceUnavailableError, match=r"no bf16 arithmetic.*leave out rest=bf16"):
        opened(bundle, "openvino", precision="int8", options={"rest": "bf16"})


@pytest.mark.parametrize("backend", BACKENDS)
def test_bundle_without_an_int8_graph(exported: Callable[[HeadKind], Path], backend: str) -> None:
    with pytest.raises(BackendError, match=r"no int8 graph; got graphs in fp32, fp16; add one"):
        opened(exported("linear"), backend, precision="int8")


def test_int8_on_a_gpu_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ort_backend.OrtBackend, "_choose_provider", lambda self, ort, request: ("cuda", 0, "")
    )
    with pytest.raises(BackendError, match="int8 graphs are for CPUs; got a GPU provider"):
        Engine.open(bundle, backend="onnxruntime", precision="int8")


def test_torch_has_no_int8(bundle: Path) -> None:
    with pytest.raises(BackendError, match="int8"):
        opened(bundle, "torch", precision="int8")
