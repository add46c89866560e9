from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from autosam_deploy.benchmarks.harness.runners import Loading, Runner
from autosam_deploy.benchmarks.peers.plain import load_onnxruntime, load_openvino
from autosam_deploy.benchmarks.peers.pytorch import (
    load_autocast,
    load_eager,
    load_tf32,
    torch_device,
)
from autosam_deploy.benchmarks.peers.table import ALL_PEERS, KERNELS, PEERS
from autosam_deploy.errors import BackendUnavailableError, DeviceUnavailableError
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.spec import HeadKind


@pytest.fixture
def loading(exported: Callable[[HeadKind], Path]) -> Callable[..., Loading]:
    def build(backend: str, **fields: object) -> Loading:
        path = exported("autosam")
        return Loading(path, backend, device="cpu", threads=1, **fields)  # type: ignore[arg-type]

    return build


@pytest.fixture
def slices() -> np.ndarray:
    return np.random.default_rng(0).integers(-200, 900, (2, 1, 30, 41)).astype(np.float32)


def test_every_loader_is_there() -> None:
    for peer in ALL_PEERS.values():
        module, _, name = peer.loader.partition(":")
        assert callable(getattr(import_module(module), name))
    assert list(PEERS) == ["eager", "autocast", "compile", "onnx-plain"]


def test_eager_is_the_truth(loading: Callable[..., Loading], slices: np.ndarray) -> None:
    runner = load_eager(loading("eager"))
    with Engine.open(loading("x").bundle, backend="torch", device="cpu", threads=1) as engine:
        np.testing.assert_array_equal(runner.outputs(slices)["logits"], engine.logits(slices))
        np.testing.assert_array_equal(runner.labels(slices), engine.labels(slices))
    assert runner.info["backend"] == "eager"
    assert (runner.info["device"], runner.info["precision"]) == ("cpu", "fp32")
    assert runner.device_seconds() is None


def test_autocast_is_low_precision_and_close(
    loading: Callable[..., Loading], slices: np.ndarray
) -> None:
    runner = load_autocast(loading("autocast"))
    truth = load_eager(loading("eager")).outputs(slices)["logits"]
    found = runner.outputs(slices)["logits"]
    assert found.dtype == np.float32
    assert 0 < np.abs(found - truth).max() < 0.5
    assert runner.info["precision"] == "bf16"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Any graph from slices to labels; exporting one takes as long as all other tests."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("Squeeze", ["slices", "axis"], ["flat"]),
            helper.make_node("Greater", ["flat", "limit"], ["above"]),
            helper.make_node("Cast", ["above"], ["labels"], to=TensorProto.UINT8),
        ],
        "plain",
        [helper.make_tensor_value_info("slices", TensorProto.FLOAT, ["B", 1, "H", "W"])],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, ["B", "H", "W"])],
        [
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("limit", TensorProto.FLOAT, [], [100.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "plain.onnx")
    return tmp_path / "plain.onnx"


@pytest.mark.parametrize("load", [load_onnxruntime, load_openvino])
def test_plain_runs_what_it_is_given(
    loading: Callable[..., Loading],
    slices: np.ndarray,
    plain: Path,
    load: Callable[[Loading], Runner],
) -> None:
    runner = load(loading("plain", plain=plain))
    first = runner.labels(slices)
    np.testing.assert_array_equal(first, slices[:, 0] > 100)
    np.testing.assert_array_equal(runner.labels(-slices), slices[:, 0] < -100)
    np.testing.assert_array_equal(first, slices[:, 0] > 100)
    assert runner.outputs(slices).keys() == {"labels"}
    assert runner.info["artefact"] == "plain.onnx"
    assert runner.info["precision"] in ("fp32", "bf16")
    with pytest.raises(BackendUnavailableError, match="there is no plain export to load"):
        load(loading("plain"))


def test_tf32_is_no_precision_of_cpus(loading: Callable[..., Loading]) -> None:
    with pytest.raises(BackendUnavailableError, match="TF32 is a precision of NVIDIA GPUs"):
        load_tf32(loading("eager-tf32"))


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_need_a_gpu(loading: Callable[..., Loading], name: str) -> None:
    from autosam_deploy.benchmarks.peers.fused import load_kernels

    with pytest.raises(BackendUnavailableError, match="kernels run on NVIDIA GPUs; got cpu"):
        load_kernels(loading(name))


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert torch_device("auto") == torch_device("cpu") == "cpu"
    with pytest.raises(DeviceUnavailableError, match="torch has no CUDA device; got cuda:1"):
        torch_device("cuda:1")


def test_loading_travels_as_json(tmp_path: Path) -> None:
    whole = Loading(tmp_path, "b", "fp16", "cuda:0", 3, tmp_path / "f", tmp_path / "p.onnx")
    assert Loading.from_dict(whole.as_dict()) == whole
    assert Loading.from_dict(Loading(tmp_path, "b").as_dict()) == Loading(tmp_path, "b")
