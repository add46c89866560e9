"""The table: what it says and that it fits its terminal."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from autosam_deploy.cli.evaluation import CaseScores, Evaluation
from autosam_deploy.cli.pairing import Pairing
from autosam_deploy.cli.scores import Scores, show_scores
from autosam_deploy.metrics.surface import ClassScore, no_score
from autosam_deploy.spec import default_classes

NAMES = ("background", "right_ventricle", "myocardium", "left_ventricle")


@pytest.fixture
def scores() -> Scores:
    """Ten cases; the right ventricle is missed in all but one, which has none."""
    classes = dict(enumerate(default_classes(4, NAMES)[1:], start=1))
    cases = []
    for number in range(10):
        lost = ClassScore(1, 0.0, math.nan, math.nan, 1.0, 0.0) if number else no_score(1)
        others = (ClassScore(n, 0.9, 123.456, 45.678, 1.0, 1.0) for n in (2, 3))
        cases.append(CaseScores(f"heart_{number:03d}", "p", "t", scores=(lost, *others)))
    return Scores(Evaluation(cases, classes), Pairing(()), "command", "predicted", "labels")


def shown(scores: Scores, width: int, *, verbose: bool = False) -> list[str]:
    stream = io.StringIO()
    show_scores(Console(file=stream, width=width), scores, verbose=verbose)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_one_line_a_class(scores: Scores, width: int) -> None:
    lines = shown(scores, width, verbose=True)
    assert max(map(len, lines)) <= width
    for start in ("right_ventricle ", "myocardium ", "left_ventricle ", "mean, 3 classes "):
        assert sum(line.startswith(start) for line in lines) == 1
    assert sum(line.startswith("heart_00") for line in lines) == 10


def test_columns_stand_apart_where_there_is_room(scores: Scores) -> None:
    for width, gap in ((80, " "), (120, "  ")):
        assert sum(f"missed{gap}invented" in line for line in shown(scores, width)) == 1


def test_mean_of_distances_says_what_it_is_of(scores: Scores) -> None:
    lines = shown(scores, 200)
    (row,) = (line.split() for line in lines if line.startswith("right_ventricle"))
    assert row == ["right_ventricle", "9", "0.000", "±", "0.000", "0.000", "0", *"---", "9", "0"]
    (row,) = (line.split() for line in lines if line.startswith("mean,"))
    assert row == ["mean,", "3", "classes", "0.600", "123.5", "45.68", "9", "0"]
    assert "10 cases scored; the mean of distances is one of 2 classes." in lines


def test_missing_is_named_by_case(scores: Scores) -> None:
    rows = [line.split() for line in shown(scores, 120, verbose=True) if line.startswith("heart")]
    assert rows[0] == ["heart_000", "0.900", "0.900", "123.5", "45.68"]
    assert rows[1] == ["heart_001", "0.600", "0.000", "123.5", "45.68", "right_ventricle"]
