"""What a graph must hold at its boundaries, and how far from it rounding alone may lead.

The truth is the fused segmenter in float32 PyTorch. A boundary may be off by twice what PyTorch
itself is off there, plus a rounding floor, as the logits may in `parity.py`. PyTorch's own error is
the larger one of

* float32 against float64, with the sampling coordinates of both resizes moved by one rounding:
  runtimes compute them in float32, PyTorch's are better, and a slice of noise feels that;
* for low precision: the typed PyTorch model against float32 (`fused/rounding.run_typed`).

Two distances are held to it. The largest difference sees a single wrong element. The relative L2
norm varies so little between correct runs that it sees what is wrong by a little everywhere, which
the largest difference does not where a few channels are a hundred times larger than the others.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.errors import BundleError, ExportError, ParityError
from autosam_deploy.fused.precision import PrecisionPlan, nodes_of
from autosam_deploy.fused.rounding import run_typed
from autosam_deploy.fused.segmenter import FusedSegmenter
from autosam_deploy.fused.taps import boundaries, recorded
from autosam_deploy.parity import FACTOR
from autosam_deploy.strict import parse_spec

Array = NDArray[Any]
_FLOOR_ULP = 8.0
_EPSILON = float(np.finfo(np.float32).eps)


class Distance:
    """How far arrays are from the truth, summed up over any number of them."""

    def __init__(self) -> None:
        """Start with nothing compared."""
        self.finite = True
        self._largest = self._squares = self._dot = 0.0
        self._norms = [0.0, 0.0]

    def add(self, found: Array, truth: Array) -> None:
        """Compare one pair of arrays of one shape; the truth is finite."""
        a, b = found.astype(np.float64).ravel(), truth.astype(np.float64).ravel()
        if not np.isfinite(a).all():
            self.finite = False
            return
        difference = a - b
        self._largest = max(self._largest, float(np.abs(difference).max(initial=0.0)))
        self._squares += float(difference @ difference)
        self._dot += float(a @ b)
        self._norms[0] += float(a @ a)
        self._norms[1] += float(b @ b)

    @property
    def max_abs(self) -> float | None:
        """Largest absolute difference; None where a value is not finite."""
        return self._largest if self.finite else None

    @property
    def rel_l2(self) -> float | None:
        """Norm of the difference by the norm of the truth; None where that says nothing."""
        if not self.finite or (not self._norms[1] and self._squares):
            return None
        return math.sqrt(self._squares / self._norms[1]) if self._squares else 0.0

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between found and true values; None where that says nothing."""
        if not self.finite or not all(self._norms):
            return None
        return self._dot / math.sqrt(self._norms[0] * self._norms[1])


@dataclass(frozen=True)
class Expectation:
    """The truth at every boundary and what may be added to it.

    cases: per golden case, boundary name -> array float32. tolerance: largest absolute difference
    that passes. rel_tolerance: largest relative L2 norm of the difference that passes.
    """

    cases: tuple[dict[str, Array], ...]
    tolerance: dict[str, float]
    rel_tolerance: dict[str, float]


def plan_of(artefact: Artefact, fused: FusedSegmenter) -> PrecisionPlan | None:
    """Return how a bundle's graph is typed; None for float32.

    Raises:
        BundleError: a low-precision graph whose typing the manifest does not say.
        SpecError, ExportError: the typing is not one of this version's nodes and reasons.
    """
    if artefact.precision == "fp32":
        return None
    if artefact.typing is None:
        raise BundleError(
            f"the manifest does not say how '{artefact.file.path}' is typed", todo="export again"
        )
    nodes = nodes_of(fused)
    plan = parse_spec(
        PrecisionPlan,
        {
            "precision": artefact.precision,
            "range_limit": artefact.typing.range_limit,
            "islands": [island.model_dump() for island in artefact.typing.islands],
            "num_nodes": len(nodes),
        },
        what=f"typing of '{artefact.file.path}'",
    )
    if unknown := sorted({island.node for island in plan.islands} - nodes.keys()):
        raise ExportError(
            f"'{artefact.file.path}' was typed by another version",
            got=f"islands named {', '.join(unknown)}",
            expected="names of the model's nodes",
            todo="export the bundle again",
        )
    return plan


def expect(
    fused: FusedSegmenter, plan: PrecisionPlan | None, batches: list[NDArray[np.float32]]
) -> Expectation:
    """Compute the truth at every boundary, and the tolerances.

    Args:
        fused: the fused segmenter in float32.
        plan: how the graph is typed; None for float32.
        batches: raw slices (B, 1, H, W).

    Raises:
        ParityError: PyTorch's own values are not finite.
    """
    names = boundaries(fused)
    slices = [torch.from_numpy(batch) for batch in batches]
    cases = []
    with recorded(fused) as found, torch.no_grad():
        for batch in slices:
            fused.logits(batch)
            cases.append({name: found[name].numpy() for name in names})
    _require_finite(cases, "the segmenter's float32 weights")
    references = [_float32_error(fused, slices)]
    if plan is not None:
        references.append(_typed_error(fused, plan, slices, cases))
    tolerance, rel_tolerance = {}, {}
    for name in names:
        largest = max(float(np.abs(case[name]).max()) for case in cases)
        errors = [(r[name].max_abs or 0.0, r[name].rel_l2 or 0.0) for r in references]
        floor = _FLOOR_ULP * float(np.spacing(np.float32(largest)))
        tolerance[name] = FACTOR * max(error for error, _ in errors) + floor
        rel_tolerance[name] = FACTOR * max(error for _, error in errors) + _FLOOR_ULP * _EPSILON
    return Expectation(tuple(cases), tolerance, rel_tolerance)


def _require_finite(cases: list[dict[str, Array]], what: str) -> None:
    for case in cases:
        for name, array in case.items():
            if bad := int((~np.isfinite(array)).sum()):
                raise ParityError(
                    f"{what} give no finite values at '{name}' in PyTorch itself",
                    got=f"{bad} of {array.size} values",
                    todo="export again from sound weights",
                )


def _float32_error(fused: FusedSegmenter, slices: list[Tensor]) -> dict[str, Distance]:
    """Measure float32 with roughened coordinates against float64."""
    double = copy.deepcopy(fused).double()
    distances = {name: Distance() for name in boundaries(fused)}
    for batch in slices:
        with recorded(double) as exact, torch.no_grad():
            double.logits(batch.double())
        with roughened(fused), recorded(fused) as found, torch.no_grad():
            fused.logits(batch)
        for name, distance in distances.items():
            distance.add(found[name].numpy(), exact[name].numpy())
    return distances


def _typed_error(
    fused: FusedSegmenter, plan: PrecisionPlan, slices: list[Tensor], cases: list[dict[str, Array]]
) -> dict[str, Distance]:
    """Measure the typed PyTorch model against float32."""
    distances = {name: Distance() for name in boundaries(fused)}
    for batch, case in zip(slices, cases, strict=True):
        with recorded(fused) as found:
            run_typed(fused, plan, batch)
        typed = {name: found[name].numpy() for name in distances}
        _require_finite([typed], f"the segmenter's weights in {plan.precision}")
        for name, distance in distances.items():
            distance.add(typed[name], case[name])
    return distances


@contextmanager
def roughened(fused: FusedSegmenter) -> Iterator[None]:
    """Move the coordinates at which both resizes sample by one float32 rounding, inside the block.

    A runtime computes (i + 0.5) * scale - 0.5 in float32; near the far end of an axis of n pixels
    that is off by about n * 2^-23 pixels. Sampling x there gives x plus the shift times the slope
    of x, so the slope is added to what is resized, up or down at random in every row and column.
    """

    def shift(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (shifted(inputs[0]), *inputs[1:])

    handles = [part.register_forward_pre_hook(shift) for part in (fused.input, fused.output)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def shifted(x: Tensor) -> Tensor:
    """Return images (B, C, H, W) sampled one coordinate rounding beside their pixels."""
    generator = torch.Generator().manual_seed(0)
    out = x
    for axis in (2, 3):
        size = x.shape[axis]
        # One pixel has no slope; the last one of several has that of its neighbour.
        slope = x.diff(dim=axis) if size > 1 else torch.zeros_like(x)
        if size > 1:
            slope = torch.cat([slope, slope.narrow(axis, size - 2, 1)], dim=axis)
        signs = torch.randint(0, 2, (size,), generator=generator) * 2 - 1
        signs = signs.reshape([-1 if index == axis else 1 for index in range(4)])
        out = out + slope * signs * (size * _EPSILON)
    return out
