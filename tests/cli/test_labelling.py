from __future__ import annotations

import errno
import importlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner, Result
from PIL import Image

from autosam_deploy.cli.predict import main
from autosam_deploy.errors import BackendError, OutOfMemoryError, OutputError
from autosam_deploy.volumes.read import read_labels
from autosam_deploy.volumes.volume import Volume

pytestmark = pytest.mark.usefixtures("fake")
Before = Callable[[Volume], None]


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["fake.autosam", *(str(arg) for arg in args)])


def report_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8")))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_on(name: str, error: BaseException) -> Before:
    def before(volume: Volume) -> None:
        if volume.name == name:
            raise error

    return before


def test_report_says_what_was_done(fake: Any, volumes: Path, tmp_path: Path) -> None:
    report = tmp_path / "new" / "run.json"
    result = run("-i", volumes, "-o", tmp_path / "out", "--report", report, "--batch", 2, "-v")
    assert result.exit_code == 0, result.output
    found = report_of(report)
    assert (found["name"], found["planned"], found["complete"]) == ("fake", 3, True)
    assert found["engine"]["notes"] == ["learnt something"]  # asked for after the run
    case = found["cases"][0]
    assert (case["status"], case["slices"], case["axis"], case["batch"]) == ("labelled", 4, "k", 3)
    count = int(read_labels(tmp_path / "out" / "heart_001.nii.gz").array.sum())
    assert case["voxels"] == {"class_1": count, "class_2": 0}
    assert set(case["seconds"]) == {"load", "run", "write"}
    assert "heart_001: labelled; 4 slices along k, batches of 3; load " in result.stderr
    assert "fake 1.0" in result.stderr


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OutOfMemoryError("one slice does not fit"), "heart_002.nii.gz': one slice does not fit"),
        (MemoryError(), "heart_002.nii.gz' does not fit into memory"),
        (OutputError("no place"), "no place"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_case_that_fails_does_not_stop_the_others(
    fake: Any, volumes: Path, tmp_path: Path, error: Exception, message: str
) -> None:
    fake.before = staticmethod(fail_on("heart_002", error))
    result = run("-i", volumes, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    assert message in result.stderr
    statuses = [case["status"] for case in json.loads(result.stdout)["cases"]]
    assert statuses == ["labelled", "failed", "labelled"]
    assert names_in(tmp_path / "out") == ["heart_001.nii.gz", "heart_003.nii.gz"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BackendError("the device is gone")])
def test_report_of_a_run_that_ends_early(
    fake: Any, volumes: Path, tmp_path: Path, error: BaseException
) -> None:
    fake.before = staticmethod(fail_on("heart_002", error))
    report = tmp_path / "run.json"
    result = run("-i", volumes, "-o", tmp_path / "out", "--report", report)
    assert result.exit_code == (2 if isinstance(error, BackendError) else 1)
    found = report_of(report)
    assert [case["status"] for case in found["cases"]] == ["labelled", "stopped"]
    assert (found["planned"], found["complete"]) == (3, False)
    assert names_in(tmp_path / "out") == ["heart_001.nii.gz"]
    assert "stopped after 1 of 3 cases; go on with --continue" in result.stderr
    fake.before = staticmethod(lambda volume: None)
    again = run("-i", volumes, "-o", tmp_path / "out", "--report", report, "--continue")
    assert again.exit_code == 0, again.output
    statuses = [case["status"] for case in report_of(report)["cases"]]
    assert statuses == ["skipped", "labelled", "labelled"]


def test_interrupt_while_writing_leaves_no_part(
    volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(image: Any, path: str, **options: Any) -> None:
        Path(path).write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(SimpleITK, "WriteImage", stop)
    assert run("-i", volumes, "-o", tmp_path / "out").exit_code == 1
    assert names_in(tmp_path / "out") == []


def test_continue_makes_labels_again_that_cannot_be_read(volumes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("-i", volumes, "-o", out, "-q").exit_code == 0
    whole = (out / "heart_002.nii.gz").read_bytes()
    (out / "heart_002.nii.gz").write_bytes(whole[:-30])
    result = run("-i", volumes, "-o", out, "--continue", "--json")
    assert result.exit_code == 0, result.output
    cases = json.loads(result.stdout)["cases"]
    assert [case["status"] for case in cases] == ["skipped", "labelled", "skipped"]
    assert re.match(r"made again: .*heart_002.nii.gz' cannot be read", cases[1]["notes"][0])
    assert cases[0]["ml"]["class_1"] > 0  # volumes of what is there already
    assert (out / "heart_002.nii.gz").stat().st_size == len(whole)


def test_previews_in_their_own_folder(volumes: Path, tmp_path: Path) -> None:
    out, pictures = tmp_path / "out", tmp_path / "pictures"
    args = ("-i", volumes, "-o", out, "--preview-dir", pictures)
    assert run(*args).exit_code == 0
    assert names_in(pictures) == [f"heart_00{n}.png" for n in (1, 2, 3)]
    assert names_in(out) == [f"heart_00{n}.nii.gz" for n in (1, 2, 3)]
    (pictures / "heart_002.png").unlink()
    result = run(*args, "--continue", "--json")
    assert [case["status"] for case in json.loads(result.stdout)["cases"]][1] == "labelled"
    assert Image.open(pictures / "heart_002.png").width > 400


def test_pictures_are_not_replaced_unasked(fake: Any, volumes: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "heart_001.png").write_text("somebody's")
    result = run("-i", volumes, "-o", tmp_path / "out", "--preview")
    assert result.exit_code == 2
    assert "heart_001.png' exists; use --continue" in result.stderr
    assert (tmp_path / "out" / "heart_001.png").read_text() == "somebody's"
    assert fake.opened == 0


def test_failed_preview_keeps_the_labels(
    volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, *args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    result = run("-i", volumes / "heart_001.nii.gz", "-o", tmp_path / "out", "--preview")
    assert result.exit_code == 2
    assert "heart_001.png'; got No space left on device" in result.stderr
    assert names_in(tmp_path / "out") == ["heart_001.nii.gz"]
    # The table folds long paths: the last column's parts are put together again.
    cells = [line.split("│")[-2].strip() for line in result.stdout.splitlines() if "│" in line]
    assert "".join(cells) == str(tmp_path / "out" / "heart_001.nii.gz")
    assert "1 failed" in result.stdout


def test_labels_never_replace_a_volume(fake: Any, volumes: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in volumes.iterdir()}
    (tmp_path / "link.nii.gz").hardlink_to(volumes / "heart_001.nii.gz")
    (tmp_path / "symlink").symlink_to(volumes)
    (tmp_path / "more").mkdir()
    for target in (volumes, tmp_path / "symlink", tmp_path / "link.nii.gz"):
        source = volumes / "heart_001.nii.gz"
        result = run("-i", source, "-o", target, "--overwrite")
        assert result.exit_code == 2, target
        assert "labels would replace their volume" in result.stderr
    result = run("-i", volumes, "-o", tmp_path / "o", "--report", volumes / "heart_002.nii.gz")
    assert "the report would replace" in result.stderr
    assert fake.opened == 0
    assert {path.name: path.read_bytes() for path in volumes.iterdir()} == before


def test_input_folder_is_not_written_to(volumes: Path, tmp_path: Path) -> None:
    before = names_in(volumes)
    args = ("--preview", "--report", tmp_path / "run.json")
    assert run("-i", volumes, "-o", tmp_path / "out", *args).exit_code == 0
    assert names_in(volumes) == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-o", "FILE/out"), "FILE' is a file; expected a folder"),
        (("-o", "FILE"), "FILE' is a file; expected a folder"),
        (("-o", "out", "--preview-dir", "FILE/x"), "FILE' is a file"),
        (("-o", "out", "--report", "FILE/run.json"), "FILE' is a file"),
        (("-o", "out", "--report", "."), "'.' is a folder; expected a file for --report"),
        (("-o", "TAKEN"), r"heart_001.nii.gz' is a folder; choose another"),
    ],
)
def test_places_that_cannot_be_written(
    fake: Any,
    volumes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("x")
    (tmp_path / "TAKEN" / "heart_001.nii.gz").mkdir(parents=True)
    result = run("-i", volumes, *args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert fake.opened == 0
    assert names_in(tmp_path) == ["FILE", "TAKEN", "in"]


def test_read_only_folder_is_refused_before_the_work(
    fake: Any, volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and real(path, mode))
    result = run("-i", volumes, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "where this user may not write; choose another output path" in result.stderr
    assert fake.opened == 0


def test_channel_is_no_part_of_the_name(volumes: Path, tmp_path: Path) -> None:
    for path in list(volumes.iterdir()):
        path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
    assert run("-i", volumes, "-o", tmp_path / "out", "-q").exit_code == 0
    assert names_in(tmp_path / "out") == [f"heart_00{n}.nii.gz" for n in (1, 2, 3)]


def test_labels_lie_along_the_axis_that_was_asked_for(volumes: Path, tmp_path: Path) -> None:
    source = volumes / "heart_001.nii.gz"
    found = []
    for axis in ("i", "k"):
        report = tmp_path / f"{axis}.json"
        target = tmp_path / f"{axis}.nrrd"
        run("-i", source, "-o", target, "--axis", axis, "--report", report)
        found.append(read_labels(target).array)
        case = report_of(report)["cases"][0]
        assert (case["axis"], case["slices"]) == (axis, {"i": 26, "k": 4}[axis])
    assert np.array_equal(*found)


def slowed(monkeypatch: pytest.MonkeyPatch, name: str, before: Callable[[Any], None]) -> None:
    """Call `before` with the first argument of a function that labelling uses."""
    module = importlib.import_module("autosam_deploy.cli.labelling")
    real = getattr(module, name)

    def wrapped(first: Any, *args: Any) -> Any:
        before(first)
        return real(first, *args)

    monkeypatch.setattr(module, name, wrapped)


def test_reading_running_and_writing_overlap(
    fake: Any, volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("read_volume", "write_volume"):
        slowed(monkeypatch, name, lambda path: time.sleep(0.2))
    fake.before = staticmethod(lambda volume: time.sleep(0.2))
    report = tmp_path / "run.json"
    assert run("-i", volumes, "-o", tmp_path / "out", "--report", report).exit_code == 0
    found = report_of(report)
    seconds = [case["seconds"] for case in found["cases"]]
    assert all(one[stage] >= 0.2 for one in seconds for stage in ("load", "run", "write"))
    # One after the other it takes nine times 0.2 s; five are on the longest way.
    assert found["seconds"] < sum(sum(one.values()) for one in seconds) - 0.4


def test_write_that_fails_is_recorded_in_its_case(
    volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        if path.name.startswith("heart_001"):
            time.sleep(0.1)
            raise OutputError("the disk is full")

    slowed(monkeypatch, "write_volume", full)
    result = run("-i", volumes, "-o", tmp_path / "out", "--json", "-v")
    assert result.exit_code == 1
    cases = json.loads(result.stdout)["cases"]
    assert [case["status"] for case in cases] == ["failed", "labelled", "labelled"]
    assert cases[0]["error"] == "the disk is full"
    assert set(cases[0]["seconds"]) == {"load", "run"}
    assert names_in(tmp_path / "out") == ["heart_002.nii.gz", "heart_003.nii.gz"]


def test_lines_of_cases_come_in_their_order(
    volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (volumes / "heart_002.nii.gz").write_bytes(b"no volume")
    slowed(monkeypatch, "write_volume", lambda path: time.sleep(0.1))
    result = run("-i", volumes, "-o", tmp_path / "out", "-v", "--report", tmp_path / "r.json")
    found = re.findall(r"^(heart_\d+): (\w+)", result.output, re.MULTILINE)
    assert [status for _, status in found] == ["labelled", "failed", "labelled"]
    assert [case["name"] for case in report_of(tmp_path / "r.json")["cases"]] == [
        name for name, _ in found
    ]


def test_interrupt_lets_the_labels_before_be_written(
    fake: Any, volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = threading.Event()

    def slow(path: Path) -> None:
        writing.set()
        time.sleep(0.2)

    def stop(volume: Volume) -> None:
        if volume.name == "heart_002":
            assert writing.wait(10)
            raise KeyboardInterrupt

    slowed(monkeypatch, "write_volume", slow)
    fake.before = staticmethod(stop)
    report = tmp_path / "run.json"
    assert run("-i", volumes, "-o", tmp_path / "out", "--report", report).exit_code == 1
    found = report_of(report)
    # The third was being read by then, and was never begun.
    assert [case["status"] for case in found["cases"]] == ["labelled", "stopped"]
    assert found["cases"][0]["voxels"]["class_1"] > 0
    assert names_in(tmp_path / "out") == ["heart_001.nii.gz"]


def test_volume_that_does_not_fit_beside_others_is_read_alone(
    volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def tight(path: Path) -> None:
        asked.append(path.name)
        if asked.count("heart_002.nii.gz") == 1 and path.name == "heart_002.nii.gz":
            raise MemoryError

    slowed(monkeypatch, "read_volume", tight)
    result = run("-i", volumes, "-o", tmp_path / "out", "--json")
    assert [case["status"] for case in json.loads(result.stdout)["cases"]] == ["labelled"] * 3
    assert asked.count("heart_002.nii.gz") == 2


@pytest.mark.parametrize(("args", "expected"), [((), None), (("--skip-flat",), 2)])
def test_flat_slices_are_told(
    volumes: Path, tmp_path: Path, args: tuple[str, ...], expected: int | None
) -> None:
    report = tmp_path / "run.json"
    result = run("-i", volumes, "-o", tmp_path / "out", "--report", report, "-v", *args)
    assert [case["flat_slices"] for case in report_of(report)["cases"]] == [expected] * 3
    told = "6 slices that hold one value were made background without a run." in result.stdout
    assert told == bool(expected)
    assert ("2 flat slices skipped" in result.stderr) == bool(expected)
