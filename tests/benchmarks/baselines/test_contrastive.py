from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autosam_deploy.benchmarks.baselines.contrastive import (
    ContrastiveConfig,
    PretrainEpoch,
    pretrain,
    rate_factor,
)
from autosam_deploy.benchmarks.baselines.network import (
    build_unet,
    encode,
    encoder_state,
    load_encoder,
    to_input,
)
from autosam_deploy.benchmarks.baselines.unet import UnetConfig, fit_unet
from autosam_deploy.errors import TrainingError, UsageError
from autosam_deploy.training.datasets.loading import LabelledSlices
from autosam_deploy.training.embedding.views import ViewRecipe, make_view

CHANNELS = (4, 4, 8, 8, 8)
SMALL = ContrastiveConfig(epochs=2, channels=CHANNELS, projection=8)
#: Enough to learn something.
LEARNING: dict[str, Any] = {
    "epochs": 40,
    "channels": (8, 8, 16, 16, 32),
    "projection": 16,
    "learning_rate": 5e-3,
    "views": ViewRecipe(scale=(0.9, 1.1), noise=(0.0, 0.03)),
}


def textures(count: int = 6, size: tuple[int, int] = (32, 32)) -> NDArray[np.float32]:
    """Stripes, each slice with a period and a contrast of its own."""
    y, x = np.indices(size)
    slices = [
        np.sin(x / (0.5 + 0.4 * n)) * np.cos(y / (1 + 0.3 * n)) ** (1 + n % 3) for n in range(count)
    ]
    return np.stack(slices).astype(np.float32)


def losses(volumes: list[NDArray[np.float32]], **fields: Any) -> list[float]:
    told: list[PretrainEpoch] = []
    pretrain(volumes, config=replace(SMALL, **fields), report=told.append)
    return [epoch.loss for epoch in told]


def test_loss_falls() -> None:
    found = losses([textures()], **LEARNING)
    assert np.mean(found[-5:]) < np.mean(found[:5]) - 0.7


def contrast(network: torch.nn.Module) -> float:
    """Variance between slices over variance between views of one, in what the encoder sees."""
    slices, recipe = textures(), LEARNING["views"]
    views = [
        make_view(slice_, None, recipe=recipe, seed=1000 + seed)[0]
        for slice_ in slices
        for seed in range(4)
    ]
    with torch.no_grad():
        features = encode(network, to_input(views, (32, 32))).mean(dim=(2, 3))
    features = torch.nn.functional.normalize(features, dim=1).unflatten(0, (len(slices), 4))
    return float(features.mean(dim=1).var(dim=0).sum() / features.var(dim=1).mean(dim=0).sum())


def test_encoder_tells_slices_apart_afterwards() -> None:
    network = build_unet(2, LEARNING["channels"], seed=0)
    before = contrast(network)
    load_encoder(network, pretrain([textures()], config=replace(SMALL, **LEARNING)))
    assert contrast(network) > 2 * before


def test_result_is_the_encoder_of_the_unet() -> None:
    state = pretrain([textures()], config=SMALL)
    fresh = encoder_state(build_unet(2, CHANNELS, seed=0))
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in fresh.items()
    }
    assert {name.split(".")[0] for name in state} == {"conv_0", *(f"down_{n}" for n in range(1, 5))}
    weights = [name for name in state if name.endswith("conv.weight")]
    assert weights
    assert not any(torch.equal(state[name], fresh[name]) for name in weights)


def test_unet_starts_from_it() -> None:
    slices = textures()
    labels = (slices > 0).astype(np.uint8)
    state = pretrain([slices], config=SMALL)
    volume = LabelledSlices("case", slices, labels)
    # One step at no speed: what comes out is what went in.
    config = UnetConfig(epochs=1, steps=1, learning_rate=1e-12, channels=CHANNELS)
    result = fit_unet([volume], [], num_classes=2, config=config, start=state)
    for name, tensor in state.items():
        torch.testing.assert_close(result.state[name], tensor, rtol=0, atol=1e-9)


def test_same_seed_same_weights() -> None:
    one = pretrain([textures()], config=SMALL)
    torch.rand(1)
    two = pretrain([textures()], config=SMALL)
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = pretrain([textures()], config=replace(SMALL, seed=1))
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_volumes_of_different_sizes_and_two_slices_are_enough() -> None:
    assert len(losses([textures(1, (32, 40)), textures(1, (20, 18))])) == 2


def test_last_batch_that_is_not_full_is_left_out() -> None:
    """A single slice has nothing to be told from: its loss of 0 would halve the mean, about 1.1."""
    assert losses([textures(3)], batch=2, epochs=1)[0] > 0.8


def test_rate_climbs_for_a_tenth_and_falls() -> None:
    factors = [rate_factor(epoch, 100) for epoch in range(100)]
    assert factors[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert 0 < factors[-1] < 0.001
    assert [rate_factor(epoch, 1) for epoch in range(2)] == [1, 1]


def test_epochs_report_the_rate_they_had() -> None:
    told: list[PretrainEpoch] = []
    pretrain([textures(2)], config=replace(SMALL, epochs=20, batch=2), report=told.append)
    assert [epoch.number for epoch in told] == list(range(1, 21))
    assert [epoch.learning_rate for epoch in told] == pytest.approx(
        [3e-4 * rate_factor(epoch, 20) for epoch in range(20)]
    )


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_slices(count: int) -> None:
    with pytest.raises(UsageError, match=f"slices to pretrain on; got {count}; expected 2 or more"):
        pretrain([textures()[:count]], config=SMALL)


def test_slices_that_are_not_finite() -> None:
    broken = textures()
    broken[2, 0, 0] = np.inf
    with pytest.raises(UsageError, match="'volume 1' hold values that are not finite; got 1 of"):
        pretrain([textures(), broken], config=SMALL)


def test_loss_that_is_not_finite() -> None:
    with pytest.raises(TrainingError, match="pretraining loss is not finite; got nan in epoch"):
        pretrain([textures()], config=replace(SMALL, epochs=5, learning_rate=1e30))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "pretraining epochs; got 0; expected > 0"),
        ({"temperature": 0.0}, "pretraining temperature; got 0.0"),
        ({"batch": 1}, "pretraining batch; got 1; expected 2 or more"),
        ({"weight_decay": -1.0}, "pretraining weight_decay; got -1.0"),
        ({"channels": (4, 4)}, "channels of the U-Net"),
    ],
)
def test_impossible_settings(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ContrastiveConfig(**fields)
