"""Taps on OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError, OutOfMemoryError
from autosam_deploy.export.checks.bisection import bisect_bundle
from autosam_deploy.export.checks.taps.graph import tapped_graph
from autosam_deploy.export.checks.taps.ov import OvTaps
from autosam_deploy.runtime.backend import Request
from autosam_deploy.runtime.engine import Engine

pytest.importorskip("openvino", reason="openvino is not installed")


def test_every_block_agrees_and_the_bad_one_is_named(
    bundle_copy: Path, scale: Callable[..., None]
) -> None:
    sound = bisect_bundle(Bundle.open(bundle_copy), backend="openvino", threads=1)
    assert sound.passed
    assert (sound.info.backend, sound.artefact) == ("openvino", "model.fp32.onnx")
    assert all(tap.max_abs is not None and 0 < tap.max_abs <= tap.tolerance for tap in sound.taps)
    scale(bundle_copy, "model.fp32.onnx", "encoder.blocks.1.expand.weight", 1.2)
    broken = bisect_bundle(Bundle.open(bundle_copy), backend="openvino", threads=1)
    assert broken.first_bad == "encoder.blocks.1"


def test_only_float32_is_compared(bundle_copy: Path) -> None:
    with Engine.open(bundle_copy, backend="openvino", threads=1) as engine:
        assert engine.info.precision == "fp32"
    with pytest.raises(BackendError, match=r"fp16|bf16"):
        bisect_bundle(Bundle.open(bundle_copy), backend="openvino", precision="fp16")
    # On a CPU without bf16 the backend says so; on one with it the runner does.
    with pytest.raises(BackendError, match="bf16"):
        bisect_bundle(Bundle.open(bundle_copy), backend="openvino", precision="bf16")


@pytest.mark.parametrize(
    ("said", "error"),
    [(MemoryError("no room"), OutOfMemoryError), (RuntimeError("it broke"), BackendError)],
)
def test_failures_of_a_run(bundle_copy: Path, said: Exception, error: type[Exception]) -> None:
    class Failing:
        def run(self, _: Any) -> Any:
            raise said

        def close(self) -> None:
            pass

    bundle = Bundle.open(bundle_copy)
    runner = OvTaps(bundle, Request(device="cpu", threads=1))
    with (
        tapped_graph(bundle, runner.artefact, ("input", "output")) as (path, values),
        runner.opened(path),
    ):
        runner._chain = Failing()  # type: ignore[assignment]
        with pytest.raises(error, match=r"does not fit|it broke"):
            runner.run(np.ones((1, 1, 20, 20), np.float32), values)
