"""The steps of `make demo`, with fewer epochs, and what a reader of its output relies on."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from autosam_deploy.cli.demo import main as demo
from autosam_deploy.cli.evaluate import main as evaluate
from autosam_deploy.cli.predict import main as predict
from autosam_deploy.cli.train import main as train
from autosam_deploy.export.cli import main as export

COMMANDS: dict[str, Callable[..., object]] = {
    "autosam-demo": demo,
    "autosam-train": train,
    "autosam-export": export,
    "autosam-predict": predict,
    "autosam-evaluate": evaluate,
}


def steps(*, runs: Path, head: str, epochs: int) -> list[list[str]]:
    """The recipe of `make demo` as the Makefile has it, with another folder, head and length."""
    makefile = (Path(__file__).parents[1] / "Makefile").read_text("utf-8")
    recipe = makefile.partition("\ndemo:")[2].partition("\n\n")[0].replace("\\\n", " ")
    lines = [line.strip() for line in recipe.splitlines() if "autosam-" in line and "@" not in line]
    text = "\n".join(lines).replace("$(BIN)/", "").replace("$(RUNS)", str(runs))
    text = text.replace("--head autosam", f"--head {head}").replace("epochs 24", f"epochs {epochs}")
    text = text.replace("/autosam/", f"/{head}/")
    return [shlex.split(line) for line in text.splitlines()]


def run(step: list[str]) -> str:
    result = CliRunner().invoke(COMMANDS[step[0]], step[1:])  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
@pytest.mark.parametrize(("head", "least"), [("autosam", 0.1), ("linear", 0.0)])
def test_demo(tmp_path: Path, head: str, least: float) -> None:
    runs = tmp_path / "runs"
    wanted = steps(runs=runs, head=head, epochs=3)
    assert [step[0] for step in wanted] == [
        "autosam-demo",
        "autosam-train",
        "autosam-export",
        "autosam-predict",
        "autosam-evaluate",
        "autosam-demo",
    ]
    for step in (*wanted, *wanted[3:]):  # it can be run twice
        text = run([*step, "--head", head] if step[1] == "files" else step)
    labels = runs / "demo" / "predicted"
    for written in (runs / head / "model.autosam", runs / "demo" / "labelsTr"):
        assert re.search(rf"\d [kM]B  {re.escape(str(written))}$", text, re.MULTILINE)
    assert text.endswith(f"open this picture: {(labels / 'heart_009.png').resolve()}\n")
    for name in ("heart_008", "heart_009"):
        assert (labels / f"{name}.nii.gz").is_file()
        assert Image.open(labels / f"{name}.png").size[0] > 500
    assert json.loads((runs / "demo" / "predicted.json").read_text("utf-8"))["cases"][0]["ml"]
    scores = CliRunner().invoke(evaluate, [str(labels), str(runs / "demo" / "labelsTs"), "--json"])
    assert json.loads(scores.stdout)["summary"]["foreground"]["dice"]["mean"] >= least


def test_data_is_a_data_set(tmp_path: Path) -> None:
    text = run(["autosam-demo", "data", "--runs", str(tmp_path), "--train", "2", "--test", "1"])
    assert "wrote 2 training and 1 held-out phantom volumes" in text
    assert len(list((tmp_path / "demo" / "labelsTr").iterdir())) == 2
    assert json.loads((tmp_path / "demo" / "dataset.json").read_text("utf-8"))["numTraining"] == 2


def test_files_need_a_phantom_set(tmp_path: Path) -> None:
    result = CliRunner().invoke(demo, ["files", "--runs", str(tmp_path)])
    assert result.exit_code == 2
    assert "run autosam-demo data first" in result.output
