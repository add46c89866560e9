from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autosam_deploy.benchmarks.harness.inputs import (
    noise_set,
    timing_batches,
    timing_volume,
    volume_set,
)
from autosam_deploy.benchmarks.harness.volume import STAGES, label_volume
from autosam_deploy.encoders import ENCODERS
from autosam_deploy.errors import UsageError, VolumeError
from autosam_deploy.spec import ModelSpec
from autosam_deploy.volumes.phantom import make_phantom
from autosam_deploy.volumes.read import read_labels, read_volume
from autosam_deploy.volumes.volume import Geometry, Volume, same_space
from autosam_deploy.volumes.write import write_volume


@pytest.fixture
def hearts(tmp_path: Path) -> Path:
    """Two volumes of 7 slices with labels 0..3, in images/ and labels/."""
    for seed in range(2):
        image, labels = make_phantom(seed, shape=(7, 20, 24))
        write_volume(tmp_path / "images" / f"{image.name}.nii.gz", image)
        write_volume(tmp_path / "labels" / f"{image.name}.nii.gz", labels)
    return tmp_path


@pytest.fixture
def four(model_spec: Callable[..., ModelSpec]) -> ModelSpec:
    return model_spec("linear", num_classes=4)


def test_slices_around_the_middle_with_their_labels(hearts: Path, four: ModelSpec) -> None:
    found = volume_set(hearts / "images", hearts / "labels", four, count=3)
    assert [batch.shape for batch in found.batches] == [(3, 1, 20, 24)] * 2
    assert [labels.shape for labels in found.drawn] == [(3, 20, 24)] * 2
    assert found.slices == 6
    image, labels = make_phantom(1, shape=(7, 20, 24))
    np.testing.assert_array_equal(found.batches[1][:, 0], image.array[2:5].astype(np.float32))
    np.testing.assert_array_equal(found.drawn[1], labels.array[2:5])
    assert volume_set(hearts / "images", None, four, count=99).slices == 14
    assert volume_set(hearts / "images", None, four, count=None).drawn == ()


def test_labels_of_other_classes(hearts: Path, model_spec: Callable[..., ModelSpec]) -> None:
    with pytest.raises(UsageError, match=r"other classes than the bundle; got value 3; expected 0"):
        volume_set(hearts / "images", hearts / "labels", model_spec("cnn", num_classes=3), count=1)


def test_labels_that_belong_to_other_volumes(hearts: Path, four: ModelSpec) -> None:
    (hearts / "labels" / "heart_001.nii.gz").rename(hearts / "labels" / "other.nii.gz")
    with pytest.raises(UsageError, match="no labels for volume 'heart_001'"):
        volume_set(hearts / "images", hearts / "labels", four, count=1)


def test_labels_of_another_shape_or_place(hearts: Path, four: ModelSpec) -> None:
    path = hearts / "labels" / "heart_000.nii.gz"
    labels = read_labels(path)
    write_volume(path, Volume(labels.array[:-1], labels.geometry, "x"))
    with pytest.raises(UsageError, match=r"got shape \(6, 20, 24\); expected \(7, 20, 24\)"):
        volume_set(hearts / "images", hearts / "labels", four, count=1)
    moved = Geometry(labels.geometry.spacing, (0.0, 0.0, 0.0), labels.geometry.direction)
    write_volume(path, Volume(labels.array, moved, "x"))
    with pytest.raises(UsageError, match="lie elsewhere than their volume"):
        volume_set(hearts / "images", hearts / "labels", four, count=1)


def test_no_volumes(tmp_path: Path, four: ModelSpec) -> None:
    with pytest.raises(VolumeError, match="no volume"):
        volume_set(tmp_path / "none", None, four, count=1)


def test_noise_is_seeded_and_of_two_sizes() -> None:
    tiny = ENCODERS["vit_tiny"]
    first, again = noise_set(tiny, seed=4), noise_set(tiny, seed=4)
    for a, b in zip(first.batches, again.batches, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({batch.shape for batch in first.batches}) == 2
    assert (ENCODERS["vit_b"].is_big, tiny.is_big) == (True, False)
    assert noise_set(ENCODERS["vit_b"], seed=0).slices == 1


def test_timed_batches_differ_and_have_one_shape(hearts: Path) -> None:
    for volumes in (None, hearts / "images"):
        found = timing_batches(volumes, batch=3, side=16, seed=0)
        assert len({batch.shape for batch in found}) == 1
        assert found[0].shape[:2] == (3, 1)
        assert len({batch.tobytes() for batch in found}) == len(found) > 1
        assert all(batch.dtype == np.float32 for batch in found)


def test_a_volume_from_file_to_file(tmp_path: Path) -> None:
    path, name = timing_volume(None, tmp_path, slices=5, side=18)
    assert name == "phantom of 5 slices, 18x18"
    batches: list[int] = []

    def labels(slices: np.ndarray) -> np.ndarray:
        batches.append(len(slices))
        return (slices[:, 0] > 300).astype(np.uint8)

    target = tmp_path / "labels.nrrd"
    seconds, count = label_volume(labels, path, target, axis="auto", batch=2)
    assert batches == [2, 2, 1]
    assert count == 5
    assert tuple(seconds) == STAGES
    assert all(value > 0 for value in seconds.values())
    volume, found = read_volume(path), read_labels(target)
    np.testing.assert_array_equal(found.array, volume.array > 300)
    assert same_space(found.geometry, volume.geometry)
