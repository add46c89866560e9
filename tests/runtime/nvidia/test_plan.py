"""Outputs of an engine beyond those of the manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError
from autosam_deploy.runtime.nvidia.choice import choose_engine
from autosam_deploy.runtime.nvidia.plan import Plan, load_plan
from autosam_deploy.spec import TensorSpec

Load = Callable[..., Plan]


@pytest.fixture
def load(engine_bundle: Callable[..., Path], load_fake: Callable[[str], Any], gpu: Any) -> Load:
    """Factory: load("float16", ("B", 6)) -> a plan whose engine has such an output, "tap"."""

    def build(kind: str, shape: tuple[Any, ...], *, way: str = "OUTPUT", name: str = "tap") -> Plan:
        bundle = Bundle.open(engine_bundle())
        choice = choose_engine(bundle, precision="auto", sm=89)
        manifest = bundle.manifest
        tensors = {
            tensor.name: (where, tensor.dtype, tensor.shape)
            for where, tensors in (("INPUT", manifest.inputs), ("OUTPUT", manifest.outputs))
            for tensor in tensors
        }
        plan = load_fake("engines").plan_of(
            manifest.inputs,
            manifest.outputs,
            profile={axis: list(sizes) for axis, sizes in choice.info.profile.items()},
            tensors={**tensors, name: (way, kind, shape)},
        )
        return load_plan(
            choice,
            plan,
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            taps=("tap",),
            bundle="b",
        )

    return build


def test_types_and_shapes_are_the_engines(load: Load) -> None:
    plan = load("float16", ("B", 6, "H", 5))
    assert plan.outputs[-1] == TensorSpec(name="tap", dtype="float16", shape=("B", 6, "H", 5))
    assert [tensor.name for tensor in plan.outputs] == ["labels", "logits", "tap"]
    plan.close()


@pytest.mark.parametrize(
    ("kind", "shape", "name", "got"),
    [
        ("float16", ("B", "H", 5, 5), "tap", r"float16 \(-1, -1, 5, 5\)"),
        ("float16", (2, 2, 2, 2, "W"), "tap", r"float16 \(2, 2, 2, 2, -1\)"),
        ("int64", ("B", 6), "tap", r"INT64 \(-1, 6\)"),
        ("float16", ("B", 6), "other", r"nothing of that name \(\)"),
    ],
)
def test_what_cannot_be_read(
    load: Load, kind: str, shape: tuple[Any, ...], name: str, got: str
) -> None:
    with pytest.raises(BackendError, match=rf"output 'tap' cannot be read; got {got}; expected fl"):
        load(kind, shape, name=name)


def test_a_tap_that_is_an_input_contradicts(load: Load) -> None:
    with pytest.raises(BackendError, match="contradicts the manifest"):
        load("float16", ("B", 6), way="INPUT")
