"""`autosam-evaluate BUNDLE LABELS --images DIR`: labelled in memory, scored as files would be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from autosam_deploy.cli.evaluate import main
from autosam_deploy.cli.predict import main as predict
from autosam_deploy.errors import BackendError, OutOfMemoryError
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.spec import HeadKind
from autosam_deploy.volumes.phantom import make_phantom
from autosam_deploy.volumes.volume import Volume
from autosam_deploy.volumes.write import write_labels, write_volume

Exported = Callable[[HeadKind], Path]


@pytest.fixture
def bundle(exported: Exported) -> Path:
    return exported("linear")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Phantoms as nnU-Net names them, and in `labels` their truth, with the bundle's 3 classes."""
    for seed in (1, 2):
        image, truth = make_phantom(seed, shape=(4, 30, 26))
        write_volume(tmp_path / "images" / f"{image.name}_0000.nii.gz", image)
        array = truth.array.clip(max=2)
        write_labels(tmp_path / "labels" / f"{image.name}.nii.gz", array, truth.geometry)
    return tmp_path / "images"


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def scores_of(result: Result) -> tuple[dict[str, Any], Any]:
    found = json.loads(result.stdout)
    return found, [(case["name"], case["scores"]) for case in found["cases"]]


def test_same_scores_as_of_files(bundle: Path, images: Path, tmp_path: Path) -> None:
    out, labels = tmp_path / "out", tmp_path / "labels"
    args = [str(bundle), "-i", str(images), "-o", str(out), "-q"]
    assert CliRunner().invoke(predict, args).exit_code == 0
    before = sorted(tmp_path.rglob("*"))
    result = run(bundle, labels, "--images", images, "--json")
    assert result.exit_code == 0, result.output
    assert sorted(tmp_path.rglob("*")) == before  # labelled in memory
    found, scores = scores_of(result)
    assert (
        scores
        == scores_of(run(out, labels, "--classes", "background,class_1,class_2", "--json"))[1]
    )
    assert [name for name, _ in scores] == ["heart_001", "heart_002"]
    assert found["bundle"]["engine"]["backend"] == "onnxruntime"
    assert len(found["bundle"]["manifest_sha256"]) == 64
    assert found["bundle"]["images"] == str(images)
    assert found["cases"][0]["source"].endswith("heart_001_0000.nii.gz")


def test_options_of_the_engine(
    bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    labels = Engine.labels
    monkeypatch.setattr(
        Engine, "labels", lambda self, slices: sizes.append(len(slices)) or labels(self, slices)
    )
    engine = ("--backend", "torch", "--device", "cpu", "--precision", "fp32", "--threads", "1")
    args = (bundle, tmp_path / "labels", "--images", images, *engine, "--batch", "3")
    result = run(*args, "--out", tmp_path / "scores.json")
    assert result.exit_code == 0, result.output
    assert sizes == [3, 1, 3, 1]
    found = json.loads((tmp_path / "scores.json").read_text("utf-8"))["bundle"]["engine"]
    assert (found["backend"], found["threads"]) == ("torch", 1)
    assert "on torch" in result.stderr
    assert "class_1" in result.stdout


def test_class_names(bundle: Path, images: Path, tmp_path: Path) -> None:
    args = (bundle, tmp_path / "labels", "--images", images, "--json", "--classes")
    found, _ = scores_of(run(*args, "background,ring,pool"))
    assert [one["class"] for one in found["summary"]["classes"]] == ["ring", "pool"]
    result = run(*args, "background,ring")
    assert result.exit_code == 2
    assert "got 2 names; expected 3 (background, class_1, class_2)" in result.stderr


def test_image_is_checked_before_it_is_labelled(
    bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, truth = make_phantom(1, shape=(4, 30, 27))
    write_labels(tmp_path / "labels" / f"{image.name}.nii.gz", truth.array, truth.geometry)
    labelled = []
    segment = Engine.segment

    def note(self: Engine, volume: Volume, **options: Any) -> Volume:
        labelled.append(volume.name)
        return segment(self, volume, **options)

    monkeypatch.setattr(Engine, "segment", note)
    result = run(bundle, tmp_path / "labels", "--images", images, "-q")
    assert result.exit_code == 1
    assert re.search(r"heart_001_0000.*differ in shape; got \(4, 30, 26\)", result.stderr)
    assert labelled == ["heart_002_0000"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OutOfMemoryError("one slice does not fit"), 1, "heart_001_0000.nii.gz': one slice does"),
        (MemoryError(), 1, "heart_001_0000.nii.gz' does not fit into memory; got no detail"),
        (BackendError("the device is gone"), 2, "error: the device is gone"),
    ],
    ids=["out-of-memory", "memory", "device"],
)
def test_errors_of_the_engine(
    bundle: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    message: str,
) -> None:
    segment = Engine.segment

    def fail(self: Engine, volume: Volume, **options: Any) -> Volume:
        if volume.name == "heart_001_0000":
            raise error
        return segment(self, volume, **options)

    monkeypatch.setattr(Engine, "segment", fail)
    result = run(bundle, tmp_path / "labels", "--images", images, "-q")
    assert result.exit_code == code
    assert message in result.stderr


def test_bundle_needs_images(bundle: Path, images: Path, tmp_path: Path) -> None:
    result = run(bundle, tmp_path / "labels")
    assert result.exit_code == 2
    assert "is a bundle; expected label files" in result.stderr
    assert "name the folder of images with --images" in result.stderr
    result = run(images, tmp_path / "labels", "--images", images)
    assert result.exit_code == 2
    assert "error: " in result.stderr


def test_bundle_is_not_written_to(bundle: Path, images: Path, tmp_path: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    args = ("--images", images, "--out", bundle / "manifest.json")
    result = run(bundle, tmp_path / "labels", *args)
    assert result.exit_code == 2
    assert "--out would replace" in result.stderr
    assert (bundle / "manifest.json").read_bytes() == before
