from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from autosam_deploy.cli.evaluate import main
from autosam_deploy.volumes.volume import Geometry, Volume
from autosam_deploy.volumes.write import write_volume

Index = tuple[int, int, int]
SHAPE = (4, 6, 8)
GEOMETRY = Geometry((1.0, 2.0, 5.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1, 0, 0, 0, 1))


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def result_of(*args: object) -> dict[str, Any]:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def write(path: Path, voxels: dict[Index, int], **changes: Any) -> None:
    """Write labels that are 0 but for some voxels (z, y, x)."""
    array = np.zeros(changes.pop("shape", SHAPE), changes.pop("dtype", np.uint8))
    for index, label in voxels.items():
        array[index] = label
    geometry = Geometry(**{**vars(GEOMETRY), **changes})
    write_volume(path, Volume(array, geometry, path.name))


def class_of(found: dict[str, Any], number: int) -> dict[str, Any]:
    return dict(found["summary"]["classes"][number - 1])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three cases of single voxels whose scores can be told by looking."""
    mine, truth = tmp_path / "predicted", tmp_path / "labels"
    write(truth / "a.nii.gz", {(1, 1, 1): 1, (2, 4, 3): 2})
    write(mine / "a.nii.gz", {(1, 1, 1): 1, (2, 4, 4): 2})  # class 2 moved by 1 mm
    write(truth / "b.nii.gz", {(1, 1, 1): 1, (3, 3, 3): 2})
    write(mine / "b.nii.gz", {(1, 2, 1): 1})  # class 1 moved by 2 mm, class 2 missed
    write(truth / "c.nii.gz", {(1, 1, 1): 1, (1, 1, 2): 1})
    write(mine / "c.nii.gz", {(1, 1, 1): 1, (1, 1, 2): 1})
    return mine, truth


def test_folders(folders: tuple[Path, Path]) -> None:
    found = result_of(*folders)
    assert [case["name"] for case in found["cases"]] == ["a", "b", "c"]
    first, second = class_of(found, 1), class_of(found, 2)
    assert (first["class"], first["label"]) == ("class_1", 1)
    assert first["dice"] == pytest.approx(
        {"n": 3, "mean": 2 / 3, "sd": 3**-0.5, "median": 1.0}, rel=1e-6
    )
    assert first["hd95_mm"] == pytest.approx(
        {"n": 3, "mean": 2 / 3, "sd": 2 * 3**-0.5, "median": 0.0}, rel=1e-6
    )
    assert (first["missed"], first["invented"]) == (0, 0)
    assert second["dice"] == {"n": 2, "mean": 0.0, "sd": 0.0, "median": 0.0}
    assert second["assd_mm"] == {"n": 1, "mean": 1.0, "sd": None, "median": 1.0}
    assert (second["missed"], second["invented"]) == (1, 0)
    mean = found["summary"]["foreground"]
    assert mean["dice"] == pytest.approx({"mean": 1 / 3, "classes": 2}, rel=1e-6)
    assert mean["hd95_mm"] == pytest.approx({"mean": 5 / 6, "classes": 2}, rel=1e-6)
    case = found["cases"][1]
    assert case["spacing_mm"] == [1.0, 2.0, 5.0]
    assert case["scores"][1] == {
        **{"class": "class_2", "label": 2, "found": "missed", "dice": 0.0},
        **{"hd95_mm": None, "assd_mm": None, "truth_ml": 0.01, "prediction_ml": 0.0},
    }
    assert found["cases"][2]["scores"][1]["found"] == "neither"


def test_record_says_what_was_measured_and_with_what(folders: tuple[Path, Path]) -> None:
    found = result_of(*folders)
    assert found["tool"].startswith("autosam-evaluate ")
    assert found["command"]
    assert set(found["versions"]) >= {"autosam-deploy", "monai"}
    assert set(found["definitions"]) >= {"dice", "hd95_mm", "assd_mm", "surface"}
    assert "missed (only in the truth)" in found["nan_policy"]
    assert (found["predictions"], found["labels"]) == tuple(map(str, folders))
    assert found["bundle"] is None


def test_files_are_the_numbers_of_json(folders: tuple[Path, Path], tmp_path: Path) -> None:
    table, record = tmp_path / "new" / "scores.csv", tmp_path / "new" / "scores.json"
    found = result_of(*folders, "--csv", table, "--out", record)
    assert json.loads(record.read_text("utf-8")) == found
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    expected = [
        {"case": case["name"], **score} for case in found["cases"] for score in case["scores"]
    ]
    assert rows == [
        {key: "" if value is None else str(value) for key, value in row.items()} for row in expected
    ]
    assert len(rows) == 3 * 2


def cells(text: str, first: str) -> list[str]:
    """The cells of the one row that begins with a word."""
    (line,) = (line for line in text.splitlines() if line.startswith(first))
    return line.split()


def test_table(folders: tuple[Path, Path]) -> None:
    result = run(*folders, "-v")
    assert result.exit_code == 0, result.output
    expected = ["class_1", "3", "0.667", "±", "0.577", "1.000", "3", "0.67", "0.00", "0.67"]
    assert cells(result.stdout, "class_1") == [*expected, "0", "0"]
    expected = ["class_2", "2", "0.000", "±", "0.000", "0.000", "1", "1.00", "1.00", "1.00"]
    assert cells(result.stdout, "class_2") == [*expected, "1", "0"]
    expected = ["mean,", "2", "classes", "0.333", "0.83", "0.83", "1", "0"]
    assert cells(result.stdout, "mean,") == expected
    # Of the case: mean and lowest Dice, means of distances over what has any, what was missed.
    assert cells(result.stdout, "b ") == ["b", "0.000", "0.000", "2.00", "2.00", "class_2"]
    assert cells(result.stdout, "c ") == ["c", "1.000", "1.000", "0.00", "0.00"]
    assert "3 cases scored." in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert run(*folders, "-q").output == ""
    assert "\nb " not in run(*folders).stdout


def test_plot(folders: tuple[Path, Path], tmp_path: Path) -> None:
    picture = tmp_path / "scores[1].png"
    names = "background,[red]$5 and $6,never,nowhere"  # no markup, no formula; one without scores
    result = run(*folders, "--plot", picture, "--classes", names)
    assert result.exit_code == 0, result.output
    assert cells(result.stdout, "[red]")[:4] == ["[red]$5", "and", "$6", "3"]
    assert cells(result.stdout, "nowhere")[1:] == [*"0--0---00"]
    image = Image.open(picture)
    assert image.format == "PNG"
    assert image.width == 1500
    assert 300 < image.height < 700
    assert len(image.convert("RGB").getcolors(1 << 20)) > 50  # something is drawn
    assert f"wrote {picture}" in result.stderr
    assert [path.name for path in tmp_path.glob(".tmp*")] == []


def test_two_files_pair_whatever_their_names(folders: tuple[Path, Path], tmp_path: Path) -> None:
    mine, truth = folders
    (mine / "b.nii.gz").rename(tmp_path / "guess.nii.gz")
    found = result_of(tmp_path / "guess.nii.gz", truth / "b.nii.gz")
    assert [case["name"] for case in found["cases"]] == ["b"]
    assert class_of(found, 1)["hd95_mm"]["mean"] == 2
    assert class_of(found, 1)["hd95_mm"]["sd"] is None


def test_float_labels(folders: tuple[Path, Path]) -> None:
    mine, truth = folders
    before = result_of(mine, truth)["summary"]
    write(truth / "a.nii.gz", {(1, 1, 1): 1, (2, 4, 3): 2}, dtype=np.float64)
    assert result_of(mine, truth)["summary"] == before
    array = np.full(SHAPE, 0.5)
    write_volume(truth / "a.nii.gz", Volume(array, GEOMETRY, "a"))
    result = run(mine, truth, "--json")
    assert result.exit_code == 1
    assert "a.nii.gz' is no label volume; got value 0.5" in result.stderr


def test_one_bad_file_does_not_stop_the_others(folders: tuple[Path, Path]) -> None:
    mine, truth = folders
    (mine / "b.nii.gz").write_bytes(b"not a volume")
    result = run(mine, truth, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [case["error"] is None for case in found["cases"]] == [True, False, True]
    assert (found["summary"]["cases"], found["summary"]["failed"]) == (2, 1)
    assert class_of(found, 1)["dice"]["n"] == 2
    assert result.stderr.startswith("error: volume")
    assert "2 cases scored, 1 failed and left out." in run(mine, truth).stdout


def test_nothing_evaluated_is_exit_code_2(folders: tuple[Path, Path], tmp_path: Path) -> None:
    mine, truth = folders
    for path in mine.iterdir():
        path.write_bytes(b"not a volume")
    files = {name: tmp_path / f"scores.{name}" for name in ("json", "csv", "png")}
    outputs = ("--out", files["json"], "--csv", files["csv"], "--plot", files["png"])
    result = run(mine, truth, *outputs)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 3 + 1  # and where the record is
    found = json.loads(files["json"].read_text("utf-8"))
    assert all("cannot be read" in case["error"] for case in found["cases"])
    assert found["summary"]["foreground"]["dice"] == {"mean": None, "classes": 0}
    assert not files["csv"].exists()
    assert not files["png"].exists()


def test_only_background(tmp_path: Path) -> None:
    for name in ("mine", "truth"):
        write(tmp_path / name / "a.nrrd", {})
    result = run(tmp_path / "mine", tmp_path / "truth")
    assert result.exit_code == 2
    assert "no label but background in any case; name the classes" in result.stderr
    found = result_of(tmp_path / "mine", tmp_path / "truth", "--classes", "background,heart")
    assert class_of(found, 1)["dice"] == {"n": 0, "mean": None, "sd": None, "median": None}


def test_unpaired(folders: tuple[Path, Path]) -> None:
    mine, truth = folders
    (mine / "a.nii.gz").rename(mine / "z.nii.gz")
    result = run(mine, truth)
    assert result.exit_code == 2
    assert "'z' without labels; 'a' without one of the predictions" in result.stderr
    assert "use --allow-missing to evaluate those that pair up" in result.stderr
    found = result_of(mine, truth, "--allow-missing")
    assert [case["name"] for case in found["cases"]] == ["b", "c"]
    assert found["unpaired"] == {"without_labels": ["z"], "without_prediction": ["a"]}
    shown = " ".join(run(mine, truth, "--allow-missing").stdout.split())
    assert "2 cases scored, 1 left out for want of labels, 1 left out for want of a pred" in shown


def test_nothing_pairs(folders: tuple[Path, Path], tmp_path: Path) -> None:
    write(tmp_path / "other" / "x.nii.gz", {})
    write(tmp_path / "other" / "y.nii.gz", {})
    result = run(tmp_path / "other", folders[1], "--allow-missing")
    assert result.exit_code == 2
    assert "'x', 'y' without labels; 'a', 'b', 'c' without one" in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (4, 6, 9)}, "differ in shape; got (4, 6, 9) (z, y, x); expected (4, 6, 8)"),
        ({"spacing": (1.0, 2.0, 5.1)}, "got spacing (1 2 5.1), origin (0 0 0), direction (1 0"),
        ({"origin": (0.0, 0.0, 2.0)}, "does not lie where its labels"),
        ({"direction": (-1.0, 0, 0, 0, -1, 0, 0, 0, 1)}, "does not lie where its labels"),
    ],
)
def test_another_place_is_no_match(
    folders: tuple[Path, Path], change: dict[str, Any], message: str
) -> None:
    mine, truth = folders
    write(mine / "b.nii.gz", {(1, 1, 1): 1}, **change)
    result = run(mine, truth, "--json")
    assert result.exit_code == 1
    assert message in result.stderr
    assert f"error: '{mine / 'b.nii.gz'}'" in result.stderr


def test_rounding_of_a_geometry_is_no_other_place(folders: tuple[Path, Path]) -> None:
    mine, truth = folders
    write(mine / "b.nii.gz", {(1, 1, 1): 1}, origin=(0.0, 0.0, 1e-4))
    assert len(result_of(mine, truth)["cases"]) == 3


def test_label_beyond_the_classes(folders: tuple[Path, Path]) -> None:
    mine, truth = folders
    write(mine / "c.nii.gz", {(1, 1, 1): 7})
    result = run(mine, truth, "--classes", "background,one,two", "--json")
    assert result.exit_code == 1
    assert f"'{mine / 'c.nii.gz'}' holds an unknown label; got 7; expected 0..2" in result.stderr
    # Without names a class is what is met: none between 2 and 7.
    found = result_of(mine, truth)
    assert [one["class"] for one in found["summary"]["classes"]] == [
        *("class_1", "class_2", "class_7")
    ]
    assert [class_of(found, number)["invented"] for number in (1, 2, 3)] == [0, 0, 1]


@pytest.mark.parametrize("form", ["comma", "file", "dataset.json"])
def test_class_names(folders: tuple[Path, Path], tmp_path: Path, form: str) -> None:
    text = "background, atrium,ventricle"
    if form == "file":
        text = str(tmp_path / "names.txt")
        Path(text).write_text("background\natrium\nventricle\n", "utf-8")
    elif form == "dataset.json":
        text = str(tmp_path / "dataset.json")
        labels = {"ventricle": 2, "background": 0, "atrium": 1}
        Path(text).write_text(json.dumps({"labels": labels}), "utf-8")
    found = result_of(*folders, "--classes", text)
    names = [one["class"] for one in found["summary"]["classes"]]
    assert names == ["atrium", "ventricle"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--classes", "atrium,ventricle"), "'background' first"),
        (("--plot", "scores.pdf"), "--plot; got 'scores.pdf'; expected a name that ends in .png"),
        (("--device", "cpu"), "--device is for a bundle; drop it, or give a bundle and --images"),
        (("--batch", "2"), "--batch is for a bundle"),
        (("--option", "arena=off"), "--option is for a bundle"),
        (("--batch", "0"), "--batch; got '0'; expected 1 or more, or auto"),
        (("--csv", "x", "--out", "x"), "--csv and --out name one file"),
        (("--csv", "."), "'.' is a folder; expected a file for --csv"),
        (("--out", "labels/b.nii.gz"), "--out would replace 'labels/b.nii.gz', which is read"),
        (("--csv", "labels/b.nii.gz/x"), "b.nii.gz"),
        (("--csv", "file/x.csv"), "file' is a file; expected a folder to write into"),
    ],
)
def test_wrong_arguments_are_one_line(
    folders: tuple[Path, Path],
    tmp_path: Path,
    args: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    before = {path: path.read_bytes() for path in folders[1].iterdir()}
    result = run(*folders, *args)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert {path: path.read_bytes() for path in folders[1].iterdir()} == before


def test_missing_package_is_named_before_any_work(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    result = run(*folders)
    assert result.exit_code == 2
    assert "pip install 'autosam-deploy[train]'" in result.stderr
