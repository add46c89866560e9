from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

Write = Callable[..., Path]

SPACING = (1.5, 1.25, 8.0)
ORIGIN = (-20.0, 10.0, 5.0)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Factory: write("p1/p1.nii.gz", array) -> a NIfTI file below tmp_path, 3-D or 4-D.

    Without an array the image's voxels count upwards; a name of labels holds 0..3.
    """

    def call(name: str, array: np.ndarray | None = None) -> Path:
        if array is None:
            array = np.arange(60).reshape(3, 4, 5)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = [SimpleITK.GetImageFromArray(one.astype(np.int16)) for one in _frames(array)]
        for frame in frames:
            frame.SetSpacing(SPACING)
            frame.SetOrigin(ORIGIN)
        image = SimpleITK.JoinSeries(frames, 0.0, 30.0) if array.ndim == 4 else frames[0]
        SimpleITK.WriteImage(image, str(path))
        return path

    return call


@pytest.fixture
def write_pair(write: Write) -> Callable[..., None]:
    """Factory: write_pair("p1/a", "p1/a_seg", 7) -> an image of 7s, labels 0 .. 3."""

    def call(image: str, label: str, value: int = 1) -> None:
        write(f"{image}.nii.gz", np.full((3, 4, 5), value) + np.arange(5))
        write(f"{label}.nii.gz", np.arange(60).reshape(3, 4, 5) % 4)

    return call


def _frames(array: np.ndarray) -> list[np.ndarray]:
    return list(array) if array.ndim == 4 else [array]
