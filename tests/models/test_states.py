from __future__ import annotations

import pytest
import torch

from autosam_deploy.errors import CheckpointError
from autosam_deploy.models.states import check_state, listing, seeded_state, state_shapes

SHAPES = {"w": torch.Size([2, 3]), "b": torch.Size([2])}
STATE = {"w": torch.zeros(2, 3), "b": torch.zeros(2)}


def test_shapes_come_without_memory() -> None:
    # 4 TB of weights.
    shapes = state_shapes(lambda: torch.nn.Linear(1_000_000, 1_000_000))
    assert shapes == {"weight": (1_000_000, 1_000_000), "bias": (1_000_000,)}


def test_a_state_that_fits_passes() -> None:
    check_state(STATE, SHAPES)
    check_state({**STATE, "w": torch.zeros(9, 9)}, SHAPES, resizable={"w"})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"w": STATE["w"]}, "missing 'b'"),
        ({**STATE, "x": STATE["b"]}, "unexpected 'x'"),
        ({**STATE, "w": torch.zeros(3, 2)}, r"'w' does not fit.*\(3, 2\).*expected \(2, 3\)"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_state(state, SHAPES)


def test_long_lists_are_cut() -> None:
    assert listing(["a", "b", "c"]) == "'a', 'b', 'c'"
    assert listing(["a", "b", "c", "d", "e"]) == "'a', 'b', 'c' and 2 more"


def test_seeded_values_follow_the_rule_and_the_name() -> None:
    shapes = {"w": torch.Size([200, 50]), "v": torch.Size([200, 50])}
    state = seeded_state(shapes, lambda name, _: (3.0, 0.1 if name == "w" else 2.0), seed=0)
    assert state["w"].mean().item() == pytest.approx(3.0, abs=0.01)
    assert state["w"].std().item() == pytest.approx(0.1, rel=0.05)
    assert state["v"].std().item() == pytest.approx(2.0, rel=0.05)
    alone = seeded_state({"v": shapes["v"]}, lambda *_: (3.0, 2.0), seed=0)
    assert torch.equal(alone["v"], state["v"])
    other = seeded_state({"v": shapes["v"]}, lambda *_: (3.0, 2.0), seed=1)
    assert not torch.equal(other["v"], state["v"])
