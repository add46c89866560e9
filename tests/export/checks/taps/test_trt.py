"""Taps on TensorRT: the runner on a fake GPU, and builds of tapped graphs by the real RTX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import (
    BackendError,
    BundleError,
    DeviceUnavailableError,
    ExportError,
    OutOfMemoryError,
)
from autosam_deploy.export.checks.bisection import bisect_bundle
from autosam_deploy.export.checks.taps.graph import tapped_graph
from autosam_deploy.export.engines.build import build_tapped
from autosam_deploy.export.engines.network import parse_graph
from autosam_deploy.runtime.nvidia.cudart import probe_driver
from autosam_deploy.runtime.nvidia.families import make_logger

ORDER = (
    *("input", "encoder.patches", "encoder.blocks.0", "encoder.blocks.1", "encoder.blocks.2"),
    *("encoder.neck", "head", "output"),
)


@pytest.fixture
def with_engine(load_fake: Callable[[str], Any]) -> Callable[[Path], Path]:
    """Factory: adds an engine of the fake library, of the fp16 graph as it is then."""

    def add(folder: Path) -> Path:
        wide = {axis: (1, 16, 128) for axis in "BHW"}
        load_fake("engines").add_engine(folder, "fp16", profile=wide, workspace_bytes=1 << 20)
        return folder

    return add


@pytest.fixture
def engine_bundle(bundle_copy: Path, with_engine: Callable[[Path], Path]) -> Path:
    return with_engine(bundle_copy)


def bisect(folder: Path, **options: Any) -> Any:
    return bisect_bundle(Bundle.open(folder), backend="tensorrt", **options)


def test_a_sound_graph_agrees_everywhere(engine_bundle: Path, gpu: Any) -> None:
    result = bisect(engine_bundle)
    assert result.passed
    assert tuple(tap.name for tap in result.taps) == ORDER
    assert all(0 < tap.max_abs <= tap.tolerance for tap in result.taps)
    info = result.info
    assert (info.backend, info.device, info.precision) == ("tensorrt", "cuda:0", "fp16")
    assert info.artefact.endswith(".engine")
    assert result.artefact == "model.fp16.onnx"
    assert "an engine built here from 'model.fp16.onnx'" in info.notes[1]


def test_what_is_built(engine_bundle: Path, gpu: Any) -> None:
    bisect(engine_bundle)
    (config,) = gpu.builds
    golden = [case.slices for case in Bundle.open(engine_bundle).manifest.golden]
    assert golden
    (corners,) = config.profiles[0].corners.values()
    assert corners[0][1] == 1
    # The golden slices and nothing beyond: not the engine's own profile.
    assert corners[1] == corners[2]
    assert max(corners[2]) < 128
    assert config.tf32 is False
    assert config.capability[0].name == "SM89"
    assert config.limits == {"WORKSPACE": 1 << 20}


@pytest.mark.parametrize("block", ["encoder.blocks.0", "encoder.blocks.2"])
def test_the_block_at_fault_is_named(
    bundle_copy: Path,
    with_engine: Callable[[Path], Path],
    scale: Callable[..., None],
    gpu: Any,
    block: str,
) -> None:
    scale(bundle_copy, "model.fp16.onnx", f"{block}.expand.weight", 1.2)
    result = bisect(with_engine(bundle_copy))
    assert result.first_bad == block
    before = ORDER.index(block)
    assert all(tap.passed for tap in result.taps[:before])


def test_without_the_graph_there_is_nothing_to_tap(engine_bundle: Path, gpu: Any) -> None:
    bundle = Bundle.open(engine_bundle)
    kept = tuple(a for a in bundle.manifest.artefacts if (a.kind, a.precision) != ("onnx", "fp16"))
    slim = Bundle(engine_bundle, bundle.manifest.model_copy(update={"artefacts": kept}), "")
    with pytest.raises(BundleError, match=r"without its fp16 graph.*export it again"):
        bisect_bundle(slim, backend="tensorrt")


def test_devices_that_are_not_there(engine_bundle: Path, gpu: Any) -> None:
    with pytest.raises(DeviceUnavailableError, match="runs on NVIDIA GPUs"):
        bisect(engine_bundle, device="cpu")
    gpu.devices = 0
    with pytest.raises(DeviceUnavailableError, match="device"):
        bisect(engine_bundle)


@pytest.mark.skipif(probe_driver().devices > 0, reason="this machine has a GPU")
def test_a_machine_without_a_gpu_says_so(engine_bundle: Path) -> None:
    with pytest.raises(BackendError, match=r"driver|device|cuda"):
        bisect(engine_bundle)


def test_a_build_that_fails_says_why(engine_bundle: Path, gpu: Any) -> None:
    gpu.refuse_build = "no implementation for node X"
    with pytest.raises(ExportError, match=r"built no engine for sm89; got no implementation for"):
        bisect(engine_bundle)


def test_full_devices_and_failing_runs(engine_bundle: Path, gpu: Any) -> None:
    # The fixture checks that nothing is left on the device in any of these.
    gpu.refuse_run = "misaligned address"
    with pytest.raises(BackendError, match="misaligned address"):
        bisect(engine_bundle)
    gpu.refuse_run, gpu.most_slices = "", 0
    with pytest.raises(OutOfMemoryError, match="OutOfMemory"):
        bisect(engine_bundle)
    gpu.most_slices, gpu.refuse_context = 100, True
    with pytest.raises(BackendError, match="makes no execution context"):
        bisect(engine_bundle)


def test_an_engine_of_another_shape_is_not_trusted(engine_bundle: Path, gpu: Any) -> None:
    gpu.output_shapes = {"encoder.neck": (1, 2, 3, 4)}
    with pytest.raises(BackendError, match=r"gives 'encoder.neck' another shape"):
        bisect(engine_bundle)


@pytest.mark.trt
def test_the_real_library_builds_a_tapped_graph(bundle_copy: Path) -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    bundle = Bundle.open(bundle_copy)
    graph = bundle.find("onnx", "fp16")
    assert graph is not None
    names = ("input", "encoder.patches", "encoder.blocks.1", "head", "output")
    with tapped_graph(bundle, graph, names) as (path, values):
        plan, outputs = build_tapped(
            rtx,
            family="tensorrt_rtx",
            graph=path,
            source=bundle.manifest.model.input_tensor,
            capability=89,
            profile={"B": (1, 2, 2), "H": (31, 40, 40), "W": (31, 48, 48)},
            workspace_bytes=None,
        )
        logger = make_logger(rtx)
        network, parser = parse_graph(rtx, builder=rtx.Builder(logger), logger=logger, path=path)
        found = {
            tensor.name: (tensor.dtype.name, tuple(tensor.shape))
            for tensor in map(network.get_output, range(network.num_outputs))
        }
    del parser
    assert len(plan) > 100_000
    assert set(values.values()) <= set(outputs)
    assert found["encoder.blocks.1"] == ("HALF", (-1, 6, 6, 48))
    assert found["input"] == ("FLOAT", (-1, 1, 48, 48))
    assert found["logits"] == ("FLOAT", (-1, 3, -1, -1))
