"""The steps of `make demo`, with fewer epochs, and what a reader of its output relies on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from autosam_deploy.cli.demo import main as demo
from autosam_deploy.cli.predict import main as predict
from autosam_deploy.export.cli import main as export

pytestmark = pytest.mark.slow


def run(command: Callable[..., object], *args: object) -> str:
    result = CliRunner().invoke(command, [str(arg) for arg in args])  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(("head", "least"), [("autosam", 0.1), ("linear", 0.0)])
def test_demo(tmp_path: Path, head: str, least: float) -> None:
    runs = tmp_path / "runs"
    text = run(demo, "fit", "--runs", runs, "--head", head, "--epochs", 3)
    assert "validation Dice" in text
    run(export, "--runs", runs, "--head", head, "--fp16", "--samples", runs / "demo" / "imagesTr")
    bundle, labels = runs / head / "model.autosam", runs / "demo" / "predicted"
    for _ in range(2):  # it can be run twice
        run(
            predict,
            bundle,
            "-i",
            runs / "demo" / "imagesTs",
            "-o",
            labels,
            "--overwrite",
            "--preview",
            "--report",
            runs / "demo" / "predicted.json",
        )
    text = run(demo, "report", "--runs", runs, "--head", head, "--labels", labels)
    rows = re.findall(r"heart_00([89]).*?([01]\.\d{3}) │$", text, re.MULTILINE)
    assert [row[0] for row in rows] == ["8", "9"]
    assert max(float(row[1]) for row in rows) >= least
    for written in (runs / head / "model.autosam", runs / "demo" / "labelsTr"):
        assert re.search(rf"\d [kM]B  {re.escape(str(written))}$", text, re.MULTILINE)
    assert text.endswith(f"open this picture: {(labels / 'heart_009.png').resolve()}\n")
    assert json.loads((runs / head / "run.json").read_text("utf-8"))["command"].endswith(
        f"--head {head} --epochs 3"
    )
    for name in ("heart_008", "heart_009"):
        assert (labels / f"{name}.nii.gz").is_file()
        assert Image.open(labels / f"{name}.png").size[0] > 500
    assert json.loads((runs / "demo" / "predicted.json").read_text("utf-8"))["cases"][0]["ml"]


def test_report_needs_a_phantom_set(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        demo, ["report", "--runs", str(tmp_path), "--labels", str(tmp_path)]
    )
    assert result.exit_code == 2
    assert "run autosam-demo fit first" in result.output
