from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from autosam_deploy.errors import BackendError
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.ort import OrtBackend
from autosam_deploy.runtime.ort_options import OrtOptions, session_options
from autosam_deploy.runtime.providers import open_session

ToyBundle = Callable[..., Path]


class Recorded:
    """Session options that remember their entries (ONNX Runtime tells some of them only)."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


FAKE = SimpleNamespace(
    SessionOptions=Recorded, ExecutionMode=onnxruntime.ExecutionMode, InferenceSession=None
)


def made(provider: str = "cpu", **fields: Any) -> Any:
    return session_options(FAKE, threads=3, provider=provider, options=OrtOptions(**fields))


def test_defaults_on_the_cpu() -> None:
    found = made()
    assert (found.intra_op_num_threads, found.inter_op_num_threads) == (3, 1)
    assert (found.enable_cpu_mem_arena, found.enable_mem_pattern) == (True, False)
    assert found.entries == {}


@pytest.mark.parametrize(
    ("provider", "given", "expected"),
    [("cpu", None, False), ("cuda", None, True), ("cpu", True, True), ("cuda", False, False)],
)
def test_memory_plans(provider: str, given: bool | None, expected: bool) -> None:
    assert made(provider, mem_pattern=given).enable_mem_pattern is expected


def test_everything_reaches_onnxruntime() -> None:
    found = made(arena=False, spinning=False, dynamic_blocks=4)
    assert found.enable_cpu_mem_arena is False
    assert found.entries == {
        "session.intra_op.allow_spinning": "0",
        "session.dynamic_block_base": "4",
    }


def test_entries_are_ones_that_onnxruntime_takes(toy_bundle: ToyBundle) -> None:
    """A value that it cannot read is an error, so the keys are known to it."""
    graph = toy_bundle() / "model.fp32.onnx"
    for key in ("session.dynamic_block_base", "session.intra_op.allow_spinning"):
        options = session_options(
            onnxruntime,
            threads=2,
            provider="cpu",
            options=OrtOptions(spinning=False, dynamic_blocks=4),
        )
        assert options.get_session_config_entry(key)
        session = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
        assert session.get_session_options().get_session_config_entry(key) in ("0", "4")


def test_blocks_below_zero(toy_bundle: ToyBundle) -> None:
    with pytest.raises(BackendError, match="dynamic_blocks; got -1; expected 0 or more"):
        Engine.open(toy_bundle(), device="cpu", options={"dynamic_blocks": -1})


def test_results_do_not_depend_on_them(toy_bundle: ToyBundle) -> None:
    path, slices = toy_bundle(), np.linspace(-3, 5, 70).reshape(2, 5, 7)
    words = {"arena": "off", "spinning": "off", "dynamic_blocks": "4", "mem_pattern": "on"}
    found = []
    for options in ({}, words):
        with Engine.open(path, device="cpu", threads=2, options=options) as engine:
            assert isinstance(engine.backend, OrtBackend)
            assert engine.info.options == options
            found.append([engine.logits(slices) for _ in range(2)])
            used = engine.backend.session.get_session_options()
            assert used.enable_cpu_mem_arena is not bool(options)
            assert used.enable_mem_pattern is bool(options)
    assert np.array_equal(found[0], found[1])


def test_session_without_options_has_the_defaults(toy_bundle: ToyBundle) -> None:
    graph = toy_bundle() / "model.fp32.onnx"
    session = open_session(onnxruntime, graph, provider="cpu", index=0, threads=1)
    assert session.get_session_options().enable_mem_pattern is False
