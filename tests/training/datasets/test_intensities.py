from __future__ import annotations

import numpy as np
import pytest

from autosam_deploy.training.datasets.intensities import Range, compare_ranges, robust_range

MRI = {f"mri_{n}": Range(20.0 + n, 900.0 + 90 * n) for n in range(4)}


def test_outliers_do_not_widen_a_range() -> None:
    slices = np.linspace(0, 100, 10_000, dtype=np.float32).reshape(4, 50, 50)
    slices[0, 0, :9], slices[3, 4, :9] = -30_000, 30_000
    found = robust_range(slices)
    assert (found.low, found.high) == pytest.approx((1, 99), abs=0.2)


def test_many_voxels_are_sampled_all_over() -> None:
    """Values run along the rows: a sample of whole columns would see a few of them alone."""
    row = np.linspace(0, 100, 512, dtype=np.float32)
    found = robust_range(np.broadcast_to(row, (2, 4096, 512)))
    assert (found.low, found.high) == pytest.approx((1, 99), abs=0.3)


def test_volumes_that_are_alike_need_no_note() -> None:
    assert compare_ranges(MRI) == []
    assert compare_ranges({"one": Range(0, 5)}) == []
    assert compare_ranges({}) == []


@pytest.mark.parametrize(
    "other",
    [Range(-1000, 900), Range(2, 40), Range(0, 300_000), Range(-500, 400)],
    ids=["CT", "8 bit", "other gain", "shifted"],
)
def test_another_range_is_noted(other: Range) -> None:
    (note,) = compare_ranges({"odd": other, **MRI})
    assert "of 1 of 5 volumes are far from the " in note
    assert f"'odd' {other}" in note
    assert "recipes that scale every slice by itself take out another gain" in note


def test_two_volumes_that_differ() -> None:
    (note,) = compare_ranges({"ct": Range(-1000, 1000), "mri": Range(0, 800)})
    assert "'ct' -1000..1000" in note
    assert "far from the 0..800 of 'mri'" in note


def test_many_odd_volumes_are_counted() -> None:
    odd = {f"odd_{n}": Range(0, 5) for n in range(5)}
    more = {f"more_{n}": Range(0, 1000) for n in range(3)}
    (note,) = compare_ranges({**MRI, **more, **odd})
    assert "'odd_0' 0..5, 'odd_1' 0..5, 'odd_2' 0..5 and 2 more;" in note


def test_a_flat_volume_is_noted() -> None:
    assert compare_ranges({"flat": Range(7, 7), **MRI}) == [
        "'flat' has hardly any contrast: intensities 7..7"
    ]
