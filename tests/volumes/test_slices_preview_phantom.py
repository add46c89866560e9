from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autosam_deploy.errors import UsageError
from autosam_deploy.spec import default_classes
from autosam_deploy.training.datasets.dataset_json import read_dataset_json
from autosam_deploy.volumes.phantom import (
    PHANTOM_CLASSES,
    make_phantom,
    write_phantom_set,
)
from autosam_deploy.volumes.preview import MAX_TILES, choose_slices, write_preview
from autosam_deploy.volumes.read import read_labels, read_volume
from autosam_deploy.volumes.slices import resolve_axis, slices_along, stack_labels
from autosam_deploy.volumes.volume import Volume, same_space


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [
        ((1.0, 1.0, 5.0), "k"),
        ((1.0, 5.0, 1.0), "j"),
        ((5.0, 1.0, 1.0), "i"),
        ((1.0, 1.0, 1.0), "k"),
        ((1.0005, 1.0, 1.0), "k"),
        ((3.0, 3.0, 1.0), "k"),
    ],
)
def test_auto_axis(volume: Volume, spacing: tuple[float, float, float], axis: str) -> None:
    assert resolve_axis(replace(volume.geometry, spacing=spacing), "auto") == axis


def test_axis_by_name(volume: Volume) -> None:
    assert resolve_axis(volume.geometry, "i") == "i"
    with pytest.raises(UsageError, match="axis; got 'x'; expected auto, i, j or k"):
        resolve_axis(volume.geometry, "x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("axis", "shape"), [("k", (5, 8, 11)), ("j", (8, 5, 11)), ("i", (11, 5, 8))]
)
def test_there_and_back(volume: Volume, axis: Any, shape: tuple[int, ...]) -> None:
    stack = slices_along(volume.array, axis)
    assert stack.shape == shape
    assert np.shares_memory(stack, volume.array)
    labels = (stack > 0).astype(np.uint8)
    assert (stack_labels(labels, axis) == (volume.array > 0)).all()


def test_phantom_is_reproducible_and_varied() -> None:
    image, labels = make_phantom(5)
    again, _ = make_phantom(5)
    other, other_labels = make_phantom(6)
    assert (image.array == again.array).all()
    assert (labels.array != other_labels.array).any()
    assert set(np.unique(labels.array)) == {0, 1, 2, 3}
    assert image.array.dtype == np.int16
    assert image.geometry == labels.geometry != other.geometry
    direction = np.array(image.geometry.direction).reshape(3, 3)
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(direction) == pytest.approx(1)


def test_phantom_set_has_the_layout_of_nnunet(tmp_path: Path) -> None:
    write_phantom_set(tmp_path, train=2, test=1, seed=3)
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.nii.gz"))
    assert names == [
        "imagesTr/heart_003_0000.nii.gz",
        "imagesTr/heart_004_0000.nii.gz",
        "imagesTs/heart_005_0000.nii.gz",
        "labelsTr/heart_003.nii.gz",
        "labelsTr/heart_004.nii.gz",
        "labelsTs/heart_005.nii.gz",
    ]
    assert read_dataset_json(tmp_path / "dataset.json").class_names == PHANTOM_CLASSES
    image = read_volume(tmp_path / names[0])
    assert same_space(image.geometry, read_labels(tmp_path / names[3]).geometry)


def test_preview_shows_labels(tmp_path: Path) -> None:
    image, labels = make_phantom(1)
    classes = default_classes(4, PHANTOM_CLASSES)
    for name, marks in (("with", labels.array), ("without", np.zeros_like(labels.array))):
        write_preview(tmp_path / f"{name}.png", image, marks, classes=classes, axis="k")
    colours = {int(entry.colour[1:], 16) for entry in classes[1:]}
    assert colours <= colours_above_legend(tmp_path / "with.png")
    assert not colours & colours_above_legend(tmp_path / "without.png")


def colours_above_legend(path: Path) -> set[int]:
    pixels = np.asarray(Image.open(path))[:-40].astype(int)
    return set(np.unique(pixels @ [1 << 16, 1 << 8, 1]).tolist())


@pytest.mark.parametrize("axis", ["i", "j", "k"])
@pytest.mark.parametrize("shape", [(1, 8, 9), (30, 4, 50), (2, 200, 3)])
def test_preview_of_any_shape(tmp_path: Path, axis: Any, shape: tuple[int, int, int]) -> None:
    image, labels = make_phantom(1, shape=shape)
    classes = default_classes(4, ("background", "a" * 60, "b" * 60, "c"))
    long = replace(image, name="n" * 300)
    write_preview(tmp_path / "x.png", long, labels.array, classes=classes, axis=axis)
    width, height = Image.open(tmp_path / "x.png").size
    assert 200 < width < 1100
    assert height > 200


def test_preview_chooses_labelled_slices() -> None:
    marks = np.zeros((40, 4, 4), np.uint8)
    marks[10:30, 1, 1] = 1
    chosen = choose_slices(marks)
    assert len(chosen) == MAX_TILES
    assert (chosen[0], chosen[-1]) == (10, 29)
    assert choose_slices(np.zeros((3, 4, 4), np.uint8)) == [0, 1, 2]


def test_counting_labels_takes_no_copy_of_the_volume(tmp_path: Path, volume: Volume) -> None:
    marks = np.ones((400, 200, 200), np.uint8)
    image = replace(volume, array=np.zeros(marks.shape, np.uint8))
    tracemalloc.start()
    write_preview(tmp_path / "x.png", image, marks, classes=default_classes(3), axis="k")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * marks.nbytes
