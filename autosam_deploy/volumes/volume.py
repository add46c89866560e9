"""A volume: voxels with their place in the patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: SimpleITK's own tolerances for "the same physical space": positions as a fraction of the
#: spacing, direction cosines absolute (itk::ImageToImageFilterCommon).
SPACE_TOLERANCE = 1e-6

#: By how many mm formats with float32 geometry may move a voxel of a body-sized volume.
FLOAT32_MM = 1e-3


@dataclass(frozen=True)
class Geometry:
    """Where voxels lie, in SimpleITK's convention: LPS, image axes in the order x, y, z.

    spacing: mm between voxel centres along each image axis. origin: mm, centre of voxel (0, 0, 0).
    direction: 3x3 cosines, row-major; column n is the direction of image axis n.
    """

    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]


@dataclass(frozen=True)
class Volume:
    """A 3-D scalar image: `array` (z, y, x), of any real dtype, and its geometry.

    `notes` says what its reader left out, for reports.
    """

    array: NDArray[Any]
    geometry: Geometry
    name: str
    notes: tuple[str, ...] = ()

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.geometry.spacing)) / 1000


def same_space(first: Geometry, second: Geometry) -> bool:
    """Tell whether two geometries are one by SimpleITK's rule (see `SPACE_TOLERANCE`)."""
    tolerance = SPACE_TOLERANCE * abs(first.spacing[0])
    near = all(
        np.allclose(a, b, rtol=0, atol=tolerance)
        for a, b in ((first.spacing, second.spacing), (first.origin, second.origin))
    )
    return near and np.allclose(first.direction, second.direction, rtol=0, atol=SPACE_TOLERANCE)


def near_space(first: Geometry, second: Geometry) -> bool:
    """Tell whether two geometries agree within the rounding of float32 (`FLOAT32_MM`)."""
    return all(
        np.allclose(a, b, rtol=0, atol=tolerance)
        for a, b, tolerance in (
            (first.origin, second.origin, FLOAT32_MM),
            (first.spacing, second.spacing, FLOAT32_MM / 100),
            (first.direction, second.direction, FLOAT32_MM / 100),
        )
    )
