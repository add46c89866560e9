from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from autosam_deploy.benchmarks.baselines.network import (
    build_unet,
    choose_size,
    encoder_state,
    to_input,
)
from autosam_deploy.benchmarks.baselines.unet import (
    UnetConfig,
    UnetResult,
    fit_unet,
    label_slices,
)
from autosam_deploy.errors import CheckpointError, TrainingError, UsageError
from autosam_deploy.metrics import dice
from autosam_deploy.training.datasets.loading import LabelledSlices
from autosam_deploy.training.embedding.views import ViewRecipe
from autosam_deploy.training.fitting.recipe import Epoch

CHANNELS = (4, 4, 8, 8, 8)


def squares(
    seed: int, *, count: int = 6, size: tuple[int, int] = (32, 32), scale: float = 1000
) -> LabelledSlices:
    """Slices with one bright square each, which is class 1, on noise."""
    random = np.random.default_rng(seed)
    slices = random.normal(0, 0.1 * scale, (count, *size)).astype(np.float32)
    labels = np.zeros((count, *size), np.uint8)
    for image, mask in zip(slices, labels, strict=True):
        y, x = random.integers(2, size[0] - 14), random.integers(2, size[1] - 14)
        image[y : y + 12, x : x + 12] += scale
        mask[y : y + 12, x : x + 12] = 1
    return LabelledSlices(f"case_{seed}", slices, labels)


def fit(
    train: list[LabelledSlices] | None = None,
    validation: list[LabelledSlices] | None = None,
    *,
    start: dict[str, torch.Tensor] | None = None,
    report: Any = None,
    **fields: Any,
) -> UnetResult:
    config = replace(UnetConfig(epochs=2, channels=CHANNELS, learning_rate=1e-2), **fields)
    return fit_unet(
        train or [squares(1)],
        [squares(2, count=2)] if validation is None else validation,
        num_classes=2,
        config=config,
        start=start,
        report=report,
    )


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_learns_an_easy_problem() -> None:
    told: list[Epoch] = []
    result = fit(epochs=12, report=told.append)
    assert result.best.dice > 0.8
    assert result.best.dice == max(epoch.dice for epoch in result.history)
    assert result.history == told
    assert result.history[-1].loss < 0.7 * result.history[0].loss
    other = squares(3, scale=1)  # units must not matter
    labels = label_slices(result, other.slices)
    assert dice(labels, other.labels, num_classes=2)[1] > 0.8


def test_result_is_the_best_epochs() -> None:
    validation = squares(2, count=2)
    result = fit([squares(1)], [validation], epochs=3)
    labels = label_slices(result, validation.slices)
    assert dice(labels, validation.labels, num_classes=2)[1] == pytest.approx(result.best.dice)


def test_same_seed_same_weights() -> None:
    one = fit(seed=5)
    torch.rand(1)  # what else was drawn in the process must not matter
    assert same(one.state, fit(seed=5).state)
    assert not same(one.state, fit(seed=6).state)


def test_views_change_what_is_learned() -> None:
    """They are drawn anew in each epoch; none at all is possible too."""
    plain = fit(views=None)
    assert same(plain.state, fit(views=ViewRecipe.none()).state)
    assert not same(plain.state, fit(views=ViewRecipe()).state)


def test_sizes_may_differ_and_labels_keep_them() -> None:
    train = [squares(1, size=(32, 40)), squares(2, count=3, size=(26, 21))]
    result = fit(train, [squares(3, count=2, size=(50, 33))])
    assert result.size == (64, 48)
    for size in ((26, 21), (70, 18)):
        labels = label_slices(result, squares(4, count=3, size=size).slices)
        assert labels.shape == (3, *size)
        assert labels.dtype == np.uint8
    assert label_slices(result, np.zeros((0, 8, 9), np.float32)).shape == (0, 8, 9)


def test_without_validation_the_training_slices_stand_in() -> None:
    train = squares(1)
    result = fit([train], [])
    labels = label_slices(result, train.slices)
    assert dice(labels, train.labels, num_classes=2)[1] == pytest.approx(result.best.dice)


@pytest.mark.parametrize(("limit", "steps"), [(1, [1]), (3, [2, 1]), (4, [2, 2]), (99, [2, 2])])
def test_steps_are_an_upper_bound(limit: int, steps: list[int]) -> None:
    """Six slices in batches of four make two steps an epoch."""
    result = fit(steps=limit)
    assert [epoch.steps for epoch in result.history] == steps
    assert result.steps == sum(steps)


def test_one_epoch_is_always_run() -> None:
    assert len(fit(epochs=9, time_limit_s=1e-9).history) == 1


def test_patience_ends_training() -> None:
    # A rate this small changes no label: no epoch is better than the first.
    assert len(fit(epochs=9, patience=2, learning_rate=1e-12).history) == 3
    assert len(fit(epochs=5, patience=0, learning_rate=1e-12).history) == 5


def test_learning_rate_falls_on_a_plateau() -> None:
    """Looked at from the tenth epoch on, as for heads."""
    still = {"batch": 6, "views": None, "learning_rate": 1e-7}  # one loss in all epochs
    result = fit(epochs=14, patience=0, lr_patience=1, lr_factor=0.5, **still)
    rates = [epoch.learning_rate for epoch in result.history]
    assert rates == [1e-7] * 12 + [5e-8] * 2


def test_loss_that_is_not_finite_names_the_slices() -> None:
    with pytest.raises(
        TrainingError, match=r"not finite; got nan in epoch \d, step \d: case_1, slice \d"
    ):
        fit(epochs=5, learning_rate=1e30)


def test_slices_that_are_not_finite() -> None:
    broken = squares(7)
    broken.slices[3, 2, 2] = np.nan
    message = r"'case_7' hold values that are not finite; got 1 of 6144"
    with pytest.raises(UsageError, match=message):
        fit([broken])
    with pytest.raises(UsageError, match=message):
        fit(validation=[broken])
    with pytest.raises(UsageError, match="volume to label' hold values that are not finite"):
        label_slices(fit(), broken.slices)


def test_flat_slices_are_harmless() -> None:
    train = squares(1)
    train.slices[0], train.labels[0] = 7, 0
    assert all(tensor.isfinite().all() for tensor in fit([train]).state.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.full((6, 32, 32), 2, np.uint8)}, r"labels of 'case_1'; got 2; .* 0\.\.1"),
        ({"labels": np.zeros((6, 32, 31), np.uint8)}, r"got shape \(6, 32, 31\)"),
        ({"slices": np.zeros((32, 32), np.float32)}, r"got shape \(32, 32\); expected \(N, H, W\)"),
        (
            {"slices": np.zeros((0, 32, 32), np.float32), "labels": np.zeros((0, 32, 32), "u1")},
            "got 0 for training, 2 for validation",
        ),
    ],
)
def test_volumes_that_cannot_be_learned(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fit([replace(squares(1), **change)])


def test_validation_needs_foreground() -> None:
    empty = replace(squares(2), labels=np.zeros((6, 32, 32), np.uint8))
    with pytest.raises(UsageError, match="and foreground among those for validation"):
        fit(validation=[empty])


def test_pretrained_encoder_is_where_training_starts() -> None:
    donor = encoder_state(build_unet(9, CHANNELS, seed=77))
    result = fit(start=donor, steps=1, learning_rate=1e-12)
    for name, tensor in donor.items():
        torch.testing.assert_close(result.state[name], tensor, rtol=0, atol=1e-9)
    fresh = build_unet(2, CHANNELS, seed=0).state_dict()
    rest = {name: fresh[name] for name in fresh if name not in donor}
    assert any(name.startswith("upcat") for name in rest)
    for name, tensor in rest.items():
        torch.testing.assert_close(result.state[name], tensor, rtol=0, atol=1e-9)


def test_start_must_be_this_unets_encoder() -> None:
    donor = encoder_state(build_unet(2, CHANNELS, seed=0))
    with pytest.raises(CheckpointError, match=r"missing 'conv_0\..* and 37 more"):
        fit(start={})
    with pytest.raises(CheckpointError, match="unexpected 'final_conv"):
        fit(start=build_unet(2, CHANNELS, seed=0).state_dict())
    with pytest.raises(CheckpointError, match=r"'down_4\..* does not fit the model; got shape"):
        fit(start=donor, channels=(4, 4, 8, 8, 16))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "training epochs; got 0"),
        ({"steps": 0}, "training steps; got 0"),
        ({"channels": (4, 4, 8)}, r"channels of the U-Net; got \(4, 4, 8\); expected five"),
        ({"channels": (4, 4, 8, 1, 8)}, "expected five numbers, 2 or more"),
        ({"size": (48, 40)}, r"input size of the U-Net; got \(48, 40\); expected multiples of 16"),
        ({"size": (16, 32)}, "multiples of 16, 32 or more"),
    ],
)
def test_impossible_settings(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        UnetConfig(**fields)


def test_config_is_json() -> None:
    config = UnetConfig(size=(64, 48))
    stored = json.loads(json.dumps(config.as_dict()))
    assert stored["views"]["flip_probability"] == 0.5
    assert (stored["epochs"], stored["size"]) == (120, [64, 48])
    assert UnetConfig(views=None).as_dict()["views"] is None


@pytest.mark.parametrize(
    ("shapes", "size"),
    [
        ([(35, 50)], (48, 64)),
        ([(64, 20), (48, 100)], (64, 112)),
        ([(9, 12)], (32, 32)),
        ([(512, 257)], (256, 256)),
    ],
)
def test_size_is_the_largest_slices(shapes: list[tuple[int, int]], size: tuple[int, int]) -> None:
    assert choose_size(np.zeros(shape, np.float32) for shape in shapes) == size


def test_input_is_scaled_slice_by_slice() -> None:
    ramp = np.linspace(-500, 1500, 64, dtype=np.float32).reshape(8, 8)
    x = to_input([ramp, ramp[::-1, ::2] * 3, np.full((5, 6), 9, np.float32)], (8, 8))
    assert x.shape == (3, 1, 8, 8)
    np.testing.assert_allclose(x[0, 0].numpy(), (ramp + 500) / 2000, atol=1e-6)
    assert (x[1].min(), x[1].max()) == (0, 1)
    assert (x[2] == 0).all()
