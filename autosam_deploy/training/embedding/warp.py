"""Move the pixels of a slice: bend, turn, zoom and mirror, sampled once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autosam_deploy.extras import require

#: Points of the bending field's grid beyond each border of the slice.
_BEYOND = 3


@dataclass(frozen=True)
class Move:
    """Where the pixels of a slice go.

    flip: mirror columns.
    angle: radians, positive turns the content clockwise.
    scale: side of the field that is looked at, as a share of the slice's side; under 1 enlarges.
    shift: standard deviation of the bending field, as a share of the slice's sides.
    smoothness: sigma of that field's Gaussian, as a share of the slice's sides.
    noise: standard normal numbers of `field_shape(smoothness)`, from which the field is made.
    """

    flip: bool
    angle: float
    scale: float
    shift: float
    smoothness: float
    noise: NDArray[np.float64]

    @property
    def is_still(self) -> bool:
        """Whether every pixel stays where it is."""
        return (self.flip, self.angle, self.scale, self.shift) == (False, 0, 1, 0)

    def grid(self, shape: tuple[int, ...]) -> Tensor:
        """Return where each pixel of the result looks.

        Args:
            shape: slice (H, W).

        Returns:
            (2, H, W) float32: row and column in pixels from the slice's centre.
        """
        height, width = shape
        y = torch.arange(height, dtype=torch.float32)[:, None] - (height - 1) / 2
        x = torch.arange(width, dtype=torch.float32)[None, :] - (width - 1) / 2
        if self.shift:
            down, right = _smooth_field(self.noise, shape, self.smoothness)
            y, x = y + self.shift * height * down, x + self.shift * width * right
        cosine, sine = self.scale * math.cos(self.angle), self.scale * math.sin(self.angle)
        y, x = cosine * y - sine * x, sine * y + cosine * x
        return torch.stack([y, -x if self.flip else x])


def field_shape(smoothness: float) -> tuple[int, int, int]:
    """Return how much noise a bending field of that smoothness is made from."""
    points = math.ceil(1 / smoothness) + 2 * _BEYOND + 1
    return 2, points, points


def _smooth_field(noise: NDArray[np.float64], shape: tuple[int, ...], smoothness: float) -> Tensor:
    """Return smooth noise (2, H, W) with variance 1 at every pixel.

    White noise on a grid of points `smoothness` apart, which reaches three of them beyond the
    slice, is weighted with a Gaussian around every pixel: a Gaussian filter at the price of two
    small matrix products.
    """
    weights = []
    for side in shape:
        pixels = (np.arange(side)[:, None] + 0.5) / side
        points = smoothness * (np.arange(noise.shape[1])[None] - _BEYOND)
        weight = np.exp(-0.5 * ((pixels - points) / smoothness) ** 2)
        weight /= np.sqrt((weight**2).sum(axis=1, keepdims=True))
        weights.append(weight.astype(np.float32))
    rows = weights[0] @ noise.astype(np.float32)
    # einsum stays on one thread: at this size those of a matrix product only wait for each other,
    # for many times as long as the product takes when the cores are busy.
    field = np.einsum("chp,pw->chw", rows, np.ascontiguousarray(weights[1].T))
    return torch.from_numpy(field)


def resample(array: NDArray[np.float32], grid: Tensor, mode: str) -> NDArray[np.float32]:
    """Sample a slice where a grid looks, with zeros beyond the border.

    Args:
        array: (H, W).
        grid: of `Move.grid`.
        mode: `bilinear` or `nearest`.

    Returns:
        (H, W) float32.

    Raises:
        MissingExtraError: MONAI is not installed.
    """
    transforms = require("monai.transforms", extra="train", feature="making views of slices")
    sampler = transforms.Resample(mode=mode, padding_mode="zeros", dtype=np.float32)
    return plain(sampler(torch.from_numpy(array)[None], grid=grid))


def plain(image: Tensor) -> NDArray[np.float32]:
    """Return MONAI's tensor (1, H, W) as an array (H, W)."""
    array: NDArray[np.float32] = np.asarray(image.as_subclass(Tensor), np.float32)[0]
    return array
