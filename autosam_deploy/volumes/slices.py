"""Slices of a volume: which axis, and there and back."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.errors import UsageError
from autosam_deploy.spec import Axis
from autosam_deploy.volumes.volume import Geometry

#: Image axes as NIfTI tools name them -> array axis of (z, y, x).
ARRAY_AXIS: dict[str, int] = {"i": 2, "j": 1, "k": 0}

#: By how much a spacing must exceed the others to mark thick slices rather than rounding.
_CLEARLY = 1.001


def resolve_axis(geometry: Geometry, axis: Axis) -> Literal["i", "j", "k"]:
    """Return the image axis to slice along.

    Args:
        geometry: of the volume.
        axis: `i`, `j`, `k` (image index axes x, y, z) or `auto`: the axis with the largest spacing,
            since thick slices were acquired along it; `k`, the last, when none is clearly largest.

    Raises:
        UsageError: another word.
    """
    if axis == "i" or axis == "j" or axis == "k":
        return axis
    if axis != "auto":
        raise UsageError("axis", got=repr(axis), expected="auto, i, j or k")
    names: tuple[Literal["i", "j", "k"], ...] = ("i", "j", "k")
    order = sorted(range(3), key=lambda index: geometry.spacing[index])
    largest, second = order[-1], order[-2]
    if geometry.spacing[largest] > _CLEARLY * geometry.spacing[second]:
        return names[largest]
    return "k"


def slices_along(array: NDArray[Any], axis: Literal["i", "j", "k"]) -> NDArray[Any]:
    """Return a view (N, H, W) of an array (z, y, x), slices along `axis` first.

    H and W keep the order of the remaining array axes.
    """
    return np.moveaxis(array, ARRAY_AXIS[axis], 0)


def stack_labels(labels: NDArray[np.uint8], axis: Literal["i", "j", "k"]) -> NDArray[np.uint8]:
    """Undo `slices_along`: (N, H, W) -> (z, y, x), contiguous."""
    return np.ascontiguousarray(np.moveaxis(labels, 0, ARRAY_AXIS[axis]))
