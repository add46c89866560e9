from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from autosam_deploy.errors import VolumeError
from autosam_deploy.training.datasets.classes import class_names
from autosam_deploy.training.datasets.loading import LabelledSlices, load_dataset, load_labelled
from autosam_deploy.training.datasets.pairs import Dataset, find_dataset
from autosam_deploy.training.datasets.splits import choose_split, read_split
from autosam_deploy.volumes.phantom import make_phantom, write_phantom_set
from autosam_deploy.volumes.read import read_volume
from autosam_deploy.volumes.volume import Geometry, Volume
from autosam_deploy.volumes.write import write_volume

STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_phantom_set(tmp_path, train=3, test=0)
    return tmp_path


def write_pair(
    folder: Path,
    name: str,
    image: np.ndarray,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 5.0),
    suffix: str = ".nii.gz",
) -> Dataset:
    """Write an image with one labelled voxel, and return the set so far."""
    geometry = Geometry(spacing, (0.0, 0.0, 0.0), STRAIGHT)
    labels = np.zeros(image.shape, np.uint8)
    labels.flat[0] = 1
    write_volume(folder / "images" / f"{name}{suffix}", Volume(image, geometry, name))
    write_volume(folder / "labels" / f"{name}{suffix}", Volume(labels, geometry, name))
    return find_dataset(data=folder)


def noise(seed: int, shape: tuple[int, int, int] = (4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(seed).normal(500, 100, shape)


def test_two_folders(folder: Path) -> None:
    found = load_labelled(folder / "imagesTr", folder / "labelsTr", num_classes=4)
    assert [volume.name for volume in found] == [f"heart_00{n}" for n in range(3)]
    image, labels = make_phantom(1)
    assert (found[1].slices == image.array).all()
    assert (found[1].labels == labels.array).all()
    assert (found[1].slices.dtype, found[1].labels.dtype) == (np.float32, np.uint8)


def test_dataset_in_the_order_of_a_split(folder: Path) -> None:
    dataset = find_dataset(data=folder)
    train, held_out = choose_split(dataset.names, volumes=None, val="heart_000")
    seen: list[tuple[int, int]] = []
    found = load_dataset(
        dataset.select([*train, *held_out]),
        num_classes=4,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [volume.name for volume in found.volumes] == ["heart_001", "heart_002", "heart_000"]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert found.labels_present == {0, 1, 2, 3}
    assert found.notes == ()


@pytest.mark.parametrize(
    ("axis", "shape", "spacing_mm"),
    [
        ("auto", (4, 5, 6), (5.0, 2.0, 1.0)),
        ("k", (4, 5, 6), (5.0, 2.0, 1.0)),
        ("j", (5, 4, 6), (2.0, 5.0, 1.0)),
        ("i", (6, 4, 5), (1.0, 5.0, 2.0)),
    ],
)
def test_axis_and_spacing(
    tmp_path: Path, axis: Any, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> None:
    array = noise(0)
    dataset = write_pair(tmp_path, "a", array, spacing=(1.0, 2.0, 5.0))
    (volume,) = load_dataset(dataset, axis=axis).volumes
    assert volume.axis == ("k" if axis == "auto" else axis)
    assert volume.slices.shape == volume.labels.shape == shape
    assert volume.spacing_mm == spacing_mm
    moved = np.moveaxis(array, "kji".index(volume.axis), 0)
    np.testing.assert_array_equal(volume.slices, moved.astype(np.float32))


@pytest.mark.parametrize("axis", ["i", "j", "k"])
def test_no_wide_copies_are_held(tmp_path: Path, axis: Any) -> None:
    dataset = write_pair(tmp_path, "a", noise(0).astype(np.float64))
    (volume,) = load_dataset(dataset, axis=axis).volumes
    held: Any = volume.slices
    while held is not None and isinstance(held, np.ndarray):
        assert held.nbytes == 4 * volume.slices.size
        held = held.base
    assert volume.slices.flags.c_contiguous
    assert volume.labels.flags.c_contiguous


def replace_labels(folder: Path, change: Callable[[Volume], Volume]) -> Dataset:
    _, labels = make_phantom(1)
    write_volume(folder / "labelsTr" / "heart_001.nii.gz", change(labels))
    return find_dataset(data=folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: replace(v, array=v.array[1:]),
            r"heart_001\.nii\.gz' does not fit its volume; got shape \(11, 96, 96\); "
            r"expected \(12, 96, 96\)",
        ),
        (
            lambda v: replace(v, geometry=replace(v.geometry, spacing=(1.4, 1.4, 9.0))),
            r"does not lie where its volume lies; got .*9\.0.*; expected .*8\.0",
        ),
        (
            lambda v: replace(v, geometry=replace(v.geometry, origin=(0.0, 0.0, 0.0))),
            "does not lie where its volume lies",
        ),
        (
            lambda v: replace(v, array=v.array * np.uint8(0)),
            "holds no foreground; leave the volume",
        ),
        (
            lambda v: replace(v, array=v.array * np.float32(0.5)),
            r"is no label volume; got value .*5 in \d+ voxels; expected whole numbers 0\.\.255",
        ),
        (lambda v: replace(v, array=v.array.astype(np.int16) - 1), "got value -1 in"),
    ],
    ids=["shape", "spacing", "origin", "empty", "halves", "negative"],
)
def test_labels_that_do_not_fit(
    folder: Path, change: Callable[[Volume], Volume], message: str
) -> None:
    with pytest.raises(VolumeError, match=message):
        load_dataset(replace_labels(folder, change), num_classes=4)


def test_labels_beyond_the_classes_are_counted(folder: Path) -> None:
    def change(labels: Volume) -> Volume:
        array = labels.array.copy()
        array.flat[:3], array.flat[3] = 7, 200
        return replace(labels, array=array)

    dataset = replace_labels(folder, change)
    with pytest.raises(
        VolumeError,
        match=r"heart_001\.nii\.gz' holds unknown labels; got 7 \(3 voxels\), 200 \(1 voxel\); "
        r"expected 0\.\.3; name all classes",
    ):
        load_dataset(dataset, num_classes=4)
    assert load_dataset(dataset).labels_present == {0, 1, 2, 3, 7, 200}


def test_labels_stored_as_float(folder: Path) -> None:
    dataset = replace_labels(folder, lambda v: replace(v, array=v.array.astype(np.float64)))
    found = load_dataset(dataset, num_classes=4).volumes[1]
    assert found.labels.dtype == np.uint8
    assert (found.labels == make_phantom(1)[1].array).all()


def test_geometry_rounded_to_float32_is_the_same(folder: Path) -> None:
    """Labels drawn on a DICOM series come back as NIfTI, some micrometres away."""

    def change(labels: Volume) -> Volume:
        origin = tuple(value + 2e-5 for value in labels.geometry.origin)
        return replace(labels, geometry=replace(labels.geometry, origin=origin))

    assert len(load_dataset(replace_labels(folder, change)).volumes) == 3


def test_volumes_without_foreground_can_be_left_out(folder: Path) -> None:
    dataset = replace_labels(folder, lambda v: replace(v, array=v.array * np.uint8(0)))
    seen: list[int] = []
    found = load_dataset(dataset, empty="skip", progress=lambda done, total: seen.append(done))
    assert [volume.name for volume in found.volumes] == ["heart_000", "heart_002"]
    assert found.notes == ("'heart_001' has no foreground and is left out",)
    assert seen == [1, 2, 3]
    with pytest.raises(VolumeError, match="no volume has foreground; got 1 volumes without"):
        load_dataset(dataset.select(["heart_001"]), empty="skip")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
@pytest.mark.parametrize("folder", ["images", "labels"])
def test_voxels_that_are_not_finite(tmp_path: Path, folder: str, suffix: str) -> None:
    dataset = write_pair(tmp_path, "a", noise(0), suffix=suffix)
    path = tmp_path / folder / f"a{suffix}"
    array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).astype(np.float64)
    array[1, 2, 3] = np.nan
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))
    with pytest.raises(VolumeError, match=rf"{folder}/a{suffix}' holds voxels .* got 1 NaN"):
        load_dataset(dataset)


def test_different_intensities_are_noted(tmp_path: Path) -> None:
    for seed, name in enumerate(("mri_0", "mri_1", "mri_2")):
        write_pair(tmp_path, name, noise(seed))
    dataset = write_pair(tmp_path, "ct", noise(9) * 4 - 3000)
    (note,) = load_dataset(dataset).notes
    assert "1 of 4 volumes are far from" in note
    assert "'ct' -" in note
    assert load_dataset(dataset.select(["mri_0", "mri_1", "mri_2"])).notes == ()


def test_different_slice_axes_are_noted(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_pair(tmp_path, name, noise(seed))
    dataset = write_pair(tmp_path, "c", noise(2), spacing=(1.0, 5.0, 1.0))
    assert load_dataset(dataset).notes == (
        "slices are taken along different axes: j in 'c'; k in 'a', 'b' "
        "(--axis chooses one for all)",
    )
    assert load_dataset(dataset, axis="k").notes == ()


def write_dicom(folder: Path, values: list[int]) -> None:
    """Write a series of flat slices, 5 mm apart."""
    folder.mkdir(parents=True)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, value in enumerate(values):
        image = SimpleITK.GetImageFromArray(np.full((1, 4, 6), value, np.int16))
        for tag, text in {
            "0008|0060": "MR",
            "0020|000d": "1.2.826.0.1.3680043.2.9",
            "0020|000e": "1.2.826.0.1.3680043.2.1",
            "0008|0018": f"1.2.826.0.1.3680043.2.1.{number + 1}",
            "0020|0032": f"10.125\\20\\{5 * number}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }.items():
            image.SetMetaData(tag, text)
        writer.SetFileName(str(folder / f"{len(values) - number}.dcm"))
        writer.Execute(image)


def test_dicom_series_as_images(tmp_path: Path) -> None:
    write_dicom(tmp_path / "images" / "patient", [10, 20, 30])
    (tmp_path / "images" / "patient" / "notes.txt").write_text("fasting", "utf-8")
    volume = read_volume(tmp_path / "images" / "patient")
    labels = (volume.array == 30).astype(np.uint8)
    write_volume(tmp_path / "labels" / "patient.nii.gz", replace(volume, array=labels))
    found = load_dataset(find_dataset(data=tmp_path))
    (slices,) = found.volumes
    assert (slices.name, slices.spacing_mm) == ("patient", (5.0, 1.0, 1.0))
    assert slices.slices[:, 0, 0].tolist() == [10, 20, 30]
    assert slices.labels[:, 0, 0].tolist() == [0, 0, 1]
    assert found.notes == ("'patient': 1 files of the folder are no images of the series",)


def test_positional_fields_stay() -> None:
    """Other code makes slices without a file."""
    made = LabelledSlices("a", np.zeros((1, 2, 3), np.float32), np.zeros((1, 2, 3), np.uint8))
    assert (made.axis, made.spacing_mm) == (None, None)


@pytest.mark.data
def test_hippocampus(shared_data: Path) -> None:
    dataset = find_dataset(data=shared_data / "hippocampus")
    assert (dataset.layout, len(dataset.cases)) == ("folders", 32)
    found = load_dataset(dataset)
    sizes = np.array([volume.slices.shape for volume in found.volumes])
    assert (np.abs(sizes.mean(axis=0) - (36, 50, 36)) < 2).all()
    assert {volume.axis for volume in found.volumes} == {"k"}
    assert class_names(None, dataset, found.labels_present) == ("background", "class_1", "class_2")
    (note,) = found.notes
    # Three volumes have 8 bits, and one reaches 300,000.
    assert "of 4 of 32 volumes are far from the " in note
    assert "'hippocampus_001' 9..106" in note
    split = read_split(shared_data / "hippocampus" / "split.json", dataset.names)
    assert (len(split.train), len(split.validation), len(split.test)) == (24, 0, 8)
