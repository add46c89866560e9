from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autosam_deploy.errors import VolumeError
from autosam_deploy.volumes.cases import find_cases
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


def test_other_files_are_ignored_but_counted(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "s", positions=[0.0, 5.0])
    assert read_volume(tmp_path / "s").notes == ()
    (tmp_path / "s" / "README.txt").write_text("x")
    (tmp_path / "s" / ".hidden").write_text("x")
    (tmp_path / "s" / "below").mkdir()
    # An index of a DICOM disc: the class of its object is not that of an image.
    start = b"\0" * 128 + b"DICM" + b"\x02\x00\x02\x00UI\x14\x001.2.840.10008.1.3.10"
    (tmp_path / "s" / "DICOMDIR").write_bytes(start)
    found = read_volume(tmp_path / "s")
    assert found.array.shape == (2, 6, 7)
    assert found.notes == ("2 files of the folder are no images of the series",)


@pytest.mark.parametrize("size", [0, 300, -20], ids=["empty", "header", "pixels"])
@pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
def test_damaged_file_is_no_other_file(
    tmp_path: Path, write_dicom: WriteDicom, size: int, which: int
) -> None:
    """ITK drops it without a word, and at an end of the stack no gap tells."""
    write_dicom(tmp_path / "s", positions=[0.0, 5.0, 10.0, 15.0])
    path = sorted((tmp_path / "s").iterdir())[which]
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(VolumeError, match=rf"DICOM file '.*{path.name}' cannot be read; got \d+ b"):
        read_volume(tmp_path / "s")


def test_two_series(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "s", positions=[0.0, 5.0], uid="1.2.3.1")
    write_dicom(tmp_path / "s", positions=[0.0, 5.0, 10.0], uid="1.2.3.2")
    with pytest.raises(VolumeError, match=r"holds 2 DICOM series; got .*1\.2\.3\.1.*\(2 files\)"):
        read_volume(tmp_path / "s")


def test_missing_slice(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "s", positions=[0.0, 5.0, 10.0, 20.0, 25.0])
    with pytest.raises(VolumeError, match=r"slices are missing in .*10\.00 mm between .*5\.00 mm"):
        read_volume(tmp_path / "s")


def test_missing_slice_of_a_short_stack(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "s", positions=[0.0, 5.0, 15.0])
    with pytest.raises(VolumeError, match=r"slices are missing in .*got 10\.00 mm.*; 1 odd gap in"):
        read_volume(tmp_path / "s")


def test_time_points_in_one_series(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "s", positions=[0.0, 0.0, 5.0, 5.0, 10.0, 10.0])
    with pytest.raises(VolumeError, match=r"several images at one position; got 6 images at 3;"):
        read_volume(tmp_path / "s")


def test_tilted_gantry(tmp_path: Path, write_dicom: WriteDicom) -> None:
    """ITK reads a sheared stack as a straight one, with a spacing that is none."""
    write_dicom(tmp_path / "s", positions=[0.0, 5.0, 10.0], lean=0.3)
    with pytest.raises(VolumeError, match=r"not stacked straight; got 3\.00 mm to the side"):
        read_volume(tmp_path / "s")
    write_dicom(tmp_path / "rounded", positions=[0.0, 5.0, 10.0], lean=0.0005)
    assert read_volume(tmp_path / "rounded").array.shape[0] == 3


def test_slices_of_different_sizes(tmp_path: Path, write_dicom: WriteDicom) -> None:
    images = [np.ones((1, height, 7), np.int16) for height in (6, 6, 8)]
    write_dicom(tmp_path / "size", positions=[0.0, 5.0, 10.0], images=images)
    with pytest.raises(VolumeError, match=r"differ; got 7x8 pixels .* 7x6 pixels .*one size"):
        read_volume(tmp_path / "size")
    spacings = [(0.5, 0.75), (0.5, 0.75), (0.7, 0.75)]
    write_dicom(tmp_path / "mm", positions=[0.0, 5.0, 10.0], spacings=spacings)
    with pytest.raises(VolumeError, match=r"differ; got 7x6 pixels of 0\.7x0\.75 mm in 1_001.dcm"):
        read_volume(tmp_path / "mm")


def test_slices_of_different_orientations(tmp_path: Path, write_dicom: WriteDicom) -> None:
    tags = [{}, {}, {"0020|0037": "1\\0\\0\\0\\0.8\\0.6"}]
    write_dicom(tmp_path / "s", positions=[0.0, 5.0, 10.0], tags=tags)
    with pytest.raises(VolumeError, match="have different orientations; expected parallel"):
        read_volume(tmp_path / "s")


def test_slices_of_different_pixel_types(tmp_path: Path, write_dicom: WriteDicom) -> None:
    """Left alone, ITK would squeeze 40,000 into the first slice's int16."""
    images = [np.full((1, 6, 7), 100, np.int16), np.full((1, 6, 7), 40_000, np.int32)]
    tags = [{}, {"0028|1052": "0", "0028|1053": "2"}]
    write_dicom(tmp_path / "s", positions=[0.0, 5.0], images=images, tags=tags)
    assert read_volume(tmp_path / "s").array.max(axis=(1, 2)).tolist() == [100, 40_000]


def test_file_without_position(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "s", positions=[0.0, 5.0])
    path = tmp_path / "s" / "1_001.dcm"
    position = b"\x20\x00\x32\x00"
    assert path.read_bytes().count(position) == 1
    path.write_bytes(path.read_bytes().replace(position, b"\x20\x00\x33\x00"))
    with pytest.raises(VolumeError, match=r"1_001.dcm' does not say where it lies"):
        read_volume(tmp_path / "s")


def test_one_file_of_a_series(tmp_path: Path, write_dicom: WriteDicom) -> None:
    write_dicom(tmp_path / "s", positions=[0.0, 5.0])
    (case,) = find_cases(tmp_path / "s" / "1_001.dcm")
    assert (case.name, case.kind) == ("1_001", "dicom")
    assert read_volume(case.path).array.shape == (1, 6, 7)


def test_folder_named_by_where_it_is(
    tmp_path: Path, write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dicom(tmp_path / "head" / "below", positions=[0.0, 5.0])
    monkeypatch.chdir(tmp_path / "head" / "below")
    assert [case.name for case in find_cases(".")] == ["below"]
    assert read_volume(".").name == "below"


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
