"""What `autosam-train` says of the data that it finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autosam_deploy.cli.train import main
from autosam_deploy.models.checkpoints import write_encoder
from autosam_deploy.models.encoders import seeded_encoder_state
from autosam_deploy.spec import ModelSpec
from autosam_deploy.volumes.phantom import make_phantom
from autosam_deploy.volumes.write import write_volume

Train = Callable[..., Result]


@pytest.fixture
def acdc(tmp_path: Path) -> Path:
    """Three phantom patients in ACDC's own folders."""
    for number in range(6):
        name = f"patient{number // 2 + 1:03d}"
        stem = tmp_path / "acdc" / name / f"{name}_frame{1 if number % 2 == 0 else 10:02d}"
        image, labels = make_phantom(number)
        write_volume(Path(f"{stem}.nii.gz"), image)
        write_volume(Path(f"{stem}_gt.nii.gz"), labels)
        (stem.parent / "Info.cfg").write_text("ED: 1\nES: 10\nGroup: NOR\n", "utf-8")
    return tmp_path / "acdc"


@pytest.fixture
def train(tmp_path: Path, acdc: Path, model_spec: Callable[..., ModelSpec]) -> Train:
    """Runs the command for an epoch on these."""
    sam = tmp_path / "sam.safetensors"
    write_encoder(sam, seeded_encoder_state(model_spec("linear").encoder, 0))

    def call(*options: object) -> Result:
        fixed = ("--data", acdc, "--sam-checkpoint", sam, "--head", "linear", "--epochs", 1)
        where = ("--threads", 1, "--runs", tmp_path / "runs", "--overwrite")
        return CliRunner().invoke(main, [str(one) for one in (*fixed, *where, *options)])

    return call


def names(tmp_path: Path, side: str) -> list[str]:
    metrics = json.loads((tmp_path / "runs/linear/metrics.json").read_text("utf-8"))
    found: list[str] = metrics["data"][side]
    return found


def test_layout_and_patients(train: Train, tmp_path: Path) -> None:
    result = train()
    assert result.exit_code == 0, result.output
    for text in (
        "layout: ACDC, 3 patients (3 NOR), 6 volumes (3 ED, 3 ES)",
        "split by patient: 2 train, 1 validate",
        "classes background, right_ventricle, myocardium, left_ventricle",
    ):
        assert text in result.stderr, text
    assert names(tmp_path, "validation") == ["patient003_frame01", "patient003_frame10"]


def test_split_json_is_used_and_said(train: Train, acdc: Path, tmp_path: Path) -> None:
    content = {
        "train": ["patient003_frame01"],
        "val": ["patient001_frame01"],
        "test": ["patient001_frame10"],
    }
    (acdc / "split.json").write_text(json.dumps(content), "utf-8")
    result = train()
    assert result.exit_code == 0, result.output
    assert "split.json of the data: 1 train, 1 validate, 1 held out for testing" in result.stderr
    assert "note: leak: 1 patient has volumes for both validation and testing" in result.stderr
    assert names(tmp_path, "train") == ["patient003_frame01"]
    result = train("--volumes", 1, "--val", 0)
    assert result.exit_code == 0, result.output
    assert "counts go up to whole patients: --volumes 1 gives 2" in result.stderr
    assert "held out for testing by the split.json of the data, but in use here" in result.stderr
    assert names(tmp_path, "train") == ["patient001_frame01", "patient001_frame10"]
