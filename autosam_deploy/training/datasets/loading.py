"""Labelled slices: images and labels of a data set, checked and cut into slices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.errors import UsageError, VolumeError
from autosam_deploy.spec import Axis
from autosam_deploy.training.datasets.dataset import Dataset, Pair, check_pairs
from autosam_deploy.training.datasets.frames import read_pair
from autosam_deploy.training.datasets.intensities import Range, compare_ranges, robust_range
from autosam_deploy.training.datasets.pairs import find_dataset
from autosam_deploy.training.datasets.png import png_slices, read_slices
from autosam_deploy.training.datasets.texts import listed
from autosam_deploy.volumes.slices import ARRAY_AXIS, resolve_axis, slices_along
from autosam_deploy.volumes.volume import near_space

Empty = Literal["refuse", "skip"]


@dataclass(frozen=True)
class LabelledSlices:
    """Slices of one volume: its name, raw (N, H, W) float32, labels (N, H, W) uint8.

    axis: image axis that the slices are taken along. spacing_mm: mm along the axes N, H, W (so not
    in a geometry's order x, y, z). Both are None for PNG slices, which do not tell.
    """

    name: str
    slices: NDArray[np.float32]
    labels: NDArray[np.uint8]
    axis: Literal["i", "j", "k"] | None = None
    spacing_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Loaded:
    """Volumes in the order of the data set, and what its user should know about them.

    labels_present: the label values of all volumes together.
    """

    volumes: list[LabelledSlices]
    notes: tuple[str, ...]
    labels_present: frozenset[int]


def load_labelled(
    images: Path, labels: Path, *, num_classes: int, axis: Axis = "auto"
) -> list[LabelledSlices]:
    """Read two folders (see `find_dataset` and `load_dataset`), without the notes.

    Args:
        images: folder of volumes (an nnU-Net channel suffix `_0000` is not part of the name).
        labels: folder of label volumes with the same names.
        num_classes: K; labels are 0 .. K - 1.
        axis: image axis to slice along.

    Returns:
        One entry a volume, sorted by name.

    Raises:
        VolumeError: a volume without labels or the other way round, or as `load_dataset`.
    """
    return load_dataset(find_dataset(images, labels), num_classes=num_classes, axis=axis).volumes


def load_dataset(
    dataset: Dataset,
    *,
    num_classes: int | None = None,
    axis: Axis = "auto",
    empty: Empty = "refuse",
    progress: Callable[[int, int], None] | None = None,
) -> Loaded:
    """Read the volumes of a data set and their labels.

    Args:
        dataset: of `find_dataset`; `Dataset.select` takes some of its volumes.
        num_classes: K; labels are 0 .. K - 1. None takes any.
        axis: image axis to slice along; PNG slices are cut already and take `auto` only.
        empty: what to do about a volume without foreground: refuse it, or leave it out with a note.
        progress: called after every volume with (volumes done, volumes in all).

    Raises:
        VolumeError: a file that cannot be read or holds NaN; shape or geometry differ; labels that
            are no whole numbers or beyond the classes; no foreground.
        UsageError: an axis for PNG slices.
    """
    if dataset.layout == "png" and axis != "auto":
        raise UsageError("axis for PNG slices", got=axis, expected="auto: they are cut already")
    volumes: list[LabelledSlices] = []
    notes: list[str] = []
    ranges: dict[str, Range] = {}
    present: set[int] = set()
    for done, case in enumerate(dataset.cases, start=1):
        volume, found = _load_pair(case, axis, dataset.layout == "png")
        values = _check_labels(case, volume.labels, num_classes)
        if values <= {0} and empty == "refuse":
            raise VolumeError(f"{case.where} holds no foreground", todo="leave the volume out")
        if values <= {0}:
            notes.append(f"'{case.name}' has no foreground and is left out")
        else:
            volumes.append(volume)
            notes += found
            present |= values
            ranges[case.name] = robust_range(volume.slices)
        if progress is not None:
            progress(done, len(dataset.cases))
    if not volumes:
        raise VolumeError("no volume has foreground", got=f"{len(dataset.cases)} volumes without")
    notes += [*_compare_axes(volumes), *compare_ranges(ranges)]
    return Loaded(volumes, tuple(notes), frozenset(present))


def _load_pair(case: Pair, axis: Axis, png: bool) -> tuple[LabelledSlices, list[str]]:
    """Read image and labels that fit each other, and what their reader left out."""
    if png:
        return _load_png(case), []
    volume, truth = read_pair(case)
    _check_shape(case, truth.array.shape, volume.array.shape)
    # Labels drawn on a DICOM series come back as NIfTI with float32 geometry.
    if not near_space(volume.geometry, truth.geometry):
        raise VolumeError(
            f"{case.where} does not lie where its volume lies",
            got=str(truth.geometry),
            expected=str(volume.geometry),
        )
    chosen = resolve_axis(volume.geometry, axis)
    across = volume.geometry.spacing[::-1]  # in the order of array axes
    along = across[ARRAY_AXIS[chosen]]
    rows, columns = (across[one] for one in range(3) if one != ARRAY_AXIS[chosen])
    found = LabelledSlices(
        case.name,
        np.ascontiguousarray(slices_along(volume.array, chosen), dtype=np.float32),
        np.ascontiguousarray(slices_along(truth.array, chosen)),
        axis=chosen,
        spacing_mm=(along, rows, columns),
    )
    return found, [f"'{case.name}': {note}" for note in volume.notes]


def _load_png(case: Pair) -> LabelledSlices:
    check_pairs(
        png_slices(case.image),
        png_slices(case.label),
        f"slices of '{case.image}' and labels of '{case.label}'",
        expected="one label slice for every slice, with its name",
    )
    slices, labels = read_slices(case.image), read_slices(case.label, label=True)
    _check_shape(case, labels.shape, slices.shape)
    if (beyond := labels > np.iinfo(np.uint8).max).any():
        raise VolumeError(
            f"{case.where} holds no labels",
            got=f"value {labels[beyond][0]} in {int(beyond.sum())} pixels",
            expected="whole numbers 0..255",
        )
    return LabelledSlices(case.name, slices.astype(np.float32), labels.astype(np.uint8))


def _check_shape(case: Pair, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if got != expected:
        raise VolumeError(
            f"{case.where} does not fit its volume", got=f"shape {got}", expected=str(expected)
        )


def _check_labels(case: Pair, labels: NDArray[np.uint8], num_classes: int | None) -> set[int]:
    """Return the label values; refuse those beyond the classes."""
    values, counts = np.unique(labels, return_counts=True)
    unknown = [
        f"{value} ({count} voxel{'s' if count > 1 else ''})"
        for value, count in zip(values, counts, strict=True)
        if num_classes is not None and value >= num_classes
    ]
    if unknown:
        raise VolumeError(
            f"{case.where} holds {'unknown labels' if len(unknown) > 1 else 'an unknown label'}",
            got=", ".join(unknown[:8]) + (", ..." if len(unknown) > 8 else ""),
            expected=f"0..{(num_classes or 0) - 1}",
            todo="name all classes, or renumber the labels",
        )
    return set(values.tolist())


def _compare_axes(volumes: list[LabelledSlices]) -> list[str]:
    """Tell if thick slices lie along different axes: a head would see different planes."""
    by_axis: dict[str, list[str]] = {}
    for volume in volumes:
        if volume.axis is not None:
            by_axis.setdefault(volume.axis, []).append(volume.name)
    if len(by_axis) < 2:
        return []
    shown = "; ".join(f"{axis} in {listed(names)}" for axis, names in sorted(by_axis.items()))
    return [f"slices are taken along different axes: {shown} (--axis chooses one for all)"]
