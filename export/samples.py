"""Slices to calibrate and compare on: from the user's volumes, else from the phantom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.spec import PreprocessSpec
from autosam_deploy.volumes.cases import find_cases
from autosam_deploy.volumes.phantom import make_phantom
from autosam_deploy.volumes.read import read_volume
from autosam_deploy.volumes.slices import resolve_axis, slices_along
from autosam_deploy.volumes.volume import Volume


@dataclass(frozen=True)
class Samples:
    """Batches of raw slices (B, 1, H, W) float32 and a line that says where they are from."""

    batches: tuple[NDArray[np.float32], ...]
    origin: str

    @property
    def names(self) -> tuple[str, ...]:
        """One short name a batch."""
        return tuple(f"case_{index}" for index in range(len(self.batches)))


def collect_samples(
    paths: tuple[Path, ...], encoder: EncoderSpec, preprocess: PreprocessSpec
) -> Samples:
    """Choose golden slices.

    Args:
        paths: volumes, DICOM folders or folders of them; none means phantom slices.
        encoder: big ones get one batch of one slice.
        preprocess: for the slicing axis.

    Returns:
        One batch for big encoders; else three, of sizes 3, 1 and 2 (any batch, any size must
        hold), the last with a flat slice.

    Raises:
        VolumeError: a volume cannot be read.
    """
    if paths:
        cases = [case for path in paths for case in find_cases(path)]
        volumes = [read_volume(case.path) for case in cases[:3]]
        origin = ", ".join(case.path.name for case in cases[:3])
    else:
        shapes = ((8, 96, 80), (8, 61, 47), (8, 64, 64))
        volumes = [make_phantom(900 + n, shape=shape)[0] for n, shape in enumerate(shapes)]
        origin = "phantom slices (no --samples were given)"
    stacks = [_central(volume, preprocess, 3) for volume in volumes]
    if encoder.is_big:
        return Samples((stacks[0][:1],), origin)
    counts = (3, 1, 2)
    batches = [stacks[n % len(stacks)][:count].copy() for n, count in enumerate(counts)]
    batches[2][-1] = batches[2][-1].max()
    return Samples(tuple(batches), origin)


def _central(volume: Volume, preprocess: PreprocessSpec, count: int) -> NDArray[np.float32]:
    """Return `count` slices (count, 1, H, W) around the middle of a volume, repeated if fewer."""
    stack: NDArray[Any] = slices_along(
        volume.array, resolve_axis(volume.geometry, preprocess.slice_axis)
    )
    start = max(0, len(stack) // 2 - count // 2)
    chosen = stack[start : start + count].astype(np.float32)
    return np.resize(chosen, (count, *chosen.shape[1:]))[:, None]
