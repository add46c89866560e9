"""Scores of many cases as means that cannot flatter: every one with the cases behind it.

NaN policy (see `surface`): a class that a case holds in neither the prediction nor the truth is
left out of every mean. A class in one of them only enters the mean of Dice as 0, is left out of the
means of distances, and is counted as missed or invented. The foreground mean is the mean of the
means of the classes, so that each class weighs the same; a class without a mean is left out, and
the number of classes is stated.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autosam_deploy.metrics.surface import ClassScore, Found

_NAN = math.nan


@dataclass(frozen=True)
class Statistic:
    """A mean, the number behind it, the sample standard deviation (n - 1) and the median.

    NaN where there is nothing to take them of: all without values, sd with one value.
    """

    n: int
    mean: float
    sd: float
    median: float


@dataclass(frozen=True)
class ClassSummary:
    """One class over all cases. missed, invented: cases with it in truth or prediction only."""

    label: int
    dice: Statistic
    hd95_mm: Statistic
    assd_mm: Statistic
    missed: int
    invented: int


@dataclass(frozen=True)
class Foreground:
    """Means of the means of classes (`n` counts classes), and all that was missed or invented."""

    dice: Statistic
    hd95_mm: Statistic
    assd_mm: Statistic
    missed: int
    invented: int


def statistic(values: Iterable[float]) -> Statistic:
    """Return mean, sample standard deviation and median of the values that are not NaN."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Statistic(0, _NAN, _NAN, _NAN)
    sd = statistics.stdev(known) if len(known) > 1 else _NAN
    return Statistic(len(known), statistics.fmean(known), sd, statistics.median(known))


def summarise_class(scores: Sequence[ClassScore]) -> ClassSummary:
    """Summarise the scores of one class, one a case."""
    return ClassSummary(
        label=scores[0].label,
        dice=statistic(score.dice for score in scores),
        hd95_mm=statistic(score.hd95_mm for score in scores),
        assd_mm=statistic(score.assd_mm for score in scores),
        missed=_count(scores, "missed"),
        invented=_count(scores, "invented"),
    )


def summarise_foreground(classes: Sequence[ClassSummary]) -> Foreground:
    """Average the means of the classes behind background."""
    return Foreground(
        dice=statistic(one.dice.mean for one in classes),
        hd95_mm=statistic(one.hd95_mm.mean for one in classes),
        assd_mm=statistic(one.assd_mm.mean for one in classes),
        missed=sum(one.missed for one in classes),
        invented=sum(one.invented for one in classes),
    )


def _count(scores: Iterable[ClassScore], found: Found) -> int:
    return sum(score.found == found for score in scores)
