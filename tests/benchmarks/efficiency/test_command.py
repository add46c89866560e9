from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from autosam_deploy.benchmarks.cli import main
from autosam_deploy.benchmarks.efficiency import study
from autosam_deploy.benchmarks.efficiency.plan import RANDOM_ENCODER
from autosam_deploy.benchmarks.efficiency.store import Store
from autosam_deploy.errors import TrainingError

SMALL = (
    *("--methods", "unet,cnn", "--volumes", "2,1", "--seeds", "1", "--steps", "2", "--views", "1"),
    *("--val", "2", "--test", "2", "--cnn-channels", "4", "--unet-channels", "4,4,8,8,8"),
    *("--threads", "1", "--device", "cpu"),
)
CLASSES = "background,right_ventricle,myocardium,left_ventricle"


@pytest.fixture
def run(phantom_set: Path, encoder_files: dict[bool, Path], tmp_path: Path) -> Any:
    """Factory: run("--steps", "3") on the phantoms, with the options that make it small."""

    def invoke(*args: str, random: bool = True) -> Result:
        given = (
            *("label-efficiency", "--data", str(phantom_set), "--classes", CLASSES),
            *("--sam-checkpoint", str(encoder_files[random]), "--out", str(tmp_path / "study")),
            *SMALL,
            *args,
        )
        return CliRunner().invoke(main, given)

    return invoke


def test_a_study_from_end_to_end(run: Any, tmp_path: Path) -> None:
    done = run()
    assert done.exit_code == 0, done.output
    assert f"note: {RANDOM_ENCODER}" in done.stderr
    assert done.stdout.count(RANDOM_ENCODER) == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("[")]
    found = json.loads((tmp_path / "study" / "label-efficiency.json").read_text("utf-8"))
    # Methods are in the order of the table, numbers of volumes in theirs.
    for number, (line, cell) in enumerate(zip(lines, found["cells"], strict=True), start=1):
        assert line.startswith(f"[{number}/4] {cell['method']} ")
        assert f"Dice {cell['dice']:.3f}" in line
        assert f"{cell['volumes']} volume" in line
        assert "seed 0" in line
    assert [(cell["volumes"], cell["method"]) for cell in found["cells"]] == [
        (1, "cnn"),
        (1, "unet"),
        (2, "cnn"),
        (2, "unet"),
    ]
    assert " to go" in lines[0]
    assert " to go" not in lines[-1]
    for entry in found["summary"]:
        assert f"{entry['dice']['mean']:.3f}" in done.stdout
    assert found["data"]["name"] == "hearts"
    assert (tmp_path / "cache").is_dir()


def test_json_alone_on_stdout(run: Any, tmp_path: Path) -> None:
    done = run("--json", "--methods", "linear", "--volumes", "1")
    assert json.loads(done.stdout) == json.loads(
        (tmp_path / "study" / "label-efficiency.json").read_text("utf-8")
    )
    assert done.stderr == ""


def test_quiet_says_nothing(run: Any) -> None:
    done = run("-q", "--methods", "linear", "--volumes", "1")
    assert (done.exit_code, done.output) == (0, "")


def test_resume_and_overwrite(run: Any, tmp_path: Path) -> None:
    assert run("--methods", "cnn", "--volumes", "1").exit_code == 0
    again = run("--methods", "cnn", "--volumes", "1")
    assert again.exit_code == 2
    assert "holds a study already; go on with --resume" in again.stderr
    assert "volumes to draw from" not in again.stderr  # before anything is read
    more = run("--methods", "cnn", "--resume")
    assert "1 cell to train, 1 are there already" in more.stderr
    other = run("--methods", "cnn", "--resume", "--steps", "3")
    assert other.exit_code == 2
    assert "steps 2" in other.stderr
    assert "expected steps 3" in other.stderr
    assert run("--methods", "cnn", "--overwrite", "--steps", "3").exit_code == 0


def test_the_default_is_doublings_of_the_pool(run: Any, phantom_set: Path, tmp_path: Path) -> None:
    args = ("--methods", "unet", "--out", str(tmp_path / "other"), "--json")
    given = ("label-efficiency", "--data", str(phantom_set), *SMALL, *args)
    at = given.index("--volumes")
    done = CliRunner().invoke(main, (*given[:at], *given[at + 2 :]))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [one["volumes"] for one in found["summary"]] == [1, 2, 4]
    assert (found["encoder"], found["warning"], found["embeddings"]) == (None, None, [])
    assert found["recipe"]["image_sizes"] == []
    assert found["data"]["classes"][1:] == ["class_1", "class_2", "class_3"]


def test_failed_cells_end_in_exit_code_1(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*args: Any, **options: Any) -> dict[str, Any]:
        raise TrainingError("the head died", got="constant output")

    monkeypatch.setattr(study, "fit_cell", fit)
    done = run("--methods", "cnn", "--volumes", "1")
    assert done.exit_code == 1
    assert "FAILED: the head died; got constant output" in done.stderr
    assert "failed: cnn, 1 volume, seed 0: the head died; got constant output" in done.stdout


def test_an_interrupted_study_says_how_to_go_on(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*args: Any, **options: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "fit_cell", fit)
    done = run()
    assert done.exit_code == 1
    assert "stopped with 4 of 4 cells to go; the same command with --resume" in done.stderr


def test_a_split_file_gives_the_roles(run: Any, phantom_set: Path, tmp_path: Path) -> None:
    names = [f"heart_{number:03d}" for number in range(10)]
    split = {"train": names[2:6], "val": names[:1], "test": names[6:8]}
    (tmp_path / "split.json").write_text(json.dumps(split), "utf-8")
    given = [
        *("label-efficiency", "--data", str(phantom_set), "--split", str(tmp_path / "split.json")),
        *("--methods", "unet", "--volumes", "1", "--seeds", "1", "--steps", "1", "--json"),
        *("--unet-channels", "4,4,8,8,8", "--threads", "1", "--out", str(tmp_path / "split")),
    ]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)["data"]
    assert [data["pool"], data["validation"], data["test"]] == list(split.values())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--volumes", "1,7"), "--volumes; got 7; expected 1 to 6, which is what 2 for validation"),
        (("--volumes", "1,two"), "--volumes; got '1,two'; expected numbers by comma"),
        (("--volumes", "-1"), "--volumes; got '-1'; expected numbers by comma"),
        (("--volumes", "0"), "volumes; got 0; expected 1 or more"),
        (("--methods", "cnn,resnet"), "--methods; got 'resnet'; expected some of autosam, cnn,"),
        (("--methods", "cnn,cnn"), "--methods named twice; got cnn"),
        (("--val", "8"), "no volume is left to learn from; got 10 in all, 8 for validation"),
        (("--test", "11"), "--test; got 11; expected at most 10"),
        (("--resume",), "nothing to resume in"),
        (("--resume", "--overwrite"), "--resume and --overwrite contradict each other"),
        (("--random-encoder", "vit_tiny"), "got --sam-checkpoint and --random-encoder; expected"),
        (("--methods", "unet"), "the encoder; got options of it for methods that have none"),
        (("--image-size", "50"), "got 50x50; expected multiples of 8, 32 or more"),
        (("--image-size", "48,24"), "'custom'; got 24x24; expected multiples of 8"),
        (("--image-size", "48,big"), "--image-size; got 'big'; expected N or HxW in pixels"),
        (("--image-size", "48,48x48"), "image sizes named twice; got 48x48"),
        (
            ("--image-size", "48,64", "--cache-limit", "120kB"),
            "the embeddings of all image sizes do not fit the cache's limit",
        ),
        (("--steps", "0"), "steps; got 0; expected > 0"),
        (("--unet-channels", "4,4"), "channels of the U-Net; got (4, 4); expected five numbers"),
        (("--cache-limit", "many"), "a size; got 'many'"),
        (("--cache-limit", "9kB"), "the embeddings of this run do not fit the cache's limit"),
        (("--classes", "background,heart"), "holds unknown labels; got 2"),
        (("--device", "tpu"), "unknown device; got 'tpu'"),
        (("--images", "x"), "a labelled data set; got --images, --data"),
    ],
)
def test_wrong_arguments(run: Any, tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    done = run(*args)
    assert done.exit_code == 2, done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    # What is put right can be run again as it is.
    Store(tmp_path / "study").check(resume=False, overwrite=False)


def test_help_has_examples() -> None:
    assert "label-efficiency" in CliRunner().invoke(main, ["--help"]).output
    text = CliRunner().invoke(main, ["label-efficiency", "--help"]).output
    assert "  autosam-bench label-efficiency --data heart/ --split split.json" in text
    assert "Exit code: 0 all trained, 1 some cells failed" in " ".join(text.split())
