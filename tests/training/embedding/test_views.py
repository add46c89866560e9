from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autosam_deploy.errors import SpecError, UsageError
from autosam_deploy.models.preprocess import normalise
from autosam_deploy.spec import PreprocessSpec
from autosam_deploy.strict import parse_spec
from autosam_deploy.training.embedding.views import ViewRecipe, make_view, view_labels
from autosam_deploy.volumes.phantom import make_phantom

Image = NDArray[np.float32]
ELASTIC = {"elastic_probability": 1.0, "elastic_shift": (0.02, 0.02)}


def only(**fields: Any) -> ViewRecipe:
    """A recipe that does nothing but what is named."""
    return ViewRecipe(**{**ViewRecipe.none().model_dump(), **fields})


def view(image: Image, recipe: ViewRecipe, seed: int = 0) -> Image:
    return make_view(image, None, recipe=recipe, seed=seed)[0]


def blank(height: int, width: int) -> Image:
    return np.zeros((height, width), np.float32)


def square(height: int = 48, width: int = 64) -> tuple[Image, NDArray[np.uint8]]:
    """A bright square off the centre, and its label 2."""
    image = blank(height, width)
    image[12:30, 20:38] = 1
    return image, (2 * image).astype(np.uint8)


def phantom_slice() -> tuple[Image, NDArray[np.uint8]]:
    volume, labels = make_phantom(3)
    return volume.array[5].astype(np.float32), labels.array[5]


def centre(image: Image) -> tuple[float, float]:
    """Centre of mass (row, column) in pixels from the slice's centre."""
    y, x = np.indices(image.shape)
    y, x = y - (image.shape[0] - 1) / 2, x - (image.shape[1] - 1) / 2
    return float((image * y).sum() / image.sum()), float((image * x).sum() / image.sum())


def overlap(one: NDArray[np.bool_], two: NDArray[np.bool_]) -> float:
    return float(2 * (one & two).sum() / (one.sum() + two.sum()))


def test_image_and_labels_move_together() -> None:
    image, labels = square()
    for seed in range(40):
        moved, marks = make_view(image, labels, recipe=ViewRecipe(), seed=seed)
        assert marks is not None
        assert marks.any()
        assert overlap(moved > (moved.min() + moved.max()) / 2, marks == 2) > 0.9


def test_labels_alone_are_those_of_the_view() -> None:
    image, labels = phantom_slice()
    for seed in range(8):
        _, marks = make_view(image, labels, recipe=ViewRecipe(), seed=seed)
        alone = view_labels(labels, recipe=ViewRecipe(), seed=seed)
        assert alone.dtype == np.uint8
        assert (alone == marks).all()
        assert set(np.unique(alone)) <= set(np.unique(labels))


def test_intensity_settings_leave_labels_alone() -> None:
    image, labels = phantom_slice()
    loud = ViewRecipe(gamma_probability=1.0, noise=(0.5, 0.5), brightness_probability=1.0)
    _, marks = make_view(image, labels, recipe=loud, seed=4)
    assert (view_labels(labels, recipe=ViewRecipe(), seed=4) == marks).all()


def test_largest_label_survives() -> None:
    labels = np.full((9, 7), 255, np.uint8)
    recipe = only(rotation_probability=1.0)
    assert set(np.unique(view_labels(labels, recipe=recipe, seed=1))) <= {0, 255}


def test_same_seed_same_bytes_whatever_else_draws() -> None:
    image, labels = phantom_slice()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    first = [make_view(image, labels, recipe=ViewRecipe(), seed=seed) for seed in range(8)]
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # type: ignore[index]
    torch.rand(3)
    np.random.rand(3)
    with ThreadPoolExecutor(4) as pool:
        again = list(
            pool.map(lambda n: make_view(image, labels, recipe=ViewRecipe(), seed=n), range(8))
        )
    for (one, marks), (two, others) in zip(first, again, strict=True):
        assert one.tobytes() == two.tobytes()
        assert marks is not None
        assert others is not None
        assert marks.tobytes() == others.tobytes()


def test_seeds_differ() -> None:
    image, _ = phantom_slice()
    views = {view(image, ViewRecipe(), seed).tobytes() for seed in (*range(10), 2**32, 2**63)}
    assert len(views) == 12


def test_nothing_to_do_is_the_identity() -> None:
    image, labels = phantom_slice()
    kept, kept_labels = image.copy(), labels.copy()
    for seed in range(5):
        same, marks = make_view(image, labels, recipe=ViewRecipe.none(), seed=seed)
        assert marks is not None
        assert same.tobytes() == kept.tobytes()
        assert marks.tobytes() == kept_labels.tobytes()
        same += 1  # views are arrays of their own
        marks += 1
        assert (image == kept).all()
        assert (labels == kept_labels).all()


def test_input_is_not_changed() -> None:
    image, labels = phantom_slice()
    kept, marks = image.copy(), labels.copy()
    make_view(image, labels, recipe=ViewRecipe(), seed=2)
    assert (image == kept).all()
    assert (labels == marks).all()


def test_flip_mirrors_columns() -> None:
    image, labels = square()
    moved, marks = make_view(image, labels, recipe=only(flip_probability=1.0), seed=0)
    np.testing.assert_allclose(moved, image[:, ::-1], atol=1e-4)
    assert marks is not None
    assert (marks == labels[:, ::-1]).all()


@pytest.mark.parametrize("angle", [0.3, -0.3, math.pi / 2])
def test_rotation_turns_clockwise(angle: float) -> None:
    """A spot to the right of the centre goes down, by pixels and not by shares of the sides."""
    image = blank(61, 91)
    image[28:33, 61:66] = 1  # 18 pixels to the right of the centre
    recipe = only(rotation_probability=1.0, rotation=(angle, angle))
    expected = 18 * math.sin(angle), 18 * math.cos(angle)
    assert centre(view(image, recipe)) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.25, 1.9])
def test_scale_is_the_field_that_is_looked_at(scale: float) -> None:
    """Under 1 enlarges: content gets 1 / scale times as large and as far from the centre."""
    image = blank(80, 120)
    image[28:44, 64:76] = 1
    moved = view(image, only(scale_probability=1.0, scale=(scale, scale)))
    assert moved.sum() == pytest.approx(image.sum() / scale**2, rel=0.05)
    row, column = centre(image)
    assert centre(moved) == pytest.approx((row / scale, column / scale), abs=0.3)


@pytest.mark.parametrize("shape", [(40, 40), (160, 80)])
def test_elastic_displacement_is_a_share_of_the_sides(shape: tuple[int, int]) -> None:
    """A ramp shows the displacement of each pixel, in pixels."""
    height, width = shape
    recipe = only(**ELASTIC)
    y, x = (np.broadcast_to(axis, shape) for axis in np.ogrid[:height, :width])
    inside = slice(height // 5, -height // 5), slice(width // 5, -width // 5)
    moves = []
    for seed in range(24):
        rows = view(y.astype(np.float32), recipe, seed) - y
        columns = view(x.astype(np.float32), recipe, seed) - x
        moves.append((rows[inside] / height, columns[inside] / width))
    assert np.std(moves, axis=(0, 2, 3)) == pytest.approx([0.02, 0.02], rel=0.2)
    assert np.mean(moves, axis=(0, 2, 3)) == pytest.approx([0, 0], abs=0.008)
    # The two directions are drawn apart.
    correlation = np.corrcoef(np.array(moves).swapaxes(0, 1).reshape(2, -1))[0, 1]
    assert abs(correlation) < 0.4


def test_elastic_is_as_smooth_as_asked() -> None:
    ramp = np.tile(np.arange(100, dtype=np.float32), (100, 1))
    steps = []
    for smoothness in (0.05, 0.25):
        recipe = only(**ELASTIC, elastic_smoothness=(smoothness, smoothness))
        moved = np.stack([view(ramp, recipe, seed)[20:80, 20:80] for seed in range(10)])
        steps.append(np.abs(np.diff(moved - ramp[20:80, 20:80], axis=1)).mean())
    assert steps[0] / steps[1] == pytest.approx(5, rel=0.3)


def test_beyond_the_border_is_air() -> None:
    image = np.full((40, 60), 900, np.float32)
    image[20, 30] = -1000  # air in CT
    labels = np.full((40, 60), 3, np.uint8)
    recipe = only(scale_probability=1.0, scale=(1.9, 1.9))
    moved, marks = make_view(image, labels, recipe=recipe, seed=0)
    assert marks is not None
    for corner in (np.s_[:8, :], np.s_[-8:, :], np.s_[:, :12], np.s_[:, -12:]):
        assert (moved[corner] == -1000).all()
        assert (marks[corner] == 0).all()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gamma(gamma: float) -> None:
    image = np.linspace(100, 300, 64, dtype=np.float32).reshape(8, 8)
    moved = view(image, only(gamma_probability=1.0, gamma=(gamma, gamma)))
    np.testing.assert_allclose(moved, ((image - 100) / 200) ** gamma * 200 + 100, rtol=1e-5)


def test_noise_is_a_share_of_the_range() -> None:
    image = np.linspace(-400, 600, 128 * 128, dtype=np.float32).reshape(128, 128)
    rest = view(image, only(noise_probability=1.0, noise=(0.05, 0.05))) - image
    assert rest.std() == pytest.approx(50, rel=0.03)
    assert rest.mean() == pytest.approx(0, abs=1.5)


def test_brightness_is_taken_out_by_the_segmenters_minmax() -> None:
    """Why it is off by default, unlike in the reference."""
    image, _ = phantom_slice()
    assert ViewRecipe().brightness_probability == 0
    recipe = only(brightness_probability=1.0, brightness_mean=1.0, brightness_deviation=0.0)
    moved = view(image, recipe)
    np.testing.assert_allclose(moved - image, np.ptp(image), rtol=1e-5)
    seen = normalise(torch.from_numpy(np.stack([image, moved])[:, None]), PreprocessSpec())
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 255.0, 4000.0])
def test_units_are_kept(scale: float) -> None:
    image, _ = phantom_slice()
    unit = (image - image.min()) / np.ptp(image)
    one, many = view(unit, ViewRecipe(), 7), view(unit * scale - scale, ViewRecipe(), 7)
    assert many.dtype == np.float32
    np.testing.assert_allclose(many / scale + 1, one, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 7.0, -1024.0])
def test_flat_slices_stay_flat(value: float) -> None:
    image = np.full((12, 9), value, np.float32)
    for seed in range(12):
        assert (view(image, ViewRecipe(brightness_probability=0.5), seed) == value).all()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("flip_probability", {}),
        ("rotation_probability", {"rotation": (0.1, 0.1)}),
        ("scale_probability", {}),
        ("elastic_probability", {"elastic_shift": (0.1, 0.1)}),
        ("brightness_probability", {}),
        ("gamma_probability", {}),
        ("noise_probability", {}),
    ],
)
def test_probabilities(name: str, fields: dict[str, Any]) -> None:
    image = np.random.default_rng(0).random((6, 8), np.float32)
    recipe = only(**{name: 0.3}, **fields)
    acted = [not (view(image, recipe, seed) == image).all() for seed in range(200)]
    assert np.mean(acted) == pytest.approx(0.3, abs=0.1)  # three standard deviations


def test_transforms_are_drawn_apart() -> None:
    """One that acts must not tell whether another does."""
    image = np.random.default_rng(0).random((6, 8), np.float32)
    names = ("flip_probability", "scale_probability", "gamma_probability", "noise_probability")
    acted = [
        [not (view(image, only(**{name: 0.5}), seed) == image).all() for seed in range(150)]
        for name in names
    ]
    assert np.abs(np.corrcoef(acted) - np.eye(len(names))).max() < 0.25


def test_half_of_the_zooms_enlarge() -> None:
    image, _ = square()
    recipe = only(scale_probability=1.0)
    larger = [view(image, recipe, seed).sum() > image.sum() for seed in range(100)]
    assert np.mean(larger) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("shape", [(2, 2), (2, 9), (33, 3)])
def test_smallest_slices(shape: tuple[int, int]) -> None:
    image = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    labels = np.ones(shape, np.uint8)
    for seed in range(10):
        moved, marks = make_view(image, labels, recipe=ViewRecipe(), seed=seed)
        assert marks is not None
        assert moved.shape == marks.shape == shape
        assert np.isfinite(moved).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: view(blank(1, 7), ViewRecipe()), r"got shape \(1, 7\); expected \(H, W\), both"),
        (
            lambda: view_labels(np.zeros((0, 4), np.uint8), recipe=ViewRecipe(), seed=0),
            r"got shape \(0, 4\)",
        ),
        (lambda: view(np.zeros((3, 8, 8), np.float32), ViewRecipe()), r"got shape \(3, 8, 8\)"),
        (lambda: view(blank(8, 8), ViewRecipe(), seed=-1), "seed of a view; got -1"),
        (lambda: view(blank(8, 8) + np.nan, ViewRecipe()), r"got nan\.\.nan; expected finite"),
        (
            lambda: view(np.array([[0, 1], [2, np.inf]], np.float32), ViewRecipe()),
            r"got 0\.0\.\.inf; expected finite",
        ),
        (
            lambda: make_view(blank(8, 8), np.zeros((8, 9), np.uint8), recipe=ViewRecipe(), seed=0),
            r"labels of a slice; got shape \(8, 9\); expected \(8, 8\)",
        ),
    ],
)
def test_bad_input(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_recipe_survives_json() -> None:
    recipe = ViewRecipe(noise=(0.01, 0.02), flip_probability=0.25)
    assert parse_spec(ViewRecipe, recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("flip_probability", 1.5, "flip_probability.*less than or equal to 1"),
        ("scale", (1.9, 0.5), r"scale \(1\.9, 0\.5\) must be \(lowest, highest\), from 0\.01 up"),
        ("scale", (0.0, 1.0), r"scale \(0\.0, 1\.0\) must be"),
        ("elastic_smoothness", (0.0, 0.2), "elastic_smoothness .* from 0.01 up"),
        ("rotation", (0.2, 0.1), r"rotation \(0\.2, 0\.1\) must be \(lowest, highest\)"),
        ("noise", (-0.1, 0.1), "noise .* from 0.0 up"),
        ("brightness_deviation", -1.0, "brightness_deviation.*greater than or equal to 0"),
        ("shear", 0.1, "shear.*not permitted"),
    ],
)
def test_impossible_recipes(field: str, value: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec(ViewRecipe, {field: value})
