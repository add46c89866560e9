"""Labelled slices: images and labels paired by name, checked, cut into slices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.errors import VolumeError
from autosam_deploy.spec import Axis
from autosam_deploy.volumes.cases import find_cases
from autosam_deploy.volumes.read import read_labels, read_volume
from autosam_deploy.volumes.slices import resolve_axis, slices_along
from autosam_deploy.volumes.volume import same_space


@dataclass(frozen=True)
class LabelledSlices:
    """Slices of one volume: its name, raw (N, H, W) float32, labels (N, H, W) uint8."""

    name: str
    slices: NDArray[np.float32]
    labels: NDArray[np.uint8]


def load_labelled(
    images: Path, labels: Path, *, num_classes: int, axis: Axis = "auto"
) -> list[LabelledSlices]:
    """Read a folder of volumes and a folder of their labels.

    Args:
        images: folder of volumes (an nnU-Net channel suffix `_0000` is not part of the name).
        labels: folder of label volumes with the same names.
        num_classes: K; labels are 0 .. K - 1.
        axis: image axis to slice along.

    Returns:
        One entry a volume, sorted by name.

    Raises:
        VolumeError: a volume without labels or the other way round; shape or geometry differ; a
            label beyond the classes; no foreground.
    """
    image_cases = {case.name: case for case in find_cases(images)}
    label_cases = {case.name: case for case in find_cases(labels)}
    if odd := sorted(image_cases.keys() ^ label_cases.keys()):
        where = "labels" if odd[0] in image_cases else "an image"
        raise VolumeError(
            f"volumes of '{images}' and labels of '{labels}' do not pair up",
            got=f"'{odd[0]}' without {where} ({len(odd)} such names)",
            expected="one label file for every volume, with its name",
        )
    return [
        _load_pair(name, image_cases[name].path, label_cases[name].path, num_classes, axis)
        for name in sorted(image_cases)
    ]


def _load_pair(name: str, image: Path, label: Path, num_classes: int, axis: Axis) -> LabelledSlices:
    volume, truth = read_volume(image), read_labels(label)
    if volume.array.shape != truth.array.shape:
        raise VolumeError(
            f"'{label}' does not fit its volume",
            got=f"shape {truth.array.shape}",
            expected=str(volume.array.shape),
        )
    if not same_space(volume.geometry, truth.geometry):
        raise VolumeError(
            f"'{label}' does not lie where its volume lies",
            got=str(truth.geometry),
            expected=str(volume.geometry),
        )
    if (largest := int(truth.array.max())) >= num_classes:
        raise VolumeError(
            f"'{label}' holds an unknown label", got=str(largest), expected=f"0..{num_classes - 1}"
        )
    if largest == 0:
        raise VolumeError(f"'{label}' holds no foreground", todo="leave the volume out")
    chosen = resolve_axis(volume.geometry, axis)
    return LabelledSlices(
        name,
        slices_along(volume.array, chosen).astype(np.float32),
        np.ascontiguousarray(slices_along(truth.array, chosen)),
    )
