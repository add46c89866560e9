"""Views: augmented copies of a slice and its labels, each made from one seed.

The frozen encoder sees every slice once, so a head cannot be trained on slices that change from
epoch to epoch. It is trained on a fixed number of views of each, whose embeddings are kept.

The transforms and their defaults are the reference's (dataset/ACDC.py, with the defaults of
batchgenerators where it gives none). What differs, and why:

* Order: first the spatial part, then brightness, gamma and noise. The reference goes the other way;
  here the padding gets the same noise as the air it stands for.
* Padding: the slice's minimum and label 0, since what lies outside the field of view is air or
  unknown. The reference repeats the border ("nearest"), labels too.
* Brightness is off: the reference adds a constant to each of three channels after its min-max. A
  slice has one channel, and `slice-minmax` and `slice-zscore` take any constant out again, so that
  only the recipes `window` and `none` would notice it.
* Slices keep their size and units. The reference works on 224 x 224 pixels; displacements are given
  here as a share of the slice's sides, intensities as a share of its range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from autosam_deploy.errors import UsageError
from autosam_deploy.extras import require
from autosam_deploy.strict import Strict
from autosam_deploy.training.embedding.warp import Move, field_shape, plain, resample

Probability = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[tuple[float, float], Field(strict=False)]


class ViewRecipe(Strict):
    """Which transforms make a view, how often, how strong; the defaults are the reference's.

    A value is drawn evenly from its range; equal ends fix it. Where 1 lies inside the range of
    `scale` or `gamma`, half of the draws fall on each side of it, as in batchgenerators.

    flip_probability: of mirroring columns, left and right (MirrorTransform, axes=(1,)).
    rotation_probability: of turning around the centre (p_rot_per_sample).
    rotation: radians, positive turns the content clockwise (angle_x).
    scale_probability: of zooming around the centre (p_scale_per_sample).
    scale: side of the field that is looked at, as a share of the slice's side: 0.5 shows the middle
        at twice its size, 1.9 the whole slice at 1 / 1.9 of its size (scale, a factor of the
        sampling grid).
    elastic_probability: of bending (p_el_per_sample, which the reference leaves at 1).
    elastic_shift: standard deviation of a pixel's displacement, as a share of the side, each axis
        by its own. batchgenerators smooths uniform noise in (-1, 1) with a Gaussian of sigma
        pixels and multiplies by alpha, which gives alpha / (sqrt(3) 2 sqrt(pi) sigma), or
        0.163 alpha / sigma pixels: with alpha 100 to 350 and sigma 40 to 60, 0.27 to 1.43
        pixels of 224 (less towards its borders, where it smooths with zeros).
    elastic_smoothness: sigma of that Gaussian as a share of the side (40 to 60 pixels of 224).
    brightness_probability: of adding a constant (BrightnessTransform has 0.5; see the module).
    brightness_mean: of the constant's normal distribution, as a share of the slice's range (mu).
    brightness_deviation: its standard deviation, as a share of the slice's range (sigma).
    gamma_probability: of raising the intensities, scaled to [0, 1], to a power (GammaTransform).
    gamma: the power (gamma_range).
    noise_probability: of adding Gaussian noise (GaussianNoiseTransform).
    noise: standard deviation as a share of the slice's range (noise_variance, which batchgenerators
        hands to the generator as a standard deviation).
    """

    flip_probability: Probability = 0.5
    rotation_probability: Probability = 0.5
    rotation: Range = (-0.1, 0.1)
    scale_probability: Probability = 0.5
    scale: Range = (0.5, 1.9)
    elastic_probability: Probability = 1.0
    elastic_shift: Range = (0.0012, 0.0064)
    elastic_smoothness: Range = (0.18, 0.27)
    brightness_probability: Probability = 0.0
    brightness_mean: float = 1.0
    brightness_deviation: float = Field(default=1.0, ge=0)
    gamma_probability: Probability = 0.5
    gamma: Range = (0.5, 2.0)
    noise_probability: Probability = 0.5
    noise: Range = (0.0, 0.1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        lowest = {
            "rotation": -math.inf,
            "scale": 0.01,
            "elastic_shift": 0.0,
            # Finer bends than this are noise, and the field would need a large grid.
            "elastic_smoothness": 0.01,
            "gamma": 0.01,
            "noise": 0.0,
        }
        for name, bound in lowest.items():
            low, high = getattr(self, name)
            if not bound <= low <= high:
                least = "" if bound == -math.inf else f", from {bound} up"
                raise ValueError(f"{name} {(low, high)} must be (lowest, highest){least}")
        return self

    @classmethod
    def gentle(cls) -> Self:
        """Return the recipe of `steady`: turns and zooms that stay near the slice, and no mirror.

        Hearts and most organs have a left and a right.
        """
        return cls(
            flip_probability=0.0,
            rotation_probability=0.8,
            rotation=(-0.35, 0.35),
            scale_probability=0.8,
            scale=(0.7, 1.4),
            elastic_shift=(0.002, 0.01),
            gamma=(0.7, 1.5),
            noise=(0.0, 0.05),
        )

    @classmethod
    def none(cls) -> Self:
        """Return the recipe whose views are the slice itself."""
        names = [name for name in cls.model_fields if name.endswith("_probability")]
        return cls.model_validate(dict.fromkeys(names, 0.0))


def make_view(
    slice_: NDArray[np.float32],
    labels: NDArray[np.uint8] | None,
    *,
    recipe: ViewRecipe,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:
    """Make one view of a slice and its labels; the same arguments give the same bytes.

    Args:
        slice_: (H, W), raw intensities of any scale.
        labels: (H, W) uint8, or None.
        recipe: what is done, how often, how strong.
        seed: decides all draws, and nothing else does.

    Returns:
        The slice (H, W) float32 in the units it came in, and its labels, moved alike. Both are new
        arrays. A flat slice stays as it is, since every strength is a share of its range.

    Raises:
        UsageError: a side under 2 pixels, labels of another shape, values that are not finite, a
            negative seed.
        MissingExtraError: MONAI is not installed.
    """
    _check_shape(slice_)
    if labels is not None and labels.shape != slice_.shape:
        raise UsageError(
            "labels of a slice", got=f"shape {labels.shape}", expected=str(slice_.shape)
        )
    image = np.array(slice_, np.float32)
    low, high = float(image.min()), float(image.max())
    if not high - low < float(np.finfo(np.float32).max):
        raise UsageError("intensities of a slice", got=f"{low}..{high}", expected="finite numbers")
    move, tone = _draw_move(recipe, seed), _draw_tone(recipe, seed)
    grid = None if move is None else move.grid(image.shape)
    moved = None if labels is None else _move_labels(labels, grid)
    if grid is None and tone.is_neutral:
        return image, moved
    span = high - low
    scaled = (image - np.float32(low)) / np.float32(span or 1.0)
    if grid is not None:
        # Zeros beyond the border are the slice's minimum here.
        scaled = resample(scaled, grid, "bilinear")
    return _apply(tone, scaled) * np.float32(span) + np.float32(low), moved


def view_labels(labels: NDArray[np.uint8], *, recipe: ViewRecipe, seed: int) -> NDArray[np.uint8]:
    """Return the labels (H, W) uint8 of the view that `make_view` makes from the same seed.

    Raises:
        UsageError: a side under 2 pixels, a negative seed.
        MissingExtraError: MONAI is not installed.
    """
    _check_shape(labels)
    move = _draw_move(recipe, seed)
    return _move_labels(labels, None if move is None else move.grid(labels.shape))


def _move_labels(labels: NDArray[np.uint8], grid: Tensor | None) -> NDArray[np.uint8]:
    if grid is None:
        return labels.copy()
    return resample(labels.astype(np.float32), grid, "nearest").astype(np.uint8)


def _check_shape(array: NDArray[Any]) -> None:
    if array.ndim != 2 or min(array.shape) < 2:
        raise UsageError(
            "a slice to make views of",
            got=f"shape {array.shape}",
            expected="(H, W), both at least 2",
        )


@dataclass(frozen=True)
class _Tone:
    """The intensity part of a view, with its draws; see `ViewRecipe` for the units."""

    brightness: float
    gamma: float
    noise: float
    seed: int

    @property
    def is_neutral(self) -> bool:
        return (self.brightness, self.gamma, self.noise) == (0, 1, 0)


#: The two parts draw from generators of their own: labels need no intensities, and a change in one
#: part leaves the other as it was.
_SPATIAL, _INTENSITY = 0, 1


def _generator(seed: int, part: int) -> np.random.Generator:
    if seed < 0:
        raise UsageError("seed of a view", got=str(seed), expected="0 or more")
    return np.random.default_rng((part, seed))


def _draw_move(recipe: ViewRecipe, seed: int) -> Move | None:
    """Draw the spatial part; None leaves every pixel where it is."""
    random = _generator(seed, _SPATIAL)
    flip, _ = _toss(random, recipe.flip_probability)
    turn, angle = _toss(random, recipe.rotation_probability)
    zoom, scale = _toss(random, recipe.scale_probability)
    bend, shift = _toss(random, recipe.elastic_probability)
    smoothness = _within(recipe.elastic_smoothness, random.random())
    move = Move(
        flip=flip,
        angle=_within(recipe.rotation, angle) if turn else 0.0,
        scale=_around_one(recipe.scale, scale) if zoom else 1.0,
        shift=_within(recipe.elastic_shift, shift) if bend else 0.0,
        smoothness=smoothness,
        noise=random.standard_normal(field_shape(smoothness)),
    )
    return None if move.is_still else move


def _draw_tone(recipe: ViewRecipe, seed: int) -> _Tone:
    random = _generator(seed, _INTENSITY)
    lift, _ = _toss(random, recipe.brightness_probability)
    offset = random.normal(recipe.brightness_mean, recipe.brightness_deviation)
    curve, gamma = _toss(random, recipe.gamma_probability)
    noisy, noise = _toss(random, recipe.noise_probability)
    return _Tone(
        brightness=offset if lift else 0.0,
        gamma=_around_one(recipe.gamma, gamma) if curve else 1.0,
        noise=_within(recipe.noise, noise) if noisy else 0.0,
        seed=int(random.integers(2**32)),
    )


def _toss(random: np.random.Generator, probability: float) -> tuple[bool, float]:
    """Return whether to act, and a place in [0, 1) for the strength.

    Both are drawn in any case: another probability then leaves all other draws as they were.
    """
    coin, place = random.random(2)
    return bool(coin < probability), float(place)


def _within(ends: tuple[float, float], place: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * place


def _around_one(ends: tuple[float, float], place: float) -> float:
    if not ends[0] < 1 < ends[1]:
        return _within(ends, place)
    if place < 0.5:
        return _within((ends[0], 1.0), 2 * place)
    return _within((1.0, ends[1]), 2 * place - 1)


def _apply(tone: _Tone, scaled: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return intensities, scaled to [0, 1], with the tone's brightness, gamma and noise."""
    if tone.is_neutral:
        return scaled
    transforms = require("monai.transforms", extra="train", feature="making views of slices")
    image = torch.from_numpy(scaled)[None]
    if tone.brightness:
        image = transforms.ShiftIntensity(tone.brightness)(image)
    if tone.gamma != 1:
        image = transforms.AdjustContrast(tone.gamma)(image)
    if tone.noise:
        noise = transforms.RandGaussianNoise(prob=1.0, std=tone.noise, sample_std=False)
        # A state of its own: MONAI's transforms share one otherwise.
        image = noise.set_random_state(state=np.random.RandomState(tone.seed))(image)
    return plain(image)
