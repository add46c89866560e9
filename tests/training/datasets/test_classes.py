from __future__ import annotations

import json
from pathlib import Path

import pytest

from autosam_deploy.errors import SpecError, UsageError
from autosam_deploy.training.datasets.classes import class_names, given_names
from autosam_deploy.training.datasets.pairs import Dataset

PLAIN = Dataset("folders", ())
NAMED = Dataset("nnunet", (), class_names=("background", "liver", "tumour"))


def test_names_by_comma_win_over_those_of_the_set() -> None:
    assert class_names("Background, a ,b", NAMED, {0, 1, 2}) == ("Background", "a", "b")


def test_names_from_files(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("background\nleft atrium\n\nright, upper\n", "utf-8")
    found = class_names(str(tmp_path / "names.txt"), PLAIN, {0, 1, 2})
    assert found == ("background", "left atrium", "right, upper")
    labels = {"labels": {"0": "background", "1": "spleen"}}
    (tmp_path / "dataset.json").write_text(json.dumps(labels), "utf-8")
    found = class_names(str(tmp_path / "dataset.json"), NAMED, {0, 1})
    assert found == ("background", "spleen")


def test_names_of_the_set() -> None:
    assert class_names(None, NAMED, {0, 1}) == ("background", "liver", "tumour")
    assert given_names(None, NAMED) == ("background", "liver", "tumour")


def test_names_made_up_from_labels() -> None:
    assert given_names(None, PLAIN) is None
    assert class_names(None, PLAIN, {1, 2}) == ("background", "class_1", "class_2")


def test_gaps_want_names() -> None:
    with pytest.raises(
        SpecError, match=r"gaps; got 0, 2; expected 0\.\.2, and there is no 1; name"
    ):
        class_names(None, PLAIN, {0, 2})
    assert len(class_names("background,a,b", PLAIN, {0, 2})) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("background,a", r"fewer class names .* got 2 names \(background, a\) for labels 0, 1, 2"),
        ("a,background,b", "--classes does not begin with the background; got a, background, b"),
        ("a,b,c", "does not begin with the background"),
        ("background", "cannot be trained on; got the background alone"),
        (",".join(["background", *map(str, range(256))]), "got 257 classes; expected .* 255"),
    ],
)
def test_names_that_do_not_fit(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        class_names(text, PLAIN, {0, 1, 2})


def test_names_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--classes names something twice; got 'a'"):
        class_names("background,a,a", PLAIN, {0, 1})
    with pytest.raises(UsageError, match=r"--classes: no file '.*nowhere\.json'"):
        class_names(str(tmp_path / "nowhere.json"), PLAIN, {0, 1})
    with pytest.raises(SpecError, match="labels to name classes after; got 0; expected some fore"):
        class_names(None, PLAIN, {0})
