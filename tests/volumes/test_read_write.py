from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from autosam_deploy.errors import OutputError, VolumeError
from autosam_deploy.volumes.cases import find_cases
from autosam_deploy.volumes.read import read_labels, read_volume
from autosam_deploy.volumes.volume import Geometry, Volume, near_space, same_space
from autosam_deploy.volumes.write import write_labels, write_volume

DTYPES = [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]


def save(path: Path, array: np.ndarray, *, vector: bool = False) -> Path:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=vector), str(path))
    return path


def same_space_by_simpleitk(first: Path, second: Path) -> bool:
    """SimpleITK itself refuses to combine images that do not share a physical space."""
    images = [
        SimpleITK.Cast(SimpleITK.ReadImage(str(p)), SimpleITK.sitkFloat32) for p in (first, second)
    ]
    try:
        SimpleITK.Add(*images)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(tmp_path: Path, volume: Volume, suffix: str, dtype: Any) -> None:
    sent = Volume(np.abs(volume.array).astype(dtype), volume.geometry, "patient")
    write_volume(tmp_path / f"patient{suffix}", sent)
    found = read_volume(tmp_path / f"patient{suffix}")
    assert found.array.dtype == sent.array.dtype
    assert (found.array == sent.array).all()
    assert found.name == "patient"
    assert near_space(found.geometry, sent.geometry)
    if suffix in (".nrrd", ".mha"):
        assert same_space(found.geometry, sent.geometry)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii", ".nii.gz"])
def test_labels_lie_where_their_volume_lies(tmp_path: Path, volume: Volume, suffix: str) -> None:
    image, labels = tmp_path / f"image{suffix}", tmp_path / f"labels{suffix}"
    write_volume(image, volume)
    source = read_volume(image)
    write_labels(labels, (source.array > 0).astype(np.uint8), source.geometry)
    assert same_space_by_simpleitk(image, labels)
    assert same_space(read_labels(labels).geometry, source.geometry)


def test_space_tolerance(volume: Volume) -> None:
    g = volume.geometry
    near = Geometry(g.spacing, (g.origin[0] + 1e-5, *g.origin[1:]), g.direction)
    assert same_space(g, g)
    assert not same_space(g, near)
    assert near_space(g, near)
    far = Geometry(g.spacing, (g.origin[0] + 0.01, *g.origin[1:]), g.direction)
    assert not near_space(g, far)


@pytest.mark.parametrize(
    ("name", "array", "vector", "message"),
    [
        ("flat.nii.gz", np.zeros((6, 7), np.int16), False, "is not 3-D; got 2-D of size 7x6"),
        ("time.nii.gz", np.zeros((2, 3, 6, 7), np.int16), False, "is not 3-D; got 4-D"),
        ("rgb.nii.gz", np.zeros((3, 6, 7, 3), np.uint8), True, "is not scalar; got 3 components"),
        ("complex.nrrd", np.zeros((3, 6, 7), np.complex64), False, "complex|cannot be read"),
    ],
)
def test_wrong_kind_of_image(
    tmp_path: Path, name: str, array: np.ndarray, vector: bool, message: str
) -> None:
    if name.startswith("complex"):
        name = "complex.mha"
    path = save(tmp_path / name, array, vector=vector)
    with pytest.raises(VolumeError, match=message) as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.nii.gz", b""),
        ("text.nii.gz", b"not an image"),
        ("text.nrrd", b"hello"),
        ("x.mha", b""),
    ],
)
def test_unreadable_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VolumeError, match=rf"'.*{name}' cannot be read; got .*expected a complete"):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_truncated_file(tmp_path: Path, volume: Volume, suffix: str) -> None:
    path = tmp_path / f"patient{suffix}"
    write_volume(path, volume)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(VolumeError, match="cannot be read"):
        read_volume(path)


@pytest.mark.parametrize("name", ["x.hdr", "x.tif", "x.png"])
def test_formats_that_lose_something(tmp_path: Path, name: str) -> None:
    shape = (6, 7) if name == "x.png" else (3, 6, 7)
    path = save(tmp_path / name, np.ones(shape, np.uint8))
    with pytest.raises(VolumeError, match=r"is no file of a volume; got the format of ITK's"):
        read_volume(path)


def test_folder_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.nii.gz").mkdir()
    with pytest.raises(VolumeError, match="no DICOM series in"):
        read_volume(tmp_path / "x.nii.gz")


def test_file_that_may_not_be_read(
    tmp_path: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_volume(tmp_path / "x.nii.gz", volume)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(VolumeError, match="cannot be read; got Permission denied"):
        read_volume(tmp_path / "x.nii.gz")
    with pytest.raises(VolumeError, match="cannot be read; got Permission denied"):
        find_cases(tmp_path / "x.nii.gz")
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(VolumeError, match="cannot be read; got Permission denied"):
        find_cases(tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"no volume at '.*nothing.nii'; check the path"):
        read_volume(tmp_path / "nothing.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite(tmp_path: Path, bad: float, dtype: Any, suffix: str) -> None:
    """ITK's own NIfTI reader turns them into zeros without a word."""
    array = np.zeros((3, 6, 7), dtype)
    array[1, 2, 3:5] = bad
    path = save(tmp_path / f"x{suffix}", array)
    with pytest.raises(VolumeError, match="not finite; got 2 NaN or infinite"):
        read_volume(path)


def test_one_slice_is_a_volume(tmp_path: Path) -> None:
    assert read_volume(save(tmp_path / "x.nii.gz", np.ones((1, 6, 7)))).array.shape == (1, 6, 7)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_labels_of_any_type(tmp_path: Path, dtype: Any) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    found = read_labels(save(tmp_path / "x.nii.gz", array))
    assert found.array.dtype == np.uint8
    assert (found.array == array).all()


@pytest.mark.parametrize("value", [0.5, -1.0, 256.0])
def test_values_that_are_no_labels(tmp_path: Path, value: float) -> None:
    array = np.zeros((2, 3, 4), np.float32)
    array[0, 0, 0] = value
    with pytest.raises(VolumeError, match=rf"is no label volume; got value {value} in 1 voxels"):
        read_labels(save(tmp_path / "x.nii.gz", array))


@pytest.mark.parametrize("name", ["x.mhd", "x.png", "x", "x.NII", "x.MHA"])
def test_formats_that_are_not_written(tmp_path: Path, volume: Volume, name: str) -> None:
    with pytest.raises(OutputError, match=r"has no known format.*expected \.nii\.gz"):
        write_volume(tmp_path / name, volume)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_nothing(
    tmp_path: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("itk::ERROR: write error\nNo space left on device")

    write_volume(tmp_path / "x.nii.gz", volume)
    before = (tmp_path / "x.nii.gz").read_bytes()
    monkeypatch.setattr(SimpleITK, "WriteImage", full)
    with pytest.raises(OutputError, match=r"cannot write .*got No space left on device"):
        write_volume(tmp_path / "x.nii.gz", volume)
    assert [path.name for path in tmp_path.iterdir()] == ["x.nii.gz"]
    assert (tmp_path / "x.nii.gz").read_bytes() == before


def test_uncompressed_nifti_stays_so(tmp_path: Path, volume: Volume) -> None:
    write_volume(tmp_path / "x.nii", volume)
    assert (tmp_path / "x.nii").stat().st_size == 352 + volume.array.nbytes


def test_silently_lost_bytes_are_noticed(
    tmp_path: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SimpleITK.WriteImage

    def lossy(image: Any, path: str, **kwargs: Any) -> None:
        real(image * 0, path, **kwargs)

    monkeypatch.setattr(SimpleITK, "WriteImage", lossy)
    with pytest.raises(OutputError, match="other voxels when read back"):
        write_volume(tmp_path / "x.nrrd", volume)
    assert list(tmp_path.iterdir()) == []


def test_cases_of_a_folder(
    tmp_path: Path, volume: Volume, write_dicom: Callable[..., None]
) -> None:
    write_volume(tmp_path / "b.nii.gz", volume)
    write_volume(tmp_path / "a.nrrd", volume)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.nii.gz").write_text("x")
    (tmp_path / "empty").mkdir()
    write_dicom(tmp_path / "series", positions=[0.0, 5.0, 10.0])
    found = [(case.name, case.kind) for case in find_cases(tmp_path)]
    assert found == [("a", "file"), ("b", "file"), ("series", "dicom")]
    assert [case.kind for case in find_cases(tmp_path / "series")] == ["dicom"]
    assert [case.name for case in find_cases(tmp_path / "a.nrrd")] == ["a"]


def test_channel_suffix_of_nnunet_is_no_part_of_the_name(tmp_path: Path, volume: Volume) -> None:
    for name in ("a_0000.nii.gz", "b_0000.nii.gz"):
        write_volume(tmp_path / name, volume)
    assert [case.name for case in find_cases(tmp_path)] == ["a", "b"]


def test_two_volumes_of_one_name(tmp_path: Path, volume: Volume) -> None:
    write_volume(tmp_path / "a.nii.gz", volume)
    write_volume(tmp_path / "a.nrrd", volume)
    with pytest.raises(VolumeError, match=r"two volumes .* named 'a'; got a.nii.gz and a.nrrd"):
        find_cases(tmp_path)


def test_folder_without_volumes(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="no volumes in"):
        find_cases(tmp_path)
    with pytest.raises(VolumeError, match="no volume at"):
        find_cases(tmp_path / "nowhere")
