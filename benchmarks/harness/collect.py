"""Run the inputs of parity and keep what came out, together with what only repeating reveals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.benchmarks.harness.runners import Outputs, Runner, Slices

#: Separates set, batch and output in the names of a file's arrays.
_SEPARATOR = "|"


@dataclass(frozen=True)
class Repeats:
    """One input, another of its shape, and the first again.

    first: outputs for A, copied at once. later: the same arrays after B was run. other: for B.
    again: for A, once more.
    """

    first: Outputs
    later: Outputs
    other: Outputs
    again: Outputs


@dataclass(frozen=True)
class Collected:
    """Outputs by set of inputs, a batch each, and the repeats, where they were asked for."""

    outputs: dict[str, list[Outputs]]
    repeats: Repeats | None


def collect(
    runner: Runner, inputs: Mapping[str, Sequence[Slices]], *, repeat: bool = True
) -> Collected:
    """Run every batch of every set, then the mirror image of the first batch and that batch again.

    Args:
        runner: what is judged.
        inputs: set -> batches (B, 1, H, W).
        repeat: run the first batch again; it takes two runs more.
    """
    kept: Outputs | None = None
    outputs: dict[str, list[Outputs]] = {}
    for name, batches in inputs.items():
        outputs[name] = []
        for batch in batches:
            found = runner.outputs(batch)
            kept = found if kept is None else kept
            outputs[name].append(_copied(found))
    if not repeat or kept is None:
        return Collected(outputs, None)
    first = next(found for batches in outputs.values() for found in batches)
    one = next(batch for batches in inputs.values() for batch in batches)
    # Another image of the same shape: a buffer that is used again would be the same buffer.
    other = _copied(runner.outputs(np.ascontiguousarray(one[..., ::-1, ::-1])))
    later = _copied(kept)
    return Collected(outputs, Repeats(first, later, other, _copied(runner.outputs(one))))


def _copied(outputs: Outputs) -> Outputs:
    return {name: np.array(array) for name, array in outputs.items()}


def save_collected(path: Path, collected: Collected) -> None:
    """Write it as one .npz file."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, batches in collected.outputs.items():
        for number, outputs in enumerate(batches):
            for output, array in outputs.items():
                arrays[_SEPARATOR.join((name, str(number), output))] = array
    repeats = {} if collected.repeats is None else vars(collected.repeats)
    for part, outputs in repeats.items():
        for output, array in outputs.items():
            arrays[_SEPARATOR.join(("", part, output))] = array
    np.savez(path, **arrays)  # type: ignore[arg-type]


def load_collected(path: Path) -> Collected:
    """Undo `save_collected`."""
    sets: dict[str, dict[int, Outputs]] = {}
    repeats: dict[str, Outputs] = {"first": {}, "later": {}, "other": {}, "again": {}}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            name, part, output = key.split(_SEPARATOR)
            if name:
                sets.setdefault(name, {}).setdefault(int(part), {})[output] = arrays[key]
            else:
                repeats[part][output] = arrays[key]
    outputs = {name: [found[n] for n in sorted(found)] for name, found in sets.items()}
    return Collected(outputs, Repeats(**repeats) if repeats["first"] else None)
