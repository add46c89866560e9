from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autosam_deploy.errors import VolumeError
from autosam_deploy.volumes.read import read_labels, read_volume
from autosam_deploy.volumes.volume import same_space
from autosam_deploy.volumes.write import write_labels

WriteDicom = Callable[..., None]


def test_slices_are_sorted_by_position(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "s", positions=[0.0, 6.5, 13.0, 19.5])
    found = read_volume(tmp_path / "s")
    assert found.array[:, 2, 3].tolist() == [500, 501, 502, 503]
    assert found.geometry.spacing == pytest.approx((0.5, 0.75, 6.5))
    assert found.geometry.origin == pytest.approx((10.0, 20.0, 0.0))
    assert found.name == "s"


def test_other_files_are_ignored(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "s", positions=[0.0, 5.0])
    (tmp_path / "s" / "README.txt").write_text("x")
    assert read_volume(tmp_path / "s").array.shape == (2, 6, 7)


def test_two_series(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "s", positions=[0.0, 5.0], uid="1.2.3.1")
    write_dicom(tmp_path / "s", positions=[0.0, 5.0, 10.0], uid="1.2.3.2")
    with pytest.raises(VolumeError, match=r"holds 2 DICOM series; got .*1\.2\.3\.1.*\(2 files\)"):
        read_volume(tmp_path / "s")


def test_missing_slice(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "s", positions=[0.0, 5.0, 10.0, 20.0, 25.0])
    with pytest.raises(VolumeError, match=r"slices are missing in .*10\.00 mm between .*5\.00 mm"):
        read_volume(tmp_path / "s")


def test_uneven_spacing(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "s", positions=[0.0, 5.0, 10.0, 16.3, 21.3])
    with pytest.raises(VolumeError, match=r"uneven slices in .*got 6\.30 mm between"):
        read_volume(tmp_path / "s")


def test_rounded_positions_are_even(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "s", positions=[0.0, 5.01, 10.0, 14.99])
    assert read_volume(tmp_path / "s").array.shape[0] == 4


def test_one_slice_series(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "s", positions=[0.0])
    assert read_volume(tmp_path / "s").array.shape == (1, 6, 7)


def test_folder_without_dicom(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(VolumeError, match=r"no DICOM series in .*got 1 entries"):
        read_volume(tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "shape"),
    [("dicom_head_t1", (22, 320, 280)), ("dicom_hippocampus_crop", (32, 51, 35))],
)
def test_real_series(
    shared_data: Path, tmp_path: Path, folder: str, shape: tuple[int, int, int]
) -> None:
    found = read_volume(shared_data / folder)
    assert found.array.shape == shape
    labels = (found.array > np.median(found.array)).astype(np.uint8)
    write_labels(tmp_path / "x.nrrd", labels, found.geometry)
    assert same_space(read_labels(tmp_path / "x.nrrd").geometry, found.geometry)


@pytest.mark.data
def test_real_volumes_and_their_labels(shared_data: Path, tmp_path: Path) -> None:
    images = sorted((shared_data / "hippocampus" / "images").iterdir())
    assert len(images) == 32
    for image in images:
        volume = read_volume(image)
        truth = read_labels(shared_data / "hippocampus" / "labels" / image.name)
        assert set(np.unique(truth.array)) <= {0, 1, 2}
        write_labels(tmp_path / image.name, truth.array, volume.geometry)
        assert same_space(read_labels(tmp_path / image.name).geometry, volume.geometry)
