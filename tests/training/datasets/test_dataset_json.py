from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autosam_deploy.errors import SpecError, UsageError
from autosam_deploy.training.datasets.dataset_json import read_dataset_json

NNUNET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumour": 2}}


def write(folder: Path, content: Any) -> Path:
    path = folder / "dataset.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def test_nnunet(tmp_path: Path) -> None:
    labels = {"tumour": 2, "background": 0, "liver": 1}
    found = read_dataset_json(
        write(tmp_path, {**NNUNET, "labels": labels, "file_ending": ".nrrd", "numTraining": 3})
    )
    assert (found.schema, found.file_ending) == ("nnunet", ".nrrd")
    assert found.class_names == ("background", "liver", "tumour")
    assert found.channels == ("CT",)


def test_decathlon(tmp_path: Path) -> None:
    labels = {str(value): f"part {value}" for value in range(1, 12)} | {"0": "Background"}
    found = read_dataset_json(write(tmp_path, {"labels": labels, "modality": {"0": "MRI"}}))
    assert (found.schema, found.file_ending, found.channels) == ("decathlon", None, ("MRI",))
    # In order of their values, not of the texts: 2 before 10.
    assert found.class_names == ("Background", *(f"part {value}" for value in range(1, 12)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "whole": [1, 2], "core": [2]}, r"regions: .* 'whole', 'core', such as"),
        ({"background": 0, "liver": 1, "ignore": 2}, "label to ignore; got 'ignore': 2"),
        ({"0": "background", "1": "Ignore"}, "label to ignore; got 'Ignore': 1"),
        ({"background": 0, "liver": 2}, r"skips label values; got 0, 2; expected 0\.\.1"),
        ({"0": "background", "2": "liver"}, "skips label values; got 0, 2"),
        ({"background": 0, "liver": 1, "x": 1}, "two classes the label 1; got 'liver' and 'x'"),
        ({"background": 0, "liver": "one"}, "gives 'liver' no label; got 'one'"),
        ({"background": 0, "liver": True}, "gives 'liver' no label; got True"),
        ({"liver": 0, "background": 1}, "does not begin with the background; got liver, backg"),
        ({"0": "background", "1": "a", "2": "a"}, "several classes one name; got 'a'"),
        (
            {"background": 0},
            "cannot be trained on; got the background alone; expected .* 1 to 255 others",
        ),
        ({}, "names no labels; got 'labels' that is empty"),
        (["background", "liver"], "names no labels"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read_dataset_json(write(tmp_path, {**NNUNET, "labels": labels}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_names": ["CT"]}, r"does not number its channels; got \['CT'\]"),
        ({"channel_names": {"1": "CT"}}, "does not number its channels"),
        ({"file_ending": 3}, "file_ending of .*; got 3; expected text"),
        ({"dataset": {"a": {"images": ["x"], "label": "y"}}}, "names its files one by one"),
    ],
)
def test_other_fields(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read_dataset_json(write(tmp_path, {**NNUNET, **change}))


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is no JSON; got Expecting"), ("[1]", "no JSON object; got a list of 1; expected {")],
)
def test_no_json(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_dataset_json(write(tmp_path, text))
    with pytest.raises(SpecError, match="names no labels; got no 'labels'"):
        read_dataset_json(write(tmp_path, {"name": "x"}))
    with pytest.raises(UsageError, match="cannot be read; got No such file"):
        read_dataset_json(tmp_path / "nowhere.json")
