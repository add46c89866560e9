from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from autosam_deploy.errors import UsageError, VolumeError
from autosam_deploy.training.datasets.choosing import split_dataset
from autosam_deploy.training.datasets.classes import class_names
from autosam_deploy.training.datasets.loading import load_dataset
from autosam_deploy.training.datasets.pairs import find_dataset
from autosam_deploy.training.datasets.patients import patients_of

WritePair = Callable[..., None]


@pytest.fixture
def patient(tmp_path: Path, write_pair: WritePair) -> Callable[..., Path]:
    """Factory: a patient's folder as the challenge gives it; frame 1 is ED, frame `es` is ES."""

    def call(number: int, *, es: int = 12, group: str = "DCM", below: str = "") -> Path:
        name = f"patient{number:03d}"
        folder = tmp_path / below / name
        for frame in (1, es):
            stem = f"{below}/{name}/{name}_frame{frame:02d}".lstrip("/")
            write_pair(stem, f"{stem}_gt", 100 * number + frame)
        (folder / f"{name}_4d.nii.gz").touch()
        (folder / "MANDATORY_CITATION.md").write_text("cite", "utf-8")
        info = f"ED: 1\nES: {es}\nGroup: {group}\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"
        (folder / "Info.cfg").write_text(info, "utf-8")
        return folder

    return call


def test_volumes_phases_groups_and_classes(tmp_path: Path, patient: Callable[..., Path]) -> None:
    patient(1)
    patient(2, es=9, group="NOR")
    found = find_dataset(data=tmp_path)
    assert (found.layout, found.title) == ("acdc", "ACDC")
    assert found.names == (
        "patient001_frame01",
        "patient001_frame12",
        "patient002_frame01",
        "patient002_frame09",
    )
    assert [case.phase for case in found.cases] == ["ED", "ES", "ED", "ES"]
    assert [case.group for case in found.cases] == ["DCM", "DCM", "NOR", "NOR"]
    assert found.summary == ("layout: ACDC, 2 patients (1 DCM, 1 NOR), 4 volumes (2 ED, 2 ES)")
    loaded = load_dataset(found, num_classes=4)
    assert loaded.volumes[3].slices[2, 3].tolist() == [209, 210, 211, 212, 213]
    assert loaded.volumes[3].labels[0, 0].tolist() == [0, 1, 2, 3, 0]
    assert class_names(None, found, loaded.labels_present) == (
        "background",
        "right_ventricle",
        "myocardium",
        "left_ventricle",
    )
    assert class_names("background,a,b,c", found, loaded.labels_present)[1] == "a"


def test_frames_beyond_99(tmp_path: Path, patient: Callable[..., Path]) -> None:
    patient(1, es=101)
    assert [case.phase for case in find_dataset(data=tmp_path).cases] == ["ED", "ES"]


def test_training_and_testing(tmp_path: Path, patient: Callable[..., Path]) -> None:
    for number in range(1, 6):
        patient(number, below="database/training")
    patient(101, below="database/testing")
    found = find_dataset(data=tmp_path / "database")
    assert len(patients_of(found)) == 6
    chosen = split_dataset(found)
    assert chosen.test == ("patient101_frame01", "patient101_frame12")
    assert chosen.validation == ("patient005_frame01", "patient005_frame12")
    assert len(chosen.train) == 8
    assert chosen.said == (
        "folders of the data: 8 train, 2 validate, 2 held out for testing",
        "split by patient: 4 train, 1 validate",
    )
    assert find_dataset(data=tmp_path).names == found.names
    inside = find_dataset(data=tmp_path / "database" / "training")
    assert (len(inside.cases), split_dataset(inside).test) == (10, ())


def test_testing_without_labels_is_left_out(tmp_path: Path, patient: Callable[..., Path]) -> None:
    """The first release kept these labels back."""
    patient(1, below="training")
    for path in patient(101, below="testing").glob("*_gt.nii.gz"):
        path.unlink()
    found = find_dataset(data=tmp_path)
    assert found.names == ("patient001_frame01", "patient001_frame12")
    assert found.notes == ("left out: 1 patient for testing, without labels",)


def test_without_info(tmp_path: Path, patient: Callable[..., Path]) -> None:
    (patient(1) / "Info.cfg").unlink()
    found = find_dataset(data=tmp_path)
    assert [case.phase for case in found.cases] == ["", ""]
    assert found.summary == "layout: ACDC, 1 patient, 2 volumes"


def test_refusals(tmp_path: Path, patient: Callable[..., Path]) -> None:
    first, second = patient(1), patient(2)
    with pytest.raises(UsageError, match=r"no such channel .* got 1; expected 0"):
        find_dataset(data=tmp_path, channel=1)
    shutil.copytree(first, tmp_path / "copy" / "patient001")
    with pytest.raises(VolumeError, match="two volumes are named 'patient001_frame01'"):
        find_dataset(data=tmp_path)
    shutil.rmtree(tmp_path / "copy")
    (first / "patient001_frame12_gt.nii.gz").unlink()
    (second / "patient002_frame01.nii.gz").unlink()
    with pytest.raises(
        VolumeError,
        match=r"frames and labels .* got 'patient001/patient001_frame12' without labels, "
        r"and 'patient002/patient002_frame01' without an image; expected patient001_frame01_gt",
    ):
        find_dataset(data=tmp_path)


def test_labels_beyond_the_challenges(tmp_path: Path, patient: Callable[..., Path]) -> None:
    """Classes are named, so a label that has none is an error as with a dataset.json."""
    patient(1)
    with pytest.raises(VolumeError, match="holds an unknown label; got 3"):
        load_dataset(find_dataset(data=tmp_path), num_classes=3)
