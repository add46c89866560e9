"""Opening an engine: what is chosen, what is refused and in which words, nothing left behind."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import (
    BackendError,
    BackendUnavailableError,
    BundleError,
    DeviceUnavailableError,
    OutOfMemoryError,
)
from autosam_deploy.runtime.backend import Request
from autosam_deploy.runtime.nvidia.cudart import Driver
from autosam_deploy.runtime.nvidia.families import this_platform
from autosam_deploy.runtime.trt import TrtBackend

EngineBundle = Callable[..., Path]
TENSORRT = {"family": "tensorrt", "version": "10.13.3.9"}


def open_backend(folder: Path, *, verify: bool = True, **request: Any) -> TrtBackend:
    return TrtBackend(Bundle.open(folder, verify=verify), Request(**request))


def test_info_says_what_is_in_use(engine_bundle: EngineBundle, gpu: Any) -> None:
    backend = open_backend(engine_bundle())
    info = backend.info
    assert (info.backend, info.device, info.provider) == ("tensorrt", "cuda:0", "tensorrt_rtx")
    assert (info.precision, info.artefact) == ("fp16", "engines/0-tensorrt_rtx.fp16.engine")
    assert info.reason == "fp16 is the best for a GPU"
    assert info.versions == {
        "tensorrt_rtx": "1.7.1.116",
        "cuda driver": "13.2",
        "cuda runtime": "13.0",
    }
    assert info.notes == (
        "cuda:0 is Fake RTX, sm89, 1.0 GiB",
        "engine for B 1 to 4, H 4 to 64, W 4 to 64; 5 MiB of activations at the largest",
        "up to 2 contexts, CUDA graphs off",
        "no runtime cache: kernels are compiled in the first runs",
    )
    assert json.loads(json.dumps(info.as_dict()))["device"] == "cuda:0"
    backend.close()


def test_builder_that_said_nothing_of_memory(engine_bundle: EngineBundle, gpu: Any) -> None:
    backend = open_backend(engine_bundle(activation_bytes=None))
    assert "W 4 to 64; memory not recorded" in backend.info.notes[1]
    backend.close()


def test_auto_takes_fp16_before_fp32(
    engine_bundle: EngineBundle, with_engine: Callable[..., Path], gpu: Any
) -> None:
    folder = engine_bundle("fp32")
    with_engine(folder, "fp16")
    backend = open_backend(folder)
    assert backend.info.precision == "fp16"
    backend.close()
    backend = open_backend(folder, precision="fp32")
    assert (backend.info.precision, backend.info.reason) == ("fp32", "fp32 was asked for")
    backend.close()


def test_auto_takes_what_fits_and_says_so(
    engine_bundle: EngineBundle, with_engine: Callable[..., Path], gpu: Any
) -> None:
    folder = engine_bundle("fp16", compute_capabilities=(86,))
    with_engine(folder, "fp32", compute_capabilities=(86, 89))
    backend = open_backend(folder)
    assert backend.info.precision == "fp32"
    assert "no engine of higher rank fits this device" in backend.info.reason
    backend.close()


def test_family_that_is_installed_is_taken(
    engine_bundle: EngineBundle,
    with_engine: Callable[..., Path],
    gpu: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = engine_bundle(**TENSORRT)
    with_engine(folder, "fp16")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    backend = open_backend(folder)
    assert backend.info.provider == "tensorrt_rtx"
    backend.close()


@pytest.mark.parametrize(
    ("fields", "got", "here", "word"),
    [
        (
            {"compute_capabilities": (80, 86)},
            r"1.7.1.116 for sm80, sm86",
            "1.7.1.116",
            "rtx --sm 89",
        ),
        ({"version": "1.6.0.1"}, r"tensorrt_rtx 1.6.0.1 for sm89", "1.7.1.116", "rtx --sm 89"),
        ({"platform": "linux-aarch64"}, r"sm89 on linux-aarch64", "1.7.1.116", "rtx --sm 89"),
        (
            {**TENSORRT, "version": "10.13.3.8"},
            r"tensorrt 10.13.3.8",
            "10.13.3.9",
            "tensorrt --sm 89",
        ),
        ({**TENSORRT, "platform": "windows-x86_64"}, "on windows", "10.13.3.9", "tensorrt --sm 89"),
    ],
)
def test_engine_for_something_else_names_both_sides(
    engine_bundle: EngineBundle, gpu: Any, fields: dict[str, Any], got: str, here: str, word: str
) -> None:
    with pytest.raises(
        BackendError,
        match=rf"built for something else; got one .*{got}.*; expected here is \w+ {here} with "
        rf"sm89 on {this_platform()}; "
        rf"run: autosam-export engine \S+toy.autosam --engine {word}$",
    ):
        open_backend(engine_bundle(**fields))
    assert gpu.calls["cudaStreamCreateWithFlags"] == 0


def test_rtx_engine_of_another_system_runs(engine_bundle: EngineBundle, gpu: Any) -> None:
    processor = this_platform().partition("-")[2]
    backend = open_backend(engine_bundle(platform=f"windows-{processor}"))
    assert backend.info.provider == "tensorrt_rtx"
    backend.close()


def test_engine_of_another_graph(engine_bundle: EngineBundle, gpu: Any) -> None:
    with pytest.raises(BackendError, match=r"from another graph .*got sha256 1{16}\.\.\."):
        open_backend(engine_bundle(graph_sha256="1" * 64))


def test_all_that_was_tried_is_listed(
    engine_bundle: EngineBundle, with_engine: Callable[..., Path], gpu: Any
) -> None:
    folder = engine_bundle("fp16", compute_capabilities=(86,))
    with_engine(folder, "fp32", version="1.6.0.1")
    with pytest.raises(
        BackendError,
        match=r"none of the bundle's 2 engines fits: \(1\) .*sm86.* \| \(2\) .*1\.6\.0",
    ):
        open_backend(folder)


def test_bundle_without_engines(toy_bundle: Callable[..., Path], gpu: Any) -> None:
    with pytest.raises(
        BackendError, match=r"no engine; run: autosam-export engine \S+ --engine rtx --sm 89"
    ):
        open_backend(toy_bundle())


def test_precision_that_no_engine_has(engine_bundle: EngineBundle, gpu: Any) -> None:
    with pytest.raises(BackendError, match="no engine in bf16; got engines in fp16"):
        open_backend(engine_bundle(), precision="bf16")


@pytest.mark.parametrize(
    ("fields", "extra"), [({}, "tensorrt-rtx"), (TENSORRT, "tensorrt")], ids=["rtx", "tensorrt"]
)
def test_missing_library_names_the_extra(
    engine_bundle: EngineBundle,
    gpu: Any,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    extra: str,
) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        BackendUnavailableError, match=rf"run: pip install 'autosam-deploy\[{extra}\]'$"
    ):
        open_backend(engine_bundle(**fields))


def test_missing_cuda_bindings_name_the_extra(
    engine_bundle: EngineBundle, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(BackendUnavailableError, match="needs the package 'cuda-bindings'"):
        open_backend(engine_bundle())


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cpu", "runs on NVIDIA GPUs; got device cpu; expected auto, cuda or cuda:N"),
        ("tpu", "unknown device; got 'tpu'"),
        ("cuda:2", r"'cuda:2' is not there; got 2 usable CUDA devices \(cuda:0, cuda:1\)"),
    ],
)
def test_device_that_is_not_there(
    engine_bundle: EngineBundle, gpu: Any, device: str, message: str
) -> None:
    with pytest.raises(DeviceUnavailableError, match=message):
        open_backend(engine_bundle(), device=device)


def test_no_driver_is_said_before_anything_is_loaded(
    engine_bundle: EngineBundle, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "autosam_deploy.runtime.nvidia.cudart.probe_driver", lambda: Driver(0, "no NVIDIA driver")
    )
    with pytest.raises(DeviceUnavailableError, match=r"got 0 usable .* \(no NVIDIA driver\)"):
        open_backend(engine_bundle())
    assert not gpu.calls


def test_driver_that_is_too_old(engine_bundle: EngineBundle, gpu: Any) -> None:
    gpu.driver_too_old = True
    with pytest.raises(
        DeviceUnavailableError,
        match=r"cannot be used; got .*InsufficientDriver.*; expected a driver for CUDA 13\.0",
    ):
        open_backend(engine_bundle())


def test_provider_belongs_elsewhere(engine_bundle: EngineBundle, gpu: Any) -> None:
    with pytest.raises(BackendError, match="providers belong to backend 'onnxruntime'"):
        open_backend(engine_bundle(), provider="cuda")


@pytest.mark.parametrize("verify", [False, True])
def test_altered_plan_is_never_handed_over(
    engine_bundle: EngineBundle, gpu: Any, verify: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even in a bundle that was opened without hashing, or altered since."""
    folder = engine_bundle()
    bundle = Bundle.open(folder, verify=verify)
    (plan,) = (folder / "engines").iterdir()
    content = plan.read_bytes()
    plan.write_bytes(content[:-1] + b" ")
    with pytest.raises(BundleError, match=r"engine 'engines/\S+' .* was altered; got \d+ bytes"):
        TrtBackend(bundle, Request())
    plan.unlink()
    with pytest.raises(BundleError, match="cannot be read; got No such file"):
        TrtBackend(bundle, Request())


def test_plan_that_is_none(engine_bundle: EngineBundle, gpu: Any) -> None:
    """Hashed as it is, so the manifest agrees: an export that was fed something else."""
    with pytest.raises(
        BackendError,
        match=r"TensorRT-RTX cannot load 'engines/\S+'; got magicTag assertion failed; "
        r"run: autosam-export engine \S+ --engine rtx$",
    ):
        open_backend(engine_bundle(plan=b"\x00TRTX nothing"))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"tensors": {"slices": ("INPUT", "float32", ["B", 1, "H", "W"])}}, "the manifest; got"),
        ({"profiles": 2}, "several optimisation profiles; got 2; expected 1"),
        (
            {"profile": {"B": (1, 2, 5), "H": (4, 8, 64), "W": (4, 8, 64)}},
            r"contradicts its record; got .*\(5, 1, 64, 64\)\]; expected .*\(4, 1, 64, 64\)\]",
        ),
    ],
)
def test_plan_that_contradicts_the_manifest(
    engine_bundle: EngineBundle, gpu: Any, broken: dict[str, Any], message: str
) -> None:
    with pytest.raises(BackendError, match=message) as caught:
        open_backend(engine_bundle(broken=broken))
    # An error that is kept keeps its frames; the device's memory must not hang on them.
    assert caught.tb is not None
    assert gpu.leaks() == []


def test_record_without_an_axis(engine_bundle: EngineBundle, gpu: Any) -> None:
    profile = {"B": (1, 2, 4), "H": (4, 8, 64)}
    broken = {"profile": {**profile, "W": (4, 8, 64)}}
    with pytest.raises(BackendError, match=r"no sizes for an axis; got profile of B, H; .*'W'"):
        open_backend(engine_bundle(profile=profile, broken=broken))


def test_verdict_of_the_library_is_passed_on(engine_bundle: EngineBundle, gpu: Any) -> None:
    folder = engine_bundle()
    gpu.verdict = ("INVALID", 5)
    with pytest.raises(BackendError, match="got version mismatch, old cuda driver; build"):
        open_backend(folder)
    gpu.verdict = ("SUBOPTIMAL", 0)
    backend = open_backend(folder)
    assert "the library calls the engine suboptimal here: no reason given" in backend.info.notes
    backend.close()


def test_weights_that_do_not_fit(engine_bundle: EngineBundle, gpu: Any) -> None:
    with pytest.raises(OutOfMemoryError, match=r"cannot load .*OutOfMemory \(Requested size"):
        open_backend(engine_bundle(broken={"weights": 1 << 40}))


def test_context_that_does_not_fit(engine_bundle: EngineBundle, gpu: Any) -> None:
    """The engine is on the device by then, and the fixture sees whether it stays."""
    gpu.most_contexts = 0
    with pytest.raises(
        OutOfMemoryError, match=r"makes no execution context; got .*no room"
    ) as caught:
        open_backend(engine_bundle())
    assert caught.tb is not None
    assert gpu.leaks() == []
