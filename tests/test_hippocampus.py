"""The whole path on real anatomy: fit, export with --fp16, label through autosam-predict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from autosam_deploy.cli.predict import main as predict
from autosam_deploy.cli.train import main as train_command
from autosam_deploy.export.cli import main as export
from autosam_deploy.metrics import dice
from autosam_deploy.volumes.read import read_labels, read_volume
from autosam_deploy.volumes.volume import same_space

pytestmark = [pytest.mark.slow, pytest.mark.data]
CLASSES = ("background", "anterior", "posterior")


def link_cases(source: Path, target: Path, names: list[str]) -> Path:
    target.mkdir(parents=True)
    for name in names:
        (target / f"{name}.nii.gz").symlink_to(source / f"{name}.nii.gz")
    return target


def run(command: Callable[..., object], *args: object) -> None:
    result = CliRunner().invoke(command, [str(arg) for arg in args])  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output


def mean_dice(labels: Path, truth: Path, names: list[str]) -> np.ndarray:
    """Mean Dice of every class over the test volumes."""
    scores = [
        dice(
            read_labels(labels / f"{name}.nii.gz").array,
            read_labels(truth / f"{name}.nii.gz").array,
            num_classes=3,
        )
        for name in names
    ]
    return np.nanmean(scores, axis=0)


def test_hippocampus(shared_data: Path, tmp_path: Path) -> None:
    data = shared_data / "hippocampus"
    split = json.loads((data / "split.json").read_text("utf-8"))
    train, test = split["train"][:10], split["test"]
    assert len(test) == 8
    images = link_cases(data / "images", tmp_path / "imagesTr", train)
    masks = link_cases(data / "labels", tmp_path / "labelsTr", train)
    held_out = link_cases(data / "images", tmp_path / "imagesTs", test)
    run(
        train_command,
        *("--images", images, "--labels", masks, "--classes", ",".join(CLASSES)),
        *("--head", "autosam", "--random-encoder", "vit_tiny"),
        *("--recipe", "reference", "--epochs", 8, "--val", 1),
        *("--runs", tmp_path / "runs"),
    )
    run(export, "--head", "autosam", "--fp16", "--runs", tmp_path / "runs", "--samples", images)
    bundle = tmp_path / "runs" / "autosam" / "model.autosam"
    scores = {}
    for name, options in {
        "torch": ("--backend", "torch"),
        "fp32": ("--precision", "fp32"),
        "fp16": ("--precision", "fp16"),
    }.items():
        run(predict, bundle, "-i", held_out, "-o", tmp_path / name, *options)
        scores[name] = mean_dice(tmp_path / name, data / "labels", test)
    assert scores["torch"][1:].mean() > 0.5
    assert np.abs(scores["fp32"] - scores["torch"]).max() <= 0.001
    assert np.abs(scores["fp16"] - scores["torch"]).max() <= 0.001
    for name in test:
        labels = read_labels(tmp_path / "fp16" / f"{name}.nii.gz")
        assert same_space(labels.geometry, read_volume(held_out / f"{name}.nii.gz").geometry)
