"""How to turn slices for looking at them: as radiologists do, patient's right on the left."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.volumes.slices import ARRAY_AXIS
from autosam_deploy.volumes.volume import Geometry

#: Anatomical names of the two ends of the axes x, y, z of LPS space: towards -, towards +.
_ENDS = (("R", "L"), ("A", "P"), ("I", "S"))
_X, _Y, _Z = 0, 1, 2


@dataclass(frozen=True)
class View:
    """Turns slices (H, W) upright; `top` and `left` name the patient's side there (R L A P I S)."""

    transpose: bool
    flip_rows: bool
    flip_columns: bool
    top: str
    left: str

    def turn(self, slice_: NDArray[Any]) -> NDArray[Any]:
        """Return a view of a slice (H, W) as it is shown."""
        shown = slice_.T if self.transpose else slice_
        return shown[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def view_along(geometry: Geometry, axis: Literal["i", "j", "k"]) -> View:
    """Return the usual view of slices along an image axis.

    Axial: anterior up, right on the left. Coronal: superior up, right on the left. Sagittal:
    superior up, anterior on the left. Oblique volumes take the closest of these.
    """
    cosines = np.array(geometry.direction).reshape(3, 3)
    # Each image axis stands for one axis of the patient, and no two for the same.
    patient = max(
        permutations(range(3)), key=lambda order: sum(abs(cosines[order[n], n]) for n in range(3))
    )
    rows, columns = (2 - index for index in range(3) if index != ARRAY_AXIS[axis])
    transpose = (patient[rows], patient[columns]) in ((_X, _Y), (_X, _Z), (_Y, _Z))
    if transpose:
        rows, columns = columns, rows
    down, right = patient[rows], patient[columns]
    # Rows run down to posterior or inferior, columns run right to the patient's left or posterior.
    flip_rows = (cosines[down, rows] > 0) == (down == _Z)
    flip_columns = bool(cosines[right, columns] < 0)
    return View(
        transpose=transpose,
        flip_rows=bool(flip_rows),
        flip_columns=flip_columns,
        top=_ENDS[down][1 if down == _Z else 0],
        left=_ENDS[right][0],
    )
