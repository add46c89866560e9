"""What rows are run on: golden tensors, seeded noise, and real volumes where they are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import UsageError
from autosam_deploy.runtime.selftest import GoldenArrays, read_golden
from autosam_deploy.spec import ModelSpec
from autosam_deploy.volumes.cases import find_cases
from autosam_deploy.volumes.phantom import make_phantom
from autosam_deploy.volumes.read import read_labels, read_volume
from autosam_deploy.volumes.slices import resolve_axis, slices_along
from autosam_deploy.volumes.volume import near_space
from autosam_deploy.volumes.write import write_volume

Slices = NDArray[np.float32]
Labels = NDArray[np.uint8]

GOLDEN, NOISE, VOLUMES, TIMED = "golden", "noise", "volumes", "timed"
_MOST_VOLUMES = 3
_ROTATING = 4


@dataclass(frozen=True)
class InputSet:
    """Batches (B, 1, H, W) float32 of one kind; `drawn` labels (B, H, W) where people drew some."""

    name: str
    batches: tuple[Slices, ...]
    drawn: tuple[Labels, ...] = ()

    @property
    def slices(self) -> int:
        """How many slices there are."""
        return sum(len(batch) for batch in self.batches)

    def save(self, folder: Path) -> list[Path]:
        """Write every batch as .npy and return the files."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{self.name}-{number}.npy" for number in range(len(self.batches))]
        for file, batch in zip(files, self.batches, strict=True):
            np.save(file, batch)
        return files


def golden_set(bundle: Bundle) -> tuple[InputSet, tuple[GoldenArrays, ...]]:
    """Return the bundle's golden slices, and all of its golden arrays.

    Raises:
        BundleError: a golden file is not what the manifest says.
    """
    arrays = tuple(read_golden(bundle, case) for case in bundle.manifest.golden)
    return InputSet(GOLDEN, tuple(one.slices for one in arrays)), arrays


def noise_set(encoder: EncoderSpec, *, seed: int) -> InputSet:
    """Return seeded noise: what no image is like, and whatever is only right on images fails on."""
    random = np.random.default_rng(seed)
    shapes = ((1, 1, 61, 47),) if encoder.is_big else ((2, 1, 64, 80), (1, 1, 61, 47))
    batches = tuple(random.integers(-1000, 3000, shape).astype(np.float32) for shape in shapes)
    return InputSet(NOISE, batches)


def volume_set(
    volumes: Path, labels: Path | None, model: ModelSpec, *, count: int | None
) -> InputSet:
    """Return slices around the middle of up to three volumes, a batch a volume.

    Args:
        volumes: file, DICOM folder or folder of either.
        labels: of the same names, drawn by people.
        model: for the slicing axis and the classes.
        count: slices a volume; None is one for big encoders, else three.

    Raises:
        VolumeError: a volume cannot be read.
        UsageError: labels that do not belong to the volumes or the classes.
    """
    cases = find_cases(volumes)[:_MOST_VOLUMES]
    drawn = {case.name: case.path for case in find_cases(labels)} if labels else {}
    if labels is not None and len(cases) == 1 and len(drawn) == 1:
        drawn = dict.fromkeys((cases[0].name,), next(iter(drawn.values())))
    wanted = count or (1 if model.encoder.is_big else 3)
    batches, truths = [], []
    for case in cases:
        volume = read_volume(case.path)
        axis = resolve_axis(volume.geometry, model.preprocess.slice_axis)
        stack = slices_along(volume.array, axis)
        start = max(0, (len(stack) - wanted) // 2)
        part = stack[start : start + wanted]
        batches.append(np.ascontiguousarray(part[:, None], np.float32))
        if labels is None:
            continue
        if case.name not in drawn:
            raise UsageError(
                f"no labels for volume '{case.name}' in '{labels}'", expected="equal names"
            )
        truth = read_labels(drawn[case.name])
        _check_labels(truth.array, volume.array.shape, model, drawn[case.name])
        if not near_space(truth.geometry, volume.geometry):
            raise UsageError(f"labels '{drawn[case.name]}' lie elsewhere than their volume")
        truths.append(slices_along(truth.array, axis)[start : start + wanted].copy())
    return InputSet(VOLUMES, tuple(batches), tuple(truths))


def _check_labels(labels: Labels, shape: tuple[int, ...], model: ModelSpec, path: Path) -> None:
    if labels.shape != shape:
        raise UsageError(f"labels '{path}'", got=f"shape {labels.shape}", expected=str(shape))
    largest, classes = int(labels.max()), len(model.classes)
    if largest >= classes:
        names = ", ".join(one.name for one in model.classes)
        raise UsageError(
            f"labels '{path}' have other classes than the bundle",
            got=f"value {largest}",
            expected=f"0..{classes - 1} ({names})",
            todo="give the labels that the head was trained for",
        )


def timing_batches(volumes: Path | None, *, batch: int, side: int, seed: int) -> list[Slices]:
    """Return batches (B, 1, H, W) to be timed on in turns, all of one shape.

    Slices are those of the first volume, or of a phantom of side x side pixels.
    """
    if volumes is not None:
        volume = read_volume(find_cases(volumes)[0].path)
        stack = slices_along(volume.array, resolve_axis(volume.geometry, "auto"))
    else:
        phantom, _ = make_phantom(seed, shape=(_ROTATING + 2, side, side))
        stack = phantom.array[1:-1]
    found = []
    for number in range(_ROTATING):
        chosen = np.arange(number, number + batch) % len(stack)
        found.append(np.ascontiguousarray(stack[chosen][:, None], np.float32))
    return found


def timing_volume(
    volumes: Path | None, folder: Path, *, slices: int, side: int
) -> tuple[Path, str]:
    """Return a volume's file for the end-to-end row, and what it is."""
    if volumes is not None:
        path = find_cases(volumes)[0].path
        return path, path.name
    phantom, _ = make_phantom(3, shape=(slices, side, side))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "phantom.nii.gz"
    write_volume(path, phantom)
    return path, f"phantom of {slices} slices, {side}x{side}"
