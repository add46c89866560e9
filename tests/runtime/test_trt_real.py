"""The real libraries: refusals where there is no GPU, real runs (`gpu`) where there is one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError, BackendUnavailableError, DeviceUnavailableError
from autosam_deploy.runtime.backend import Request
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.nvidia.choice import Choice
from autosam_deploy.runtime.nvidia.cudart import open_device, probe_driver
from autosam_deploy.runtime.nvidia.families import (
    FAMILIES,
    library_version,
    load_family,
    make_logger,
    this_platform,
)
from autosam_deploy.runtime.nvidia.plan import load_plan
from autosam_deploy.runtime.selftest import run_golden
from autosam_deploy.runtime.trt import TrtBackend, TrtOptions

pytestmark = pytest.mark.trt

WithEngine = Callable[..., Path]
PROFILE = {"B": (1, 2, 4), "H": (5, 32, 64), "W": (5, 32, 64)}

without_driver = pytest.mark.skipif(probe_driver().devices > 0, reason="this machine has a GPU")


def library(name: str) -> Any:
    try:
        return load_family(name)
    except BackendUnavailableError as error:
        pytest.skip(str(error))


def build_plan(module: Any, graph: Path, *, capability: str | None) -> bytes:
    """Build a plan of a graph, with the library alone; None builds for the device that is here."""
    logger = make_logger(module)
    builder = module.Builder(logger)
    network = builder.create_network(0)
    parser = module.OnnxParser(network, logger)
    assert parser.parse_from_file(str(graph)), parser.get_error(0)
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    sizes = [(PROFILE["B"][at], 1, PROFILE["H"][at], PROFILE["W"][at]) for at in range(3)]
    profile.set_shape("slices", *sizes)
    config.add_optimization_profile(profile)
    if module.__name__ == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(module.ComputeCapability.__members__[capability], 0)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, logger.errors()
    return bytes(memoryview(plan))


@pytest.fixture
def rtx_bundle(toy_bundle: Callable[..., Path], with_engine: WithEngine) -> Path:
    """A bundle with an engine that the real library built, for sm89."""
    module = library("tensorrt_rtx")
    folder = toy_bundle(precisions=("fp32", "fp16"))
    plan = build_plan(module, folder / "model.fp16.onnx", capability="SM89")
    with_engine(
        folder,
        plan=plan,
        profile=PROFILE,
        version=library_version(module),
        platform=this_platform(),
    )
    return folder


@without_driver
def test_no_driver_is_one_quiet_line(rtx_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    with pytest.raises(
        DeviceUnavailableError,
        match=r"^device 'cuda:0' is not there; got 0 usable CUDA devices \(.*driver.*\); check",
    ):
        Engine.open(rtx_bundle, backend="tensorrt")
    assert capfd.readouterr() == ("", "")


@without_driver
@pytest.mark.parametrize("ending", ["whole", "half", "none"])
def test_library_that_cannot_load_a_plan_says_why(
    rtx_bundle: Path, ending: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is asked behind the backend's back, which asks the driver first."""
    capfd.readouterr()
    bundle = Bundle.open(rtx_bundle)
    artefact = bundle.find("engine")
    assert artefact is not None
    assert artefact.engine is not None
    content = (rtx_bundle / artefact.file.path).read_bytes()
    plan = {"whole": content, "half": content[: len(content) // 2], "none": b"no plan"}[ending]
    choice = Choice(artefact, artefact.engine, library("tensorrt_rtx"), "", "")
    manifest = bundle.manifest
    with pytest.raises(
        BackendError, match=r"TensorRT-RTX (refuses|cannot load) 'engines/\S+'; got"
    ):
        load_plan(
            choice, plan, inputs=manifest.inputs, outputs=manifest.outputs, bundle=str(rtx_bundle)
        )
    assert capfd.readouterr() == ("", "")


def test_every_name_that_is_used_is_in_the_real_library() -> None:
    """The fake has them by definition; this holds it against the library."""
    module = library("tensorrt_rtx")
    wanted = {
        "ICudaEngine": "num_io_tensors num_optimization_profiles get_tensor_name get_tensor_mode "
        "get_tensor_dtype get_tensor_shape get_tensor_profile_shape create_execution_context "
        "create_runtime_config",
        "IExecutionContext": "set_input_shape infer_shapes get_tensor_shape set_tensor_address "
        "update_device_memory_size_for_shapes set_device_memory execute_async_v3",
        "IRuntimeConfig": "set_execution_context_allocation_strategy create_runtime_cache "
        "set_runtime_cache cuda_graph_strategy",
        "IRuntimeCache": "serialize deserialize",
        "Runtime": "deserialize_cuda_engine get_engine_validity",
        "ExecutionContextAllocationStrategy": "USER_MANAGED",
        "CudaGraphStrategy": "WHOLE_GRAPH_CAPTURE",
        "EngineValidity": "INVALID SUBOPTIMAL",
        "TensorIOMode": "INPUT",
        "DataType": "FLOAT HALF UINT8",
    }
    for kind, names in wanted.items():
        assert [n for n in names.split() if not hasattr(getattr(module, kind), n)] == []


def test_every_call_that_is_used_is_in_the_real_cuda(gpu: Any, monkeypatch: Any) -> None:
    fake = open_device(0).api
    monkeypatch.undo()
    real = pytest.importorskip("cuda.bindings.runtime")
    calls = [name for name in vars(fake) if not name.startswith("__")]
    assert len(calls) > 20
    assert [name for name in calls if not hasattr(real, name)] == []
    for kind in ("cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode"):
        members = vars(getattr(fake, kind))
        used = [name for name in members if name.startswith("cuda")]
        assert used
        assert [name for name in used if not hasattr(getattr(real, kind), name)] == []


@pytest.fixture(params=FAMILIES)
def device_bundle(
    request: pytest.FixtureRequest,
    exported: Callable[..., Path],
    with_engine: WithEngine,
    tmp_path: Path,
) -> Path:
    """A real exported model with an fp32 engine for the device that is here."""
    module = library(request.param)
    if not probe_driver().devices:
        pytest.skip("no GPU")
    sm = open_device(0).device.sm
    if request.param == "tensorrt_rtx" and f"SM{sm}" not in module.ComputeCapability.__members__:
        pytest.skip(f"TensorRT-RTX builds nothing for sm{sm}")
    folder = tmp_path / "model.autosam"
    source = exported("autosam")
    folder.mkdir()
    for path in source.rglob("*"):
        if path.is_file():
            (folder / path.relative_to(source)).parent.mkdir(exist_ok=True, parents=True)
            (folder / path.relative_to(source)).write_bytes(path.read_bytes())
    for precision in ("fp32", "fp16"):
        plan = build_plan(module, folder / f"model.{precision}.onnx", capability=f"SM{sm}")
        with_engine(
            folder,
            precision,
            plan=plan,
            family=request.param,
            version=library_version(module),
            platform=this_platform(),
            compute_capabilities=(sm,),
            profile=PROFILE,
        )
    return folder


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_golden_slices_on_the_device(device_bundle: Path, precision: Any) -> None:
    record = json.loads((device_bundle / "parity.json").read_text("utf-8"))
    # For float32 too: TensorRT may round its products to TF32, of as many bits as float16.
    (gate,) = [c["gate"] for c in record["comparisons"] if c["precision"] == "fp16"]
    with Engine.open(device_bundle, backend="tensorrt", precision=precision) as engine:
        assert engine.info.precision == precision
        for result in run_golden(engine):
            assert result.max_logit_difference is not None
            assert result.max_logit_difference <= gate
            assert result.largest_wrong_margin <= 2 * gate


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True])
def test_sizes_threads_and_repeats_agree_on_the_device(
    device_bundle: Path, graphs: bool, tmp_path: Path
) -> None:
    options = TrtOptions(graphs=graphs, runtime_cache=tmp_path / "cache")
    random = np.random.default_rng(0)
    batches = [
        random.normal(100, 30, (count, 1, side, side + 3)).astype(np.float32)
        for count, side in ((1, 20), (4, 60), (4, 60), (9, 33), (2, 7), (2, 7), (2, 7))
    ]
    backend = TrtBackend(Bundle.open(device_bundle), Request(), options=options)
    with Engine.open(device_bundle, backend="onnxruntime", device="cpu") as truth:
        for batch in batches:
            found = backend.run(batch, ("labels", "logits"))
            assert (found["labels"] == truth.labels(batch)).mean() > 0.98
            assert (found["labels"] == found["logits"].argmax(axis=1)).all()
    backend.close()


@pytest.mark.gpu
def test_memory_of_the_device_comes_back(device_bundle: Path) -> None:
    cuda = open_device(0)

    def free() -> int:
        with cuda.active():
            return int(cuda._call("cudaMemGetInfo"))

    def use() -> None:
        with Engine.open(device_bundle, backend="tensorrt") as engine:
            engine.labels(np.zeros((4, 64, 64), np.float32))

    use()
    before = free()
    for _ in range(3):
        use()
    assert free() >= before - (16 << 20)
