from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from autosam_deploy.errors import BackendError, DeviceUnavailableError
from autosam_deploy.runtime.providers import (
    PROVIDERS,
    cuda_devices,
    import_onnxruntime,
    open_session,
    placement,
    work_on_cpu,
)

without_gpu = pytest.mark.skipif(cuda_devices() > 0, reason="this machine has a GPU")


class FakeOptions:
    """Records what is set on it."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.engaged: list[Any] = []

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value

    def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
        self.engaged.append((devices, options))


def part(provider: str, *operators: str) -> SimpleNamespace:
    nodes = [SimpleNamespace(op_type=name) for name in operators]
    return SimpleNamespace(ep_name=PROVIDERS[provider], get_nodes=lambda: nodes)


def fake_ort(engaged: str, *parts: SimpleNamespace) -> tuple[Any, list[dict[str, Any]]]:
    """Stands for an ONNX Runtime with a GPU: sessions that report `engaged` and `parts`."""
    calls: list[dict[str, Any]] = []

    def create(path: str, options: FakeOptions, **fields: Any) -> Any:
        calls.append({"path": path, "options": options, **fields})
        return SimpleNamespace(
            get_providers=lambda: [PROVIDERS[engaged], PROVIDERS["cpu"]],
            get_provider_graph_assignment_info=lambda: list(parts),
        )

    module = SimpleNamespace(
        SessionOptions=FakeOptions,
        ExecutionMode=SimpleNamespace(ORT_SEQUENTIAL="sequential"),
        InferenceSession=create,
        preload_dlls=lambda: None,
        set_default_logger_severity=lambda level: None,
        __file__="/nowhere/__init__.py",
    )
    return module, calls


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_gpu_session_is_asked_for_strictly(provider: str) -> None:
    ort, calls = fake_ort(provider, part(provider, "Conv"), part("cpu", "Shape", "Gather"))
    session = open_session(ort, Path("m.onnx"), provider=provider, index=1, threads=2)
    (call,) = calls
    assert call["enable_fallback"] == 0
    assert call["options"].intra_op_num_threads == 2
    assert call["options"].inter_op_num_threads == 1
    # This entry would refuse every graph that computes a shape.
    assert "session.disable_cpu_ep_fallback" not in call["options"].entries
    names = [name for name, _ in call["providers"]]
    assert names == [PROVIDERS[p] for p in dict.fromkeys((provider, "cuda"))]
    assert all(options["device_id"] == "1" for _, options in call["providers"])
    assert dict(call["providers"])[PROVIDERS["cuda"]]["use_tf32"] == "0"
    assert work_on_cpu(session) == {"Shape": 1, "Gather": 1}


def test_session_that_fell_back_is_refused() -> None:
    ort, _ = fake_ort("cpu", part("cpu", "Conv"))
    with pytest.raises(DeviceUnavailableError, match="did not engage CUDAExecutionProvider"):
        open_session(ort, Path("m.onnx"), provider="cuda", index=0, threads=1)


def test_model_left_to_the_cpu_is_refused() -> None:
    ort, _ = fake_ort("cuda", part("cuda", "Conv"), part("cpu", "Shape", "Softmax", "MatMul"))
    with pytest.raises(DeviceUnavailableError, match="to the CPU; got MatMul, Softmax"):
        open_session(ort, Path("m.onnx"), provider="cuda", index=0, threads=1)


def test_old_runtime_cannot_tell_the_placement() -> None:
    assert work_on_cpu(SimpleNamespace()) == {}


@without_gpu
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_real_provider_without_a_gpu_is_one_quiet_error(
    toy_bundle: Callable[..., Path], provider: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime alone prints, falls back to the CPU and goes on."""
    ort = import_onnxruntime()
    if PROVIDERS[provider] not in ort.get_available_providers():
        pytest.skip("an ONNX Runtime without GPU providers")
    graph = toy_bundle() / "model.fp32.onnx"
    with pytest.raises(DeviceUnavailableError, match=rf"{PROVIDERS[provider]}; got ") as caught:
        open_session(ort, graph, provider=provider, index=0, threads=1)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_rtx_is_engaged_by_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    ort, calls = fake_ort("rtx", part("rtx", "Conv", "Softmax"), part("cpu", "Shape"))
    monkeypatch.setattr("autosam_deploy.runtime.providers.rtx_device", lambda ort, index: index)
    hints = {"nv_runtime_cache_path": "somewhere"}
    session = open_session(ort, Path("m.onnx"), provider="rtx", index=1, threads=2, hints=hints)
    (call,) = calls
    assert call["options"].engaged == [([1], hints)]
    assert (call["providers"], call["enable_fallback"]) == (None, 0)
    assert placement(session) == {PROVIDERS["rtx"]: 2, PROVIDERS["cpu"]: 1}


def test_rtx_that_leaves_the_model_to_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ort, _ = fake_ort("rtx", part("rtx", "Conv"), part("cpu", "Resize"))
    monkeypatch.setattr("autosam_deploy.runtime.providers.rtx_device", lambda ort, index: index)
    with pytest.raises(DeviceUnavailableError, match=r"NvTensorRTRTX\w+ left work .*got Resize"):
        open_session(ort, Path("m.onnx"), provider="rtx", index=0, threads=1)


def test_hints_are_for_tensorrt_alone() -> None:
    ort, calls = fake_ort("tensorrt", part("tensorrt", "Conv"))
    hints = {"trt_engine_cache_enable": "1"}
    open_session(ort, Path("m.onnx"), provider="tensorrt", index=1, threads=2, hints=hints)
    options = dict(calls[0]["providers"])
    assert options[PROVIDERS["tensorrt"]] == {"device_id": "1", **hints}
    assert "trt_engine_cache_enable" not in options[PROVIDERS["cuda"]]


@without_gpu
def test_reason_names_the_missing_library(toy_bundle: Callable[..., Path]) -> None:
    ort = import_onnxruntime()
    if PROVIDERS["cuda"] not in ort.get_available_providers():
        pytest.skip("an ONNX Runtime without GPU providers")
    with pytest.raises(DeviceUnavailableError, match=r"got lib\w+\.so.*: cannot open shared"):
        open_session(ort, toy_bundle() / "model.fp32.onnx", provider="cuda", index=0, threads=1)


def test_graph_that_is_newer_than_the_runtime(toy_bundle: Callable[..., Path]) -> None:
    path = toy_bundle() / "model.fp32.onnx"
    model = onnx.load(path)
    model.opset_import[0].version = 99
    onnx.save(model, path)
    with pytest.raises(BackendError, match=r"no operators of that opset; got ONNX Runtime 1"):
        open_session(import_onnxruntime(), path, provider="cpu", index=0, threads=1)


def test_graph_that_is_no_graph(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # The path is in what ONNX Runtime says, and is no reason.
    tmp_path = tmp_path / "opset"
    tmp_path.mkdir()
    (tmp_path / "m.onnx").write_text("x")
    with pytest.raises(BackendError, match=r"cannot load 'm.onnx'; got .*Protobuf parsing failed"):
        open_session(import_onnxruntime(), tmp_path / "m.onnx", provider="cpu", index=0, threads=1)
    assert capfd.readouterr() == ("", "")


def test_no_driver_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", absent)
    assert cuda_devices() == 0


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (100, 0)])
def test_driver_without_device(monkeypatch: pytest.MonkeyPatch, code: int, expected: int) -> None:
    """The driver's library is there in containers that were given no GPU."""
    driver = SimpleNamespace(cuInit=lambda _: code, cuDeviceGetCount=lambda _: 0)
    monkeypatch.setattr("ctypes.CDLL", lambda name: driver)
    assert cuda_devices() == expected
