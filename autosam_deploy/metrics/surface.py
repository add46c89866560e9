"""Dice, HD95 and ASSD of label volumes, computed by MONAI, in the millimetres of the file.

Surface: the voxels of a mask of which at least one of the six neighbours lies outside of it; what
lies outside of the array counts as outside of the mask. Distances run between voxel centres.

HD95: the 95th percentile of the distances from the surface of the prediction to that of the truth,
the same the other way round, and of these two the larger (`compute_hausdorff_distance`). ASSD: the
mean over all these distances of both directions (`compute_average_surface_distance`).

NaN policy: a class that is in neither the prediction nor the truth has no scores: all three are
NaN. A class that is in one of them only has Dice 0 and no distances: they are NaN, and the class is
counted as *missed* (in the truth only) or *invented* (in the prediction only). `summary` leaves NaN
out of means and states these counts beside them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.errors import UsageError
from autosam_deploy.extras import require

Found = Literal["both", "missed", "invented", "neither"]

#: Of the two directed percentiles that HD95 is the larger one of.
_PERCENTILE = 95


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class in one case; NaN as in the module's policy.

    label: the class's value. truth_ml, prediction_ml: its volumes in millilitres.
    """

    label: int
    dice: float
    hd95_mm: float
    assd_mm: float
    truth_ml: float
    prediction_ml: float

    @property
    def found(self) -> Found:
        """Which of the two holds the class: both, the truth alone (missed), ..."""
        if self.truth_ml > 0:
            return "both" if self.prediction_ml > 0 else "missed"
        return "invented" if self.prediction_ml > 0 else "neither"


def no_score(label: int) -> ClassScore:
    """Return the score of a class that is in neither."""
    return ClassScore(label, np.nan, np.nan, np.nan, 0.0, 0.0)


def score_classes(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    *,
    spacing: Sequence[float],
    labels: Iterable[int],
) -> tuple[ClassScore, ...]:
    """Score the classes of one label volume.

    Args:
        prediction: labels (z, y, x).
        truth: labels of the same shape.
        spacing: mm between voxels in the order of the file, (x, y, z), as in `Geometry`.
        labels: values of the classes to score.

    Returns:
        One score a label, in their order.

    Raises:
        UsageError: shapes differ or are not 3-D, or a spacing is not positive.
        MissingExtraError: MONAI or SciPy is not installed.
    """
    if prediction.shape != truth.shape or prediction.ndim != 3:
        raise UsageError(
            "labels to score",
            got=f"shapes {prediction.shape} and {truth.shape}",
            expected="one shape (z, y, x)",
        )
    if len(spacing) != 3 or not all(np.isfinite(mm) and mm > 0 for mm in spacing):
        raise UsageError("spacing", got=str(tuple(spacing)), expected="3 positive lengths in mm")
    # Arrays are (z, y, x). MONAI also insists on three values of one type.
    steps = tuple(float(mm) for mm in reversed(spacing))
    return tuple(_score(prediction == label, truth == label, steps, label) for label in labels)


def _score(
    mine: NDArray[np.bool_], theirs: NDArray[np.bool_], steps: tuple[float, ...], label: int
) -> ClassScore:
    voxel_ml = float(np.prod(steps)) / 1000
    counts = int(theirs.sum()), int(mine.sum())
    if not any(counts):
        return no_score(label)
    dice = hd95 = assd = np.nan
    if all(counts):
        dice, hd95, assd = _compare(mine, theirs, steps)
    else:
        dice = 0.0
    return ClassScore(label, dice, hd95, assd, counts[0] * voxel_ml, counts[1] * voxel_ml)


def _compare(
    mine: NDArray[np.bool_], theirs: NDArray[np.bool_], steps: tuple[float, ...]
) -> tuple[float, float, float]:
    """Return Dice, HD95 and ASSD of two masks (z, y, x) that both hold something."""
    torch, metrics = load_monai()
    pair = [torch.from_numpy(mask)[None, None] for mask in crop_to_masks(mine, theirs)]
    # The one channel of each is the class itself, not the background.
    options: dict[str, Any] = {"include_background": True, "spacing": steps}
    with warnings.catch_warnings():
        # MONAI 1.5 and 1.6 call their own functions with an argument that they deprecate.
        warnings.simplefilter("ignore", FutureWarning)
        dice = metrics.compute_dice(*pair)
        hd95 = metrics.compute_hausdorff_distance(*pair, percentile=_PERCENTILE, **options)
        assd = metrics.compute_average_surface_distance(*pair, symmetric=True, **options)
    return dice.item(), hd95.item(), assd.item()


def crop_to_masks(
    first: NDArray[np.bool_], second: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return both masks within the box around their union, and one empty voxel around that.

    MONAI turns what it is given into float32 before it crops, which costs eight bytes a voxel of
    the whole volume; the empty voxels make the border of the array like any other place, whatever
    an erosion takes to be behind it.
    """
    union = first | second
    box = []
    for axis in range(union.ndim):
        others = tuple(other for other in range(union.ndim) if other != axis)
        where = np.flatnonzero(union.any(axis=others))
        box.append(slice(where[0], where[-1] + 1))
    return np.pad(first[tuple(box)], 1), np.pad(second[tuple(box)], 1)


def load_monai() -> tuple[ModuleType, ModuleType]:
    """Import what computes the scores, torch and `monai.metrics`; it takes seconds.

    Raises:
        MissingExtraError: not installed.
    """
    feature = "scoring labels"
    # MONAI itself imports SciPy late and says less about how to get it.
    require("scipy", extra="train", feature=feature)
    torch = require("torch", extra="train", feature=feature)
    return torch, require("monai.metrics", extra="train", feature=feature)
