"""State dicts: what a module expects, whether one fits, and seeded ones."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Set

import torch
from torch import Tensor, nn

from autosam_deploy.errors import CheckpointError

State = Mapping[str, Tensor]
Shapes = Mapping[str, torch.Size]

#: (name, shape) -> (mean, standard deviation) of a weight.
Rule = Callable[[str, torch.Size], tuple[float, float]]


def state_shapes(build: Callable[[], nn.Module]) -> dict[str, torch.Size]:
    """Return the names and shapes of a module's state without giving it memory."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in build().state_dict().items()}


def check_state(
    state: Mapping[str, Tensor],
    shapes: Shapes,
    *,
    resizable: Set[str] = frozenset(),
) -> None:
    """Refuse weights that do not fit, naming the first that does not.

    Args:
        state: the weights.
        shapes: names and shapes that are expected (`state_shapes`).
        resizable: names whose shape is not looked at.

    Raises:
        CheckpointError: a weight is missing, unknown or misshapen.
    """
    for what, names in (
        ("missing", sorted(shapes.keys() - state.keys())),
        ("unexpected", sorted(state.keys() - shapes.keys())),
    ):
        if names:
            raise CheckpointError(f"the weights do not fit the model: {what} {listing(names)}")
    check_shapes(state, shapes, resizable=resizable)


def check_shapes(
    state: Mapping[str, Tensor], shapes: Shapes, *, resizable: Set[str] = frozenset()
) -> None:
    """Refuse weights whose shape is not the expected one; names may be missing or unknown.

    Args:
        state: the weights.
        shapes: names and shapes that are expected.
        resizable: names whose shape is not looked at.

    Raises:
        CheckpointError: naming the first.
    """
    for name, shape in shapes.items():
        if name in state and name not in resizable and state[name].shape != shape:
            raise CheckpointError(
                f"weight '{name}' does not fit the model",
                got=f"shape {tuple(state[name].shape)}",
                expected=str(tuple(shape)),
            )


def shape_of(state: State, name: str, *, rank: int, owner: str) -> tuple[int, ...]:
    """Return the shape of a weight that must be there.

    Args:
        state: the weights.
        name: of the weight.
        rank: how many axes it must have, none of them empty.
        owner: what it belongs to, for the message.

    Raises:
        CheckpointError: it is missing, or has another rank.
    """
    if name not in state:
        raise CheckpointError(f"its {owner} lacks '{name}'", expected=f"the weights of {owner}")
    shape = tuple(state[name].shape)
    if len(shape) != rank or 0 in shape:
        raise CheckpointError(
            f"weight '{name}' has an impossible shape", got=str(shape), expected=f"{rank} axes"
        )
    return shape


def count_blocks(state: State, prefix: str) -> int:
    """Return one more than the largest N in names `<prefix>N.*`."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,3})\.")
    found = (pattern.match(name) for name in state)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def listing(names: list[str] | tuple[str, ...], *, limit: int = 3) -> str:
    """Return the first names in quotes and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def seeded_state(shapes: Shapes, rule: Rule, *, seed: int) -> dict[str, Tensor]:
    """Draw normal float32 weights.

    Every tensor has a generator of its own, seeded by its name: a layer more in a model leaves the
    values of all others as they were.

    Args:
        shapes: names and shapes.
        rule: the distribution of each.
        seed: any integer.
    """
    state = {}
    for name, shape in shapes.items():
        # One number of 32 bits: torch's CPU generator ignores the higher ones of its seed.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
        mean, std = rule(name, shape)
        state[name] = torch.randn(shape, generator=generator) * std + mean
    return state
