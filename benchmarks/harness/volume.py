"""The end-to-end row: a volume's file in, a label file out, and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from autosam_deploy.benchmarks.harness.runners import Labels, Slices
from autosam_deploy.volumes.read import read_volume
from autosam_deploy.volumes.slices import resolve_axis, slices_along, stack_labels
from autosam_deploy.volumes.volume import Volume
from autosam_deploy.volumes.write import write_volume

STAGES = ("load", "preprocess", "run", "write")


def label_volume(
    labels: Callable[[Slices], Labels], path: Path, target: Path, *, axis: Any, batch: int
) -> tuple[dict[str, float], int]:
    """Label one volume as `autosam-predict` does.

    Args:
        labels: raw slices (B, 1, H, W) float32 -> labels (B, H, W).
        path: of the volume.
        target: label file to write.
        axis: "auto", "i", "j" or "k".
        batch: slices a run; the last run has what is left.

    Returns:
        Seconds by stage, and the number of slices. `preprocess` is slicing and conversion to
        float32; intensities and resizes are part of the model and of `run`.

    Raises:
        VolumeError: the volume cannot be read.
        OutputError: the labels cannot be written.
    """
    clock = _Clock()
    volume = read_volume(path)
    clock.lap("load")
    chosen = resolve_axis(volume.geometry, axis)
    stack = slices_along(volume.array, chosen)
    found = np.empty(stack.shape, np.uint8)
    clock.lap("preprocess")
    for start in range(0, len(stack), batch):
        part = np.ascontiguousarray(stack[start : start + batch, None], np.float32)
        clock.lap("preprocess")
        found[start : start + batch] = labels(part)
        clock.lap("run")
    write_volume(target, Volume(stack_labels(found, chosen), volume.geometry, volume.name))
    clock.lap("write")
    return clock.seconds, len(stack)


class _Clock:
    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._at = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self._at
        self._at = now
