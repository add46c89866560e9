"""Overlap and agreement of labels.

NaN policy: a class that is in neither the prediction nor the truth has no Dice: it is NaN and is
left out of means. A class that is in one of them only has Dice 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.errors import UsageError


def dice(prediction: NDArray[Any], truth: NDArray[Any], *, num_classes: int) -> NDArray[np.float64]:
    """Return the Dice coefficient 2 |A and B| / (|A| + |B|) of every class.

    Args:
        prediction: labels of any shape.
        truth: labels of the same shape.
        num_classes: K; values are 0 .. K - 1.

    Returns:
        (K,), NaN where a class is in neither.

    Raises:
        UsageError: shapes differ, or a value is not below `num_classes`.
    """
    if prediction.shape != truth.shape:
        raise UsageError(
            "labels to compare", got=f"shapes {prediction.shape} and {truth.shape}", expected="one"
        )
    for labels in (prediction, truth):
        if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
            raise UsageError(
                "labels to compare",
                got=f"values {labels.min()}..{labels.max()}",
                expected=f"0..{num_classes - 1}",
            )
    scores = np.full(num_classes, np.nan)
    for label in range(num_classes):
        mine, theirs = prediction == label, truth == label
        if total := int(mine.sum()) + int(theirs.sum()):
            scores[label] = 2 * int((mine & theirs).sum()) / total
    return scores


def mean_foreground(scores: NDArray[np.float64]) -> float:
    """Return the mean over the classes behind background; NaN when none of them is there."""
    present = scores[1:][~np.isnan(scores[1:])]
    return float(present.mean()) if present.size else float("nan")


@dataclass(frozen=True)
class Agreement:
    """Agreement of labels, pixels without a clear winner counted apart.

    share: of equal labels among decided pixels (0..1; 1 when there are none). ties: share of all
    pixels that are near-ties. dice: per class over decided pixels, NaN as in `dice`.
    """

    share: float
    ties: float
    dice: tuple[float, ...]


def label_agreement(
    labels: NDArray[np.uint8], truth_logits: NDArray[np.floating[Any]], *, tie_margin: float
) -> Agreement:
    """Compare labels with the argmax of the truth.

    Args:
        labels: (B, H, W) uint8.
        truth_logits: (B, K, H, W).
        tie_margin: a pixel whose two largest truth logits lie this close or closer is a near-tie:
            rounding alone may decide it either way.
    """
    truth = truth_logits.argmax(axis=1)
    top = np.sort(truth_logits, axis=1)[:, -2:]
    decided = (top[:, 1] - top[:, 0]) > tie_margin
    scores = dice(labels[decided], truth[decided], num_classes=truth_logits.shape[1])
    share = float((labels == truth)[decided].mean()) if decided.any() else 1.0
    return Agreement(share, float(1 - decided.mean()), tuple(scores.tolist()))
