"""Fixtures shared by every room: a very small encoder, model specs, the folder of real volumes."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys

# Models here are so small that a second thread costs more than it computes, and on a busy machine
# threads that wait for each other cost a hundred times more. It must be said before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without a GPU, kernels are tested in Triton's interpreter. Triton must be told before it is first
# imported, which a test of any room may do.
if (
    shutil.which("nvidia-smi") is None
    or subprocess.run(["nvidia-smi"], capture_output=True).returncode
):
    os.environ.setdefault("TRITON_INTERPRET", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autosam_deploy.encoders import EncoderSpec, TinyVitEncoder, VitEncoder
from autosam_deploy.spec import (
    AutosamHead,
    CnnHead,
    HeadKind,
    LinearHead,
    ModelSpec,
    default_classes,
)

TINY = VitEncoder(
    # 6x6 token grid, windows of 4 (so both axes are padded), one global block, 32 channels out.
    name="tiny_test",
    embed_dim=48,
    depth=3,
    num_heads=3,
    global_attn_indexes=(1,),
    window_size=4,
    patch_size=8,
    out_chans=32,
    image_size=(48, 48),
)


#: A TinyViT of the same size: 12x12 tokens, all windows padded.
TINY_TINYVIT = TinyVitEncoder(
    name="tiny_tinyvit",
    embed_dims=(8, 12, 16, 24),
    depths=(1, 1, 1, 1),
    num_heads=(2, 2, 3),
    window_sizes=(7, 5, 7),
    stem_stride=1,
    out_chans=32,
    image_size=(48, 48),
)


def tiny_model(
    kind: HeadKind,
    *,
    encoder: EncoderSpec = TINY,
    num_classes: int = 3,
    image_size: tuple[int, int] | None = None,
    **fields: Any,
) -> ModelSpec:
    """Return the spec of a segmenter that runs in milliseconds."""
    encoder = encoder if image_size is None else encoder.resized(image_size)
    chans = encoder.out_chans
    heads = {
        "autosam": AutosamHead(num_classes=num_classes, embed_dim=chans, num_heads=4, mlp_dim=40),
        "cnn": CnnHead(num_classes=num_classes, embed_dim=chans, depth=2, top_channels=8),
        "linear": LinearHead(num_classes=num_classes, embed_dim=chans, final_relu=False),
    }
    return ModelSpec(
        encoder=encoder, head=heads[kind], classes=default_classes(num_classes), **fields
    )


#: What a machine may lack, and the marks of the tests that then skip.
REQUIRABLE = ("gpu", "trt", "data")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--require=gpu,trt`: on a machine that should have these, a skip is a failure."""
    parser.addoption("--require", default="", help=f"fail, not skip: {', '.join(REQUIRABLE)}")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a `--require` that would require nothing."""
    if unknown := _required(config) - set(REQUIRABLE):
        raise pytest.UsageError(f"--require: unknown {', '.join(sorted(unknown))}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Turn skips of required tests into failures."""
    outcome: Any = yield
    report = outcome.get_result()
    marks = {mark.name for mark in item.iter_markers()}
    if report.skipped and not hasattr(report, "wasxfail") and marks & _required(item.config):
        report.outcome = "failed"
        report.longrepr = f"required, but skipped: {report.longrepr[2]}"


def _required(config: pytest.Config) -> set[str]:
    return {name for name in str(config.getoption("--require")).split(",") if name}


@pytest.fixture
def tiny_encoder() -> EncoderSpec:
    """The encoder of all tests."""
    return TINY


@pytest.fixture
def tiny_tinyvit() -> EncoderSpec:
    """A TinyViT as small as the encoder of all tests."""
    return TINY_TINYVIT


@pytest.fixture
def model_spec() -> Callable[..., ModelSpec]:
    """Factory: model_spec("cnn", num_classes=3, image_size=(48, 64), preprocess=...)."""
    return tiny_model


@functools.cache
def _load_fake(name: str) -> Any:
    path = Path(__file__).with_name("fakes") / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"tests_fakes_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_fake() -> Callable[[str], Any]:
    """Factory: load_fake("tensorrt") -> a module of `fakes/`; test files are no package."""
    return _load_fake


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A fake GPU with both families of TensorRT; misuse and leaks fail the test."""
    from autosam_deploy.runtime.nvidia.cudart import Driver

    cuda, library = _load_fake("cuda"), _load_fake("tensorrt")
    device = cuda.Gpu()
    parts = _load_fake("builder").builder_parts(device)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda.fake_cuda(device))
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, library.fake_tensorrt(device, name, **parts))
    monkeypatch.setattr(
        "autosam_deploy.runtime.nvidia.cudart.probe_driver", lambda: Driver(device.devices)
    )
    yield device
    assert device.misuse == []
    assert device.leaks() == []


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Factory: a real bundle (fp32 and fp16 graphs) of a tiny model; made once a head and encoder.

    Tests that change it must copy it first.
    """
    from rich.console import Console

    from autosam_deploy.export.pipeline import Plan, export_bundle
    from autosam_deploy.export.samples import collect_samples
    from autosam_deploy.export.steps import Steps
    from autosam_deploy.models.assemble import untrained

    made: dict[tuple[HeadKind, str], Path] = {}

    def build(kind: HeadKind, encoder: str = "vit") -> Path:
        if (kind, encoder) not in made:
            spec = tiny_model(kind, encoder=TINY if encoder == "vit" else TINY_TINYVIT)
            folder = tmp_path_factory.mktemp("bundles") / f"{kind}.autosam"
            export_bundle(
                untrained(spec.encoder, spec.head, seed=1),
                collect_samples((), spec.encoder, spec.preprocess),
                folder,
                plan=Plan(precisions=("fp32", "fp16")),
                steps=Steps(Console(quiet=True)),
            )
            made[kind, encoder] = folder
        return made[kind, encoder]

    return build


@pytest.fixture(scope="session")
def int8_bundle(
    exported: Callable[[HeadKind], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle with an int8 graph; of random weights, which are not held to its gates."""
    pytest.importorskip("onnxruntime.quantization")
    from rich.progress import Progress

    from autosam_deploy.export.int8.add import add_int8
    from autosam_deploy.export.int8.request import Int8Request
    from autosam_deploy.volumes.phantom import make_phantom
    from autosam_deploy.volumes.write import write_volume

    folder = tmp_path_factory.mktemp("int8")
    path = Path(shutil.copytree(exported("linear"), folder / "a.autosam"))
    for seed in (1, 2):
        write_volume(folder / "images" / f"{seed}.nii.gz", make_phantom(seed, shape=(4, 40, 48))[0])
    with Progress(disable=True) as progress:
        add_int8(path, Int8Request(folder / "images", calibration=4, judged=2), progress=progress)
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real volumes: $AUTOSAM_TEST_DATA, else `../shared/data` beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("AUTOSAM_TEST_DATA", default))
    if not (folder / "hippocampus").is_dir():
        pytest.skip(f"real volumes not found in {folder} (set AUTOSAM_TEST_DATA)")
    return folder
