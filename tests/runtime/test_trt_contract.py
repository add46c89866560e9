"""A real exported model through backend `tensorrt`: a fake GPU that computes with ONNX Runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.selftest import run_golden
from autosam_deploy.spec import HEAD_KINDS, HeadKind

PROFILE = {"B": (1, 2, 3), "H": (1, 48, 96), "W": (1, 48, 96)}
SHAPES = ((1, 40, 56), (2, 33, 71), (3, 64, 64), (7, 64, 64), (1, 7, 5), (2, 1, 30))


@pytest.fixture(params=HEAD_KINDS)
def engines(
    request: pytest.FixtureRequest,
    exported: Callable[[HeadKind], Path],
    with_engine: Callable[..., Path],
    gpu: Any,
    tmp_path: Path,
) -> Iterator[tuple[Engine, Engine]]:
    """The same model on the fake GPU and on the CPU."""
    folder = tmp_path / "model.autosam"
    shutil.copytree(exported(request.param), folder)
    with_engine(folder, "fp32", profile=PROFILE)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder / "model.fp32.onnx"), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    gpu.function = lambda slices: dict(
        zip(names, session.run(names, {"slices": slices}), strict=True)
    )
    with (
        Engine.open(folder, backend="tensorrt") as tested,
        Engine.open(folder, backend="onnxruntime", device="cpu", threads=1) as truth,
    ):
        yield tested, truth


def test_same_labels_and_logits(engines: tuple[Engine, Engine]) -> None:
    tested, truth = engines
    for seed, shape in enumerate(SHAPES):
        slices = np.random.default_rng(seed).integers(-300, 1900, shape).astype(np.float32)
        found = tested.outputs(slices)
        parts = [truth.outputs(part) for part in np.array_split(slices, -(-shape[0] // 3))]
        for name, values in found.items():
            np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))


def test_golden_slices(engines: tuple[Engine, Engine]) -> None:
    for tested, truth in zip(*(run_golden(engine) for engine in engines), strict=True):
        assert tested == truth


def test_memory_of_the_caller_is_left_alone(engines: tuple[Engine, Engine]) -> None:
    volume = np.random.default_rng(0).integers(0, 900, (20, 24, 28)).astype(np.float32)
    volume.flags.writeable = False
    before = volume.copy()
    strided = np.moveaxis(volume, 2, 0)[3:5]
    assert (engines[0].labels(strided) == engines[0].labels(strided.copy())).all()
    assert (volume == before).all()
