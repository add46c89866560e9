from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autosam_deploy.errors import MissingExtraError, UsageError
from autosam_deploy.metrics import dice
from autosam_deploy.metrics.surface import (
    ClassScore,
    crop_to_masks,
    load_monai,
    no_score,
    score_classes,
)

Index = tuple[int, int, int]
#: (x, y, z) mm, as files have it, all different.
SPACING = (1.0, 2.0, 5.0)


def box(shape: Index, start: Index, stop: Index) -> NDArray[np.uint8]:
    """Labels (z, y, x) that are 1 from `start` up to `stop`."""
    array = np.zeros(shape, np.uint8)
    array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return array


def score(
    prediction: NDArray[Any], truth: NDArray[Any], spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> ClassScore:
    (found,) = score_classes(prediction, truth, spacing=spacing, labels=(1,))
    return found


def numbers(found: ClassScore) -> tuple[float, float, float]:
    return found.dice, found.hd95_mm, found.assd_mm


@pytest.mark.parametrize(("axis", "mm"), [(2, 1.0), (1, 2.0), (0, 5.0)], ids="xyz")
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("thin", [True, False], ids=["voxel", "plate"])
def test_shift_along_an_axis_is_steps_times_its_spacing(
    axis: int, mm: float, steps: int, thin: bool
) -> None:
    start, stop = [2, 2, 2], [3, 3, 3] if thin else [6, 6, 6]
    stop[axis] = 3  # one voxel thick along the shift, so that every distance is the same
    truth = box((9, 9, 9), (start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    found = score(np.roll(truth, steps, axis), truth, SPACING)
    assert numbers(found) == pytest.approx((0, steps * mm, steps * mm))


def test_nested_cubes() -> None:
    inner, outer = box((7, 7, 7), (2, 2, 2), (5, 5, 5)), box((7, 7, 7), (1, 1, 1), (6, 6, 6))
    # Of 27 inner voxels 26 are surface, each one step from the outer surface. Of the 98 outer ones
    # 54 lie in faces, 36 in edges and 8 in corners; the 95th percentile falls among the corners.
    total = 26 + 54 + 36 * 2**0.5 + 8 * 3**0.5
    expected = (2 * 27 / (27 + 125), 3**0.5, total / (26 + 98))
    assert numbers(score(inner, outer)) == pytest.approx(expected)
    assert numbers(score(outer, inner)) == pytest.approx(expected)


def test_percentile_and_mean_of_a_line() -> None:
    truth, line = box((3, 3, 23), (1, 1, 1), (2, 2, 2)), box((3, 3, 23), (1, 1, 1), (2, 2, 22))
    # From the line 0, 1, .. 20 steps to the voxel, from the voxel 0 to the line.
    found = score(line, truth, (0.5, 9.0, 9.0))
    assert numbers(found) == pytest.approx((2 / 22, 19 * 0.5, 210 * 0.5 / 22))


def test_equals_have_no_distance() -> None:
    truth = box((6, 6, 6), (1, 2, 1), (4, 5, 6))
    assert numbers(score(truth, truth, SPACING)) == (1, 0, 0)


@pytest.mark.parametrize("before", [(0, 0, 0), (4, 4, 4), (0, 4, 2), (2, 0, 4)], ids=str)
def test_place_in_the_array_does_not_matter(before: Index) -> None:
    """Touching the border is no different from lying in the middle."""
    truth, prediction = box((4, 4, 5), (0, 0, 0), (4, 4, 4)), box((4, 4, 5), (0, 0, 1), (3, 4, 5))
    around = [(n, 4 - n) for n in before]
    placed = score(np.pad(prediction, around), np.pad(truth, around), SPACING)
    assert placed == score(prediction, truth, SPACING)


def test_border_counts_as_surface() -> None:
    full, half = np.ones((4, 4, 4), np.uint8), box((4, 4, 4), (0, 0, 0), (4, 4, 2))
    # All 32 voxels of the half are surface; of the whole, 56 are, its 2 x 2 x 2 core is not. Of the
    # 56 there are 28 in the half, 12 one step behind it and 16 two steps. Of the 32 there are 4 in
    # the core, one step from the surface of the whole.
    found = score(full, half)
    assert found.dice == pytest.approx(2 * 32 / 96)
    assert found.assd_mm == pytest.approx((12 * 1 + 16 * 2 + 4 * 1) / (56 + 32))


def test_cropping_changes_nothing() -> None:
    random = np.random.default_rng(5)
    torch, monai = load_monai()
    for _ in range(3):
        masks = np.zeros((2, 12, 14, 16), bool)
        masks[:, 2:10, 0:9, 5:16] = random.random((2, 8, 9, 11)) < 0.4
        cropped = crop_to_masks(masks[0], masks[1])
        assert cropped[0].shape == (8 + 2, 9 + 2, 11 + 2)
        whole = [torch.from_numpy(mask)[None, None] for mask in masks]
        options: dict[str, Any] = {"include_background": True, "spacing": (5.0, 2.0, 1.0)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = (
                monai.compute_dice(*whole).item(),
                monai.compute_hausdorff_distance(*whole, percentile=95, **options).item(),
                monai.compute_average_surface_distance(*whole, symmetric=True, **options).item(),
            )
        assert numbers(score(masks[0], masks[1], SPACING)) == expected


def test_presence_decides_what_is_known() -> None:
    """Both, truth only, prediction only, neither."""
    truth, prediction = np.zeros((2, 3, 4, 5), np.uint8)
    truth[0, 0, :2], prediction[0, 0, 1:3] = 1, 1
    truth[1, 0, :3], prediction[2, 0, :4] = 2, 3
    found = score_classes(prediction, truth, spacing=(1.0, 2.0, 500.0), labels=(1, 2, 3, 4))
    assert [one.label for one in found] == [1, 2, 3, 4]
    assert [one.found for one in found] == ["both", "missed", "invented", "neither"]
    assert [one.truth_ml for one in found] == [2.0, 3.0, 0.0, 0.0]
    assert [one.prediction_ml for one in found] == [2.0, 0.0, 4.0, 0.0]
    assert numbers(found[0]) == pytest.approx((0.5, 0.95, 0.5))  # distances 0 and 1, both ways
    for one in found[1:3]:
        np.testing.assert_equal(numbers(one), (0.0, np.nan, np.nan))
    np.testing.assert_equal(numbers(found[3]), (np.nan, np.nan, np.nan))
    np.testing.assert_equal(vars(found[3]), vars(no_score(4)))


def test_dice_is_that_of_overlap() -> None:
    random = np.random.default_rng(0)
    prediction, truth = random.integers(0, 5, (2, 6, 7, 8)).astype(np.uint8)
    prediction[prediction == 4] = 0  # missed
    found = score_classes(prediction, truth, spacing=SPACING, labels=(1, 2, 3, 4, 5))
    expected = dice(prediction, truth, num_classes=6)
    np.testing.assert_allclose([one.dice for one in found], expected[1:], rtol=1e-6)
    assert np.isnan(expected[5])
    assert expected[4] == 0


def test_nothing_is_warned_of() -> None:
    truth = box((4, 4, 4), (1, 1, 1), (3, 3, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for prediction in (truth, np.zeros_like(truth)):
            score(prediction, truth)


@pytest.mark.parametrize(
    ("shapes", "spacing", "message"),
    [
        (((2, 3, 4), (2, 4, 3)), SPACING, r"got shapes \(2, 3, 4\) and \(2, 4, 3\); expected one"),
        (((3, 4), (3, 4)), SPACING, r"got shapes \(3, 4\) and \(3, 4\); expected one shape"),
        (((2, 3, 4), (2, 3, 4)), (1.0, 0.0, 1.0), r"spacing; got \(1\.0, 0\.0, 1\.0\)"),
        (((2, 3, 4), (2, 3, 4)), (1.0, np.nan, 1.0), r"expected 3 positive lengths in mm"),
        (((2, 3, 4), (2, 3, 4)), (1.0, 1.0), r"spacing; got \(1\.0, 1\.0\)"),
    ],
)
def test_what_cannot_be_scored(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], spacing: tuple[float, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        score_classes(np.ones(shapes[0]), np.ones(shapes[1]), spacing=spacing, labels=(1,))


@pytest.mark.parametrize("package", ["scipy", "torch", "monai.metrics"])
def test_missing_package_names_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    wanted = rf"needs the package '{package.partition('.')[0]}'.*autosam-deploy\[train\]"
    with pytest.raises(MissingExtraError, match=wanted):
        load_monai()
