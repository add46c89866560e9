"""Small volumes, and DICOM series written by the tests themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autosam_deploy.volumes.volume import Geometry, Volume


@pytest.fixture
def volume() -> Volume:
    """An oblique int16 volume with three different sizes and spacings."""
    c, s = np.cos(0.3), np.sin(0.3)
    direction = (1.0, 0.0, 0.0, 0.0, float(c), float(-s), 0.0, float(s), float(c))
    geometry = Geometry((0.75, 1.25, 6.5), (-97.125, 12.5, 30.25), direction)
    array = np.random.default_rng(0).integers(-1000, 3000, (5, 8, 11)).astype(np.int16)
    return Volume(array, geometry, "patient")


@pytest.fixture
def write_dicom() -> Callable[..., None]:
    """Factory: write_dicom(folder, positions=[0, 5, 10], uid="1.2.3") writes one series.

    lean: mm that slices move aside per mm of height. images: one array (1, H, W) a slice. tags:
    more of them, a dict a slice. spacings: mm of a pixel (x, y), a slice.
    """

    def write(
        folder: Path,
        *,
        positions: list[float],
        uid: str = "1.2.826.0.1.3680043.2.1",
        lean: float = 0.0,
        images: list[np.ndarray] | None = None,
        tags: list[dict[str, str]] | None = None,
        spacings: list[tuple[float, float]] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        writer = SimpleITK.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        for index, position in enumerate(positions):
            array = np.full((1, 6, 7), 10 * index, np.int16)
            array[0, 2, 3] = 500 + index
            image = SimpleITK.GetImageFromArray(array if images is None else images[index])
            image.SetSpacing((*(spacings[index] if spacings else (0.5, 0.75)), 1.0))
            for tag, value in {
                "0008|0060": "MR",
                "0020|000e": uid,
                "0020|000d": "1.2.826.0.1.3680043.2.9",
                "0008|0018": f"{uid}.{index + 1}",
                "0020|0032": f"10\\{20 + lean * position}\\{position}",
                "0020|0037": "1\\0\\0\\0\\1\\0",
                "0020|0013": str(index),
                **(tags[index] if tags else {}),
            }.items():
                image.SetMetaData(tag, value)
            writer.SetFileName(str(folder / f"{uid[-1]}_{len(positions) - index:03d}.dcm"))
            writer.Execute(image)

    return write
