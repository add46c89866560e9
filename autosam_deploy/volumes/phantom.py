"""A heart-like phantom with labels: something to try everything on, without any patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.files import write_json
from autosam_deploy.volumes.volume import Geometry, Volume
from autosam_deploy.volumes.write import write_volume

PHANTOM_CLASSES = ("background", "right_ventricle", "myocardium", "left_ventricle")

#: Mean intensities of air, body, blood and muscle, in the arbitrary units of an MRI scanner.
_AIR, _BODY, _BLOOD, _MUSCLE = 20.0, 300.0, 720.0, 140.0


def make_phantom(
    seed: int,
    *,
    shape: tuple[int, int, int] = (12, 96, 96),
    spacing: tuple[float, float, float] = (1.4, 1.4, 8.0),
) -> tuple[Volume, Volume]:
    """Make a short-axis heart in a thorax: two ventricles, myocardium, noise and bias field.

    Args:
        seed: anatomy, contrast, noise and orientation depend on it alone.
        shape: (z, y, x) voxels.
        spacing: (x, y, z) mm; thick slices, as in cardiac MRI.

    Returns:
        The image (int16) and its labels (uint8, see `PHANTOM_CLASSES`), in one oblique geometry.
    """
    random = np.random.default_rng(seed)
    z, y, x = np.meshgrid(
        *(np.linspace(-1, 1, count) for count in shape), indexing="ij", sparse=True
    )
    labels = _anatomy(random, z, y, x)
    body = (y / 0.88) ** 2 + (x / 0.95) ** 2 < 1
    image = np.where(body, _BODY * random.uniform(0.8, 1.2), _AIR)
    image = image + body * 90 * np.sin(5 * x + random.uniform(0, 6)) * np.cos(4 * y)
    blood = _BLOOD * random.uniform(0.85, 1.15)
    for label, value in ((1, blood * 0.92), (2, _MUSCLE * random.uniform(0.8, 1.1)), (3, blood)):
        image = np.where(labels == label, value, image)
    tilt = random.normal(0, 0.18, 3)
    image = image * np.exp(tilt[0] * z + tilt[1] * y + tilt[2] * x)
    image = np.abs(image + random.normal(0, 28, shape))
    geometry = Geometry(
        spacing=spacing,
        origin=tuple(float(value) for value in random.uniform(-120, 120, 3).round(3)),  # type: ignore[arg-type]
        direction=_rotation(random),
    )
    name = f"heart_{seed:03d}"
    return (
        Volume(image.round().astype(np.int16), geometry, name),
        Volume(labels, geometry, name),
    )


def _anatomy(
    random: np.random.Generator,
    z: NDArray[np.float64],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Return labels: a tapering ring (myocardium, left ventricle) and a crescent beside it."""
    centre_y, centre_x = random.uniform(-0.12, 0.12, 2)
    # The heart narrows from base to apex and leans with depth.
    taper = np.sqrt(np.clip(1 - ((z + 0.15) / 1.1) ** 2, 0, None))
    cy = centre_y + random.uniform(-0.08, 0.08) * z
    cx = centre_x + 0.08 + random.uniform(-0.08, 0.08) * z
    outer = random.uniform(0.32, 0.40) * taper
    wall = random.uniform(0.09, 0.13)
    inner = np.clip(outer - wall, 0, None)
    squash = random.uniform(0.88, 1.12)
    distance = np.sqrt(((y - cy) * squash) ** 2 + ((x - cx) / squash) ** 2)
    angle = random.uniform(-0.3, 0.3)
    offset = outer + 0.02
    ry, rx = cy + offset * np.sin(angle), cx - offset * np.cos(angle)
    beside = ((y - ry) / (1.15 * outer + 1e-6)) ** 2 + ((x - rx) / (0.72 * outer + 1e-6)) ** 2 < 1
    labels = np.zeros(distance.shape, np.uint8)
    labels[beside & (outer > 0.12)] = 1
    labels[distance < outer] = 2
    labels[distance < inner] = 3
    return labels


def _rotation(random: np.random.Generator) -> tuple[float, ...]:
    """Return a proper rotation close to the identity, row-major."""
    basis, _ = np.linalg.qr(np.eye(3) + random.normal(0, 0.15, (3, 3)))
    basis = basis * np.sign(np.diag(basis))
    if np.linalg.det(basis) < 0:
        basis[:, 2] *= -1
    return tuple(float(value) for value in basis.ravel())


def write_phantom_set(folder: Path, *, train: int = 8, test: int = 2, seed: int = 0) -> None:
    """Write a labelled set in the nnU-Net raw layout.

    Args:
        folder: gets imagesTr, labelsTr, imagesTs, labelsTs and dataset.json.
        train: training volumes, seeds `seed` .. `seed + train - 1`.
        test: held-out volumes, the seeds behind them.
        seed: of the first volume.
    """
    for index in range(train + test):
        part = "Tr" if index < train else "Ts"
        image, labels = make_phantom(seed + index)
        write_volume(folder / f"images{part}" / f"{image.name}_0000.nii.gz", image)
        write_volume(folder / f"labels{part}" / f"{image.name}.nii.gz", labels)
    names = {name: value for value, name in enumerate(PHANTOM_CLASSES)}
    write_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": "phantom"},
            "labels": names,
            "numTraining": train,
            "file_ending": ".nii.gz",
        },
    )
