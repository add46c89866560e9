from __future__ import annotations

import math

import pytest

from autosam_deploy.metrics.summary import (
    Statistic,
    statistic,
    summarise_class,
    summarise_foreground,
)
from autosam_deploy.metrics.surface import ClassScore, no_score


def both(label: int, dice: float, hd95: float, assd: float) -> ClassScore:
    return ClassScore(label, dice, hd95, assd, 1.0, 1.0)


def missed(label: int) -> ClassScore:
    return ClassScore(label, 0.0, math.nan, math.nan, 1.0, 0.0)


def invented(label: int) -> ClassScore:
    return ClassScore(label, 0.0, math.nan, math.nan, 0.0, 1.0)


def test_statistic_by_hand() -> None:
    assert statistic([1.0, math.nan, 2.0, 6.0]) == Statistic(3, 3.0, pytest.approx(7**0.5), 2.0)


def test_one_value_has_no_spread_and_none_has_nothing() -> None:
    one, none = statistic([0.5]), statistic([math.nan])
    assert (one.n, one.mean, one.median) == (1, 0.5, 0.5)
    assert none.n == 0
    assert all(math.isnan(value) for value in (one.sd, none.mean, none.sd, none.median))


def test_missing_is_counted_beside_the_means_of_distances() -> None:
    scores = [
        both(1, 0.8, 2.0, 1.0),
        both(1, 0.6, 4.0, 2.0),
        missed(1),
        missed(1),
        invented(1),
        no_score(1),
    ]
    found = summarise_class(scores)
    assert (found.label, found.missed, found.invented) == (1, 2, 1)
    assert (found.dice.n, found.dice.mean) == (5, pytest.approx(1.4 / 5))
    assert found.dice.median == 0
    assert (found.hd95_mm.n, found.hd95_mm.mean) == (2, 3.0)
    assert (found.assd_mm.n, found.assd_mm.mean) == (2, 1.5)


def test_each_class_weighs_the_same_in_the_foreground() -> None:
    often = summarise_class([both(1, 0.9, 1.0, 0.5)] * 9)
    seldom = summarise_class([both(2, 0.5, 3.0, 1.5), no_score(2)])
    lost = summarise_class([missed(3), missed(3)])
    never = summarise_class([no_score(4)])
    found = summarise_foreground([often, seldom, lost, never])
    assert (found.dice.n, found.dice.mean) == (3, pytest.approx((0.9 + 0.5 + 0) / 3))
    assert (found.hd95_mm.n, found.hd95_mm.mean) == (2, 2.0)
    assert (found.assd_mm.n, found.assd_mm.mean) == (2, 1.0)
    assert (found.missed, found.invented) == (2, 0)
