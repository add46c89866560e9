"""Volumes whose intensities do not look alike: another gain, another modality, nothing at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Percentiles that stand for lowest and highest; beyond lie flow artefacts, metal, padding.
_LOW, _HIGH = 1, 99

#: Voxels that the percentiles are taken from; more change nothing that matters here.
_ENOUGH = 1_000_000

#: A range is odd if it is this many times wider or narrower than the typical one ...
_WIDER = 4.0
#: ... or begins this share of the typical width away (CT begins at -1000, MRI at 0).
_SHIFTED = 0.5

_SHOWN = 3


@dataclass(frozen=True)
class Range:
    """The 1st and the 99th percentile of a volume's intensities."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """From low to high."""
        return self.high - self.low

    def __str__(self) -> str:
        """Return both, rounded for reading."""
        return f"{self.low:.4g}..{self.high:.4g}"


def robust_range(slices: NDArray[np.float32]) -> Range:
    """Return the robust range of raw slices (N, H, W)."""
    voxels = slices.ravel()
    if voxels.size > _ENOUGH:
        # Not every n-th: n may be the length of a row, and the sample one column.
        voxels = voxels[np.random.default_rng(0).integers(0, voxels.size, _ENOUGH)]
    low, high = np.percentile(voxels, [_LOW, _HIGH])
    return Range(float(low), float(high))


def compare_ranges(ranges: Mapping[str, Range]) -> list[str]:
    """Return notes about volumes whose intensities are far from those of the others.

    The typical volume is the one of (lower) median width, so it is a real one.

    Args:
        ranges: by name of the volume.
    """
    notes = [
        f"'{name}' has hardly any contrast: intensities {found}"
        for name, found in ranges.items()
        if found.width <= 0
    ]
    contrasts = {name: found for name, found in ranges.items() if found.width > 0}
    if len(contrasts) < 2:
        return notes
    order = sorted(contrasts, key=lambda name: (contrasts[name].width, name))
    typical = order[(len(order) - 1) // 2]
    odd = [name for name in contrasts if _is_odd(contrasts[name], contrasts[typical])]
    if odd:
        shown = ", ".join(f"'{name}' {contrasts[name]}" for name in odd[:_SHOWN])
        more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
        notes.append(
            f"intensities ({_LOW}st to {_HIGH}th percentile) of {len(odd)} of {len(ranges)} "
            f"volumes are far from the {contrasts[typical]} of '{typical}': {shown}{more}; "
            "recipes that scale every slice by itself take out another gain, but "
            "another modality (CT among MRI) may"
        )
    return notes


def _is_odd(found: Range, typical: Range) -> bool:
    ratio = found.width / typical.width
    shift = abs(found.low - typical.low) / typical.width
    return not 1 / _WIDER <= ratio <= _WIDER or shift > _SHIFTED
