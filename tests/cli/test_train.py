"""`autosam-train` as a user calls it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from autosam_deploy.cli.train import main
from autosam_deploy.models.checkpoints import read_checkpoint, write_encoder
from autosam_deploy.models.encoders import seeded_encoder_state
from autosam_deploy.spec import ModelSpec
from autosam_deploy.training.fitting.recipe import Epoch
from autosam_deploy.training.run import JOURNAL_FILE
from autosam_deploy.volumes.phantom import make_phantom, write_phantom_set
from autosam_deploy.volumes.volume import Volume
from autosam_deploy.volumes.write import write_volume

Train = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_phantom_set(tmp_path / "data", train=4, test=1)
    return tmp_path / "data"


@pytest.fixture
def sam(tmp_path: Path, model_spec: Callable[..., ModelSpec]) -> Path:
    path = tmp_path / "sam.safetensors"
    write_encoder(path, seeded_encoder_state(model_spec("linear").encoder, 0))
    return path


@pytest.fixture
def train(tmp_path: Path, data: Path, sam: Path) -> Train:
    """Runs the command with a data set, an encoder and few epochs; options may replace these."""

    def call(*options: object, where: tuple[object, ...] | None = None) -> Result:
        given = ("--data", data, "--sam-checkpoint", sam) if where is None else where
        fixed = (
            *("--head", "linear", "--recipe", "reference", "--epochs", 2),
            *("--threads", 1, "--runs", tmp_path / "runs"),
        )
        return CliRunner().invoke(main, [str(one) for one in (*given, *fixed, *options)])

    return call


def fails(result: Result, text: str) -> None:
    assert result.exit_code == 2, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert text in errors[0]
    assert "Traceback" not in result.output


def test_result_is_where_export_looks(train: Train, tmp_path: Path) -> None:
    result = train("--views", 1)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "linear"
    assert sorted(path.name for path in folder.iterdir()) == [
        "curves.png",
        "head.safetensors",
        "metrics.json",
        "run.json",
        "train.log",
    ]
    info = read_checkpoint(folder / "head.safetensors").info
    assert info is not None
    assert [entry.name for entry in info.classes][1] == "right_ventricle"  # of dataset.json
    assert info.training["volumes"] == 3
    assert info.training["views"] == 1
    for text in (
        "3 volumes to learn from (36 slices), 1 to choose the epoch with (12 slices)",
        "84 needed, 0 in the cache, 84 to compute",
        "Scores on 1 validation volumes",
        "left_ventricle",
        "next: autosam-export --head linear --fp16 --runs",
    ):
        assert text in result.stderr, text
    log = (folder / "train.log").read_text("utf-8")
    assert "epoch   2   loss" in log
    assert "all 2 epochs are done" in log
    assert "left_ventricle" in log


def test_json_is_the_record(train: Train, tmp_path: Path) -> None:
    result = train("--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    printed = json.loads(result.stdout)
    metrics = json.loads((tmp_path / "runs" / "linear" / "metrics.json").read_text("utf-8"))
    assert printed == {"head": str(tmp_path / "runs" / "linear" / "head.safetensors"), **metrics}
    assert printed["recipe"]["learning_rate"] == 5e-4
    assert printed["recipe"]["batch"] == 4


def test_quiet_says_nothing(train: Train) -> None:
    result = train("-q")
    assert result.exit_code == 0
    assert result.output == ""


def test_random_encoder_is_called_random(train: Train, data: Path, tmp_path: Path) -> None:
    result = train("--epochs", 1, where=("--data", data, "--random-encoder", "vit_tiny"))
    assert result.exit_code == 0, result.output
    assert "RANDOM weights" in result.stderr
    assert "the encoder's weights are random: these scores say nothing of SAM" in result.stderr
    assert "scores say nothing of SAM" in (tmp_path / "runs/linear/train.log").read_text("utf-8")
    run = json.loads((tmp_path / "runs/linear/run.json").read_text("utf-8"))
    assert run["sam_checkpoint"] == "../encoders/vit_tiny-random.safetensors"


def test_recipe_and_views_are_what_was_asked_for(train: Train, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"flip_probability": 0.0, "rotation": [-0.2, 0.2]}', "utf-8")
    options = ("--views", 2, "--views-seed", 7, "--view-recipe", recipe, "--lr", 1e-3, "--batch", 8)
    result = train(*options, "--patience", 0, "--seed", 5, "--intensity", "window:300,900")
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "runs/linear/metrics.json").read_text("utf-8"))
    assert metrics["recipe"]["learning_rate"] == 1e-3
    assert metrics["recipe"]["batch"] == 8
    assert metrics["recipe"]["seed"] == 5
    assert metrics["data"]["view_recipe"]["flip_probability"] == 0.0
    assert metrics["data"]["view_recipe"]["rotation"] == [-0.2, 0.2]
    info = read_checkpoint(tmp_path / "runs/linear/head.safetensors").info
    assert info is not None
    assert (info.preprocess.window_level, info.preprocess.window_width) == (300, 900)


def test_the_image_size_goes_into_the_head(train: Train, tmp_path: Path) -> None:
    result = train("--image-size", "32x40")
    assert result.exit_code == 0, result.output
    assert "encoder custom at 32x40" in result.stderr
    info = read_checkpoint(tmp_path / "runs/linear/head.safetensors").info
    assert info is not None
    assert info.encoder.image_size == (32, 40)
    metrics = json.loads((tmp_path / "runs/linear/metrics.json").read_text("utf-8"))
    assert metrics["encoder"]["image_size"] == [32, 40]
    # Embeddings of another size are others.
    again = train("--overwrite")
    assert " 0 in the cache" in again.stderr
    assert "encoder custom at 48x48" in again.stderr


def test_volumes_by_name_and_split(train: Train, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    split.write_text(
        '{"train": ["heart_000", "heart_003"], "val": ["heart_001"], "test": ["heart_002"]}'
    )
    assert train("--split", split).exit_code == 0
    metrics = json.loads((tmp_path / "runs/linear/metrics.json").read_text("utf-8"))
    assert metrics["data"]["train"] == ["heart_000", "heart_003"]
    assert metrics["data"]["validation"] == ["heart_001"]
    assert train("--volumes", "heart_002", "--val", "0", "--overwrite").exit_code == 0
    metrics = json.loads((tmp_path / "runs/linear/metrics.json").read_text("utf-8"))
    assert metrics["data"]["train"] == ["heart_002"]
    assert metrics["data"]["validation"] == []


def test_head_that_is_there_is_kept(train: Train, tmp_path: Path) -> None:
    assert train().exit_code == 0
    head = tmp_path / "runs/linear/head.safetensors"
    before = head.read_bytes()
    fails(train("--seed", 1), "is there already; train into another folder with -o, or add --over")
    assert head.read_bytes() == before
    assert train("--seed", 1, "-o", tmp_path / "elsewhere").exit_code == 0
    assert train("--seed", 1, "--overwrite").exit_code == 0
    assert head.read_bytes() != before
    assert head.read_bytes() == (tmp_path / "elsewhere/head.safetensors").read_bytes()


def test_stopped_training_is_kept_until_told(train: Train, tmp_path: Path) -> None:
    fails(train("--resume"), "nothing to resume")
    fails(train("--resume", "--overwrite"), "--resume and --overwrite contradict each other")
    folder = tmp_path / "runs/linear"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JOURNAL_FILE).write_bytes(b"half a file")
    fails(train(), "holds a training that was stopped; go on with --resume, or start anew with")
    fails(train("--resume"), "cannot be read")
    assert train("--overwrite").exit_code == 0
    assert not (folder / JOURNAL_FILE).exists()


def test_killed_training_goes_on(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autosam_deploy.cli.training import Screen
    from autosam_deploy.training.fitting import resume

    monkeypatch.setattr(resume, "SAVE_EVERY_S", 0.0)
    whole = train("--epochs", 4, "-o", tmp_path / "whole")
    assert whole.exit_code == 0

    def kill(self: Screen, epoch: Epoch) -> None:
        if epoch.number == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Screen, "epoch", kill)
        stopped = train("--epochs", 4)
    assert stopped.exit_code == 1
    assert "stopped; go on with --resume" in stopped.stderr
    fails(train("--epochs", 4), "holds a training that was stopped; go on with --resume")
    resumed = train("--epochs", 4, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert "going on behind epoch 2" in resumed.stderr
    heads = [tmp_path / folder / "head.safetensors" for folder in ("whole", "runs/linear")]
    assert heads[0].read_bytes() == heads[1].read_bytes()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--volumes", 9), "--volumes; got 9"),
        (("--volumes", "heart_009"), "heart_009"),
        (("--val", 4), "got 0, with 4 of 4 for validation"),
        (("--cache-limit", "1kB"), "do not fit the cache's limit"),
        (("--cache-limit", "much"), "a size; got 'much'"),
        (("--intensity", "ct"), "--intensity"),
        (("--intensity", "window:40"), "--intensity; got window:40; expected window:LEVEL,WIDTH"),
        (("--views", -1), "views of a slice; got -1; expected 0 or more"),
        (("--epochs", 0), "training epochs; got 0; expected > 0"),
        (("--device", "cuda:7"), "device 'cuda:7' is not there"),
        (("--encoder", "vit_b"), "holds another encoder; got custom; expected vit_b"),
        (("--image-size", 50), "got 50x50; expected multiples of 8, 32 or more"),
        (
            ("--image-size", "24x48"),
            "got 24x48; expected multiples of 8, 32 or more",
        ),
        (("--image-size", "small"), "--image-size; got 'small'; expected N or HxW in pixels"),
        (("--classes", "background,a"), "unknown labels"),
        (("--random-encoder", "vit_tiny"), "expected one of --sam-checkpoint FILE and --random"),
        (("--view-recipe", "none.json"), "--view-recipe; got no file 'none.json'"),
        (("--images", "x"), "--data"),
    ],
    ids=lambda value: "_".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_wrong_arguments(
    train: Train, tmp_path: Path, options: tuple[object, ...], text: str
) -> None:
    fails(train(*options), text)
    assert not (tmp_path / "runs/linear/head.safetensors").exists()


def test_no_encoder(train: Train, data: Path, tmp_path: Path) -> None:
    fails(train(where=("--data", data)), "the encoder's weights; got nothing; expected one of")
    text = tmp_path / "text.pth"
    text.write_text("not weights")
    fails(train(where=("--data", data, "--sam-checkpoint", text)), "it is not a weights file")


def test_labels_that_are_wrong(train: Train, data: Path) -> None:
    path = data / "labelsTr" / "heart_001.nii.gz"
    whole = path.read_bytes()
    _, labels = make_phantom(1)

    def write(array: np.ndarray) -> None:
        write_volume(path, Volume(array, labels.geometry, labels.name))

    write(labels.array * np.uint8(0))
    fails(train(), "holds no foreground")
    assert train("--skip-empty").exit_code == 0
    write(labels.array + np.float32(0.5))
    fails(train("--overwrite"), "is no label volume; got value 0.5")
    path.write_bytes(whole[: len(whole) // 2])
    fails(train("--overwrite"), "cannot be read")
    path.unlink()
    fails(train("--overwrite"), "do not pair up; got 'heart_001' without labels")


def test_reference_png_folders(train: Train, sam: Path, data: Path, tmp_path: Path) -> None:
    from PIL import Image

    png = tmp_path / "png"
    for number in range(2):
        image, labels = make_phantom(number)
        for folder, array in (("imgs", image.array // 8), ("annotations", labels.array)):
            (png / folder / image.name).mkdir(parents=True)
            for index, slice_ in enumerate(array.astype(np.uint8)):
                Image.fromarray(slice_).save(png / folder / image.name / f"{index}.png")
    shutil.rmtree(data)
    result = train(where=("--data", png, "--sam-checkpoint", sam))
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "runs/linear/metrics.json").read_text("utf-8"))
    row = scores["validation_scores"][0]["classes"][0]
    assert row["hd95_mm"] is None  # PNG files do not tell their spacing
    assert row["dice"] is not None


def test_folder_that_cannot_be_written(train: Train, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fails(train("-o", tmp_path / "file" / "sub"), "cannot write into")


def test_the_default_recipe_is_steady(train: Train, tmp_path: Path) -> None:
    result = train("--recipe", "steady")
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "runs" / "linear" / "metrics.json").read_text("utf-8"))
    recipe, rates = metrics["recipe"], [one["learning_rate"] for one in metrics["history"]]
    assert (recipe["schedule"], recipe["average"], recipe["epochs"]) == ("cosine", 0.98, 2)
    assert rates[0] > rates[-1] > 0
    assert metrics["data"]["views"] == 2
    assert metrics["data"]["view_recipe"]["flip_probability"] == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--steps", 5), "--steps; got --recipe reference; expected --epochs"),
        (("--recipe", "steady", "--steps", 5), "--steps and --epochs contradict each other"),
        (
            ("--recipe", "steady", "--lr-patience", 5),
            "--lr-patience; got --recipe steady; expected --recipe reference",
        ),
    ],
)
def test_options_of_the_other_recipe_are_refused(
    train: Train, options: tuple[object, ...], text: str
) -> None:
    fails(train(*options), text)
