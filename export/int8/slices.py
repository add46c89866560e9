"""Slices of real volumes: some volumes set the ranges of an int8 graph, the others judge it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.errors import UsageError
from autosam_deploy.spec import ModelSpec
from autosam_deploy.volumes.cases import Case, find_cases
from autosam_deploy.volumes.read import read_labels, read_volume
from autosam_deploy.volumes.slices import resolve_axis, slices_along
from autosam_deploy.volumes.volume import near_space


@dataclass(frozen=True)
class JudgedCase:
    """Slices (N, 1, H, W) float32 of one volume and, where people drew some, labels (N, H, W)."""

    name: str
    slices: NDArray[np.float32]
    labels: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Material:
    """Slices (1, 1, H, W) that set ranges, and cases that judge; no volume is in both."""

    calibration: tuple[NDArray[np.float32], ...]
    judged: tuple[JudgedCase, ...]

    @property
    def judged_slices(self) -> int:
        """How many slices judge."""
        return sum(len(case.slices) for case in self.judged)


def read_material(
    images: Path, labels: Path | None, model: ModelSpec, *, calibration: int, judged: int
) -> Material:
    """Read volumes: every second one sets ranges, the others judge.

    Args:
        images: folder of two volumes or more.
        labels: folder with labels of the same names; None where there are none.
        model: for its slicing axis and classes.
        calibration: how many slices set ranges, spread over their volumes; flat ones never do.
        judged: how many slices judge, spread over theirs.

    Raises:
        UsageError: fewer than two volumes, only flat slices, or labels that do not belong.
        VolumeError: a volume cannot be read.
    """
    cases = find_cases(images)
    if len(cases) < 2:
        raise UsageError(
            "int8 needs volumes that set ranges and others that judge",
            got=f"{len(cases)} volume in '{images}'",
            expected="two or more",
        )
    truths = None if labels is None else {case.name: case.path for case in find_cases(labels)}
    ranges, judges = cases[::2], cases[1::2]
    if truths is not None and (missing := [c.name for c in judges if c.name not in truths]):
        raise UsageError(
            f"'{labels}' lacks labels", got=f"none for {missing[0]}", expected="one for each volume"
        )
    found = [
        one
        for case, count in zip(ranges, _shares(calibration, len(ranges)), strict=True)
        for one in _spread(_filled(_read(case, model)), count)
    ]
    if not found:
        raise UsageError("volumes that set ranges", got="flat slices only", expected="images")
    return Material(
        calibration=tuple(one[None, None] for one in found),
        judged=tuple(
            _judged(case, None if truths is None else truths[case.name], model, count)
            for case, count in zip(judges, _shares(judged, len(judges)), strict=True)
            if count
        ),
    )


def _read(case: Case, model: ModelSpec) -> NDArray[np.float32]:
    volume = read_volume(case.path)
    axis = resolve_axis(volume.geometry, model.preprocess.slice_axis)
    return np.ascontiguousarray(slices_along(volume.array, axis), dtype=np.float32)


def _filled(slices: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = slices.min(axis=(1, 2)) == slices.max(axis=(1, 2))
    filled: NDArray[np.float32] = slices[~flat]
    return filled


def _judged(case: Case, labels: Path | None, model: ModelSpec, count: int) -> JudgedCase:
    slices = _read(case, model)
    chosen = _chosen(len(slices), count)
    if labels is None:
        return JudgedCase(case.name, slices[chosen][:, None], None)
    image, drawn = read_volume(case.path), read_labels(labels)
    if image.array.shape != drawn.array.shape or not near_space(image.geometry, drawn.geometry):
        raise UsageError(f"labels of '{case.name}' do not lie on its voxels", got=str(labels))
    if (largest := int(drawn.array.max())) >= len(model.classes):
        raise UsageError(
            f"labels of '{case.name}'",
            got=f"value {largest}",
            expected=f"0..{len(model.classes) - 1}, the model's classes",
        )
    axis = resolve_axis(image.geometry, model.preprocess.slice_axis)
    truth = slices_along(drawn.array, axis)[chosen].astype(np.uint8)
    return JudgedCase(case.name, slices[chosen][:, None], truth)


def _shares(count: int, parts: int) -> list[int]:
    """Split a count into nearly equal shares, the first ones larger."""
    return [count // parts + (index < count % parts) for index in range(parts)]


def _spread(slices: NDArray[Any], count: int) -> list[NDArray[Any]]:
    return [slices[index] for index in _chosen(len(slices), count)]


def _chosen(there: int, count: int) -> NDArray[np.intp]:
    """Return up to `count` indices, from the first to the last and evenly between."""
    return np.unique(np.linspace(0, there - 1, min(count, there)).round().astype(np.intp))
