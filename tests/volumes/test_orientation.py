from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np
import pytest

from autosam_deploy.volumes.orientation import view_along
from autosam_deploy.volumes.slices import slices_along
from autosam_deploy.volumes.volume import Geometry

ORIENTATIONS = [
    (order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
]
#: What grows downwards and to the right, in LPS, when the patient's x, y, z is looked along.
USUAL = {2: ((1, 1), (0, 1)), 1: ((2, -1), (0, 1)), 0: ((2, -1), (1, 1))}
LETTERS = {2: ("A", "R"), 1: ("S", "R"), 0: ("S", "A")}


@pytest.mark.parametrize("axis", ["i", "j", "k"])
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_every_orientation_is_turned_upright(order: Any, signs: Any, axis: Any) -> None:
    cosines = np.zeros((3, 3))
    for image_axis in range(3):
        cosines[order[image_axis], image_axis] = signs[image_axis]
    tilt = np.array([[1, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]])
    geometry = Geometry((1, 1, 1), (0, 0, 0), tuple((tilt @ cosines).ravel().tolist()))
    along = order["ijk".index(axis)]
    # A volume whose voxels are the patient's own coordinates, one component at a time.
    index = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij")[::-1])
    patient = np.einsum("ab,bzyx->azyx", cosines, index)
    view = view_along(geometry, axis)
    (down, down_sign), (right, right_sign) = USUAL[along]
    shown_down = view.turn(slices_along(patient[down], axis)[1])
    shown_right = view.turn(slices_along(patient[right], axis)[1])
    assert (np.diff(shown_down, axis=0) == down_sign).all()
    assert (np.diff(shown_right, axis=1) == right_sign).all()
    assert (view.top, view.left) == LETTERS[along]
