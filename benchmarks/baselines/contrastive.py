"""Contrastive pretraining of the U-Net's encoder on slices without labels.

SimCLR (Chen et al. 2020), as the reference's scripts/main_simclr.py: two views of every slice, the
encoder, global average pooling, a projection head of two layers, and a loss that pulls the two
views of a slice together and pushes all others apart. What differs: the projection head has a ReLU
between its layers, as in the paper, and batch normalisation, as in its authors' code
(google-research/simclr, model_util.py); the learning rate climbs for the first tenth of the epochs,
and then falls along half a cosine over all that remain; both views are made from the slice, while
the reference makes the second from the first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autosam_deploy.benchmarks.baselines.network import (
    CHANNELS,
    build_unet,
    check_network,
    check_slices,
    choose_size,
    encode,
    encoder_state,
    to_input,
)
from autosam_deploy.errors import TrainingError, UsageError
from autosam_deploy.extras import require
from autosam_deploy.training.embedding.views import ViewRecipe, make_view


@dataclass(frozen=True)
class ContrastiveConfig:
    """How to pretrain; the defaults are the reference's, but for the U-Net's own width.

    batch: slices per step, or all of them where there are fewer. Twice as many pass through the
        encoder, which takes about 10 GiB at 64 slices of 256 x 256.
    learning_rate: the highest, at the end of the warm-up.
    temperature: of the loss; similarities are divided by it.
    projection: numbers per slice that the loss compares.
    channels, size: of the U-Net, as in `UnetConfig`.
    views: how the two views of a slice are made.
    """

    epochs: int = 100
    batch: int = 64
    learning_rate: float = 3e-4
    weight_decay: float = 1e-5
    temperature: float = 0.5
    projection: int = 256
    channels: tuple[int, ...] = CHANNELS
    size: tuple[int, int] | None = None
    views: ViewRecipe = field(default_factory=ViewRecipe)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: naming the value.
        """
        for name in ("epochs", "learning_rate", "temperature", "projection"):
            if not getattr(self, name) > 0:
                raise UsageError(
                    f"pretraining {name}", got=str(getattr(self, name)), expected="> 0"
                )
        if self.batch < 2:
            raise UsageError("pretraining batch", got=str(self.batch), expected="2 or more")
        if self.weight_decay < 0:
            raise UsageError(
                "pretraining weight_decay", got=str(self.weight_decay), expected="0 or more"
            )
        check_network(self.channels, self.size)


@dataclass(frozen=True)
class PretrainEpoch:
    """One epoch of pretraining: its mean loss and the learning rate it was made with."""

    number: int
    loss: float
    learning_rate: float
    seconds: float


PretrainReport = Callable[[PretrainEpoch], None]


def pretrain(
    volumes: Sequence[NDArray[np.float32]],
    *,
    config: ContrastiveConfig | None = None,
    report: PretrainReport | None = None,
) -> dict[str, Tensor]:
    """Pretrain the encoder of the U-Net; the same seed gives the same weights on one machine.

    Args:
        volumes: raw slices (N, H, W) of each volume; sizes may differ between volumes.
        config: how; None is the reference's recipe.
        report: called after every epoch.

    Returns:
        Weights of the encoder by their names in the U-Net: the `start` of `unet.fit_unet`.

    Raises:
        UsageError: fewer than two slices, or slices that are not finite.
        TrainingError: the loss is not finite.
        MissingExtraError: MONAI is not installed.
    """
    config = config or ContrastiveConfig()
    for index, volume in enumerate(volumes):
        check_slices(volume, name=f"volume {index}")
    slices = [one for volume in volumes for one in volume]
    if len(slices) < 2:
        raise UsageError(
            "slices to pretrain on", got=str(len(slices)), expected="2 or more, to tell them apart"
        )
    trainer = _Pretrainer(config, slices)
    for number in range(1, config.epochs + 1):
        clock, rate = time.perf_counter(), trainer.rate
        loss = trainer.epoch(number)
        if report is not None:
            report(PretrainEpoch(number, loss, rate, time.perf_counter() - clock))
    return encoder_state(trainer.network)


def rate_factor(epoch: int, epochs: int) -> float:
    """Return the share of the highest learning rate that an epoch has.

    Args:
        epoch: from 0.
        epochs: of the whole pretraining; the first tenth climbs to 1 in equal steps.
    """
    warm = max(1, epochs // 10)
    if epoch < warm:
        return (epoch + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (epoch - warm) / max(1, epochs - warm)))


class _Pretrainer:
    """Encoder, projection head and optimiser: what changes from step to step."""

    def __init__(self, config: ContrastiveConfig, slices: list[NDArray[np.float32]]) -> None:
        losses = require("monai.losses", extra="train", feature="pretraining a U-Net")
        self.config, self.slices = config, slices
        self.size = config.size or choose_size(slices)
        # The decoder comes with it, and no gradient reaches it.
        self.network = build_unet(2, config.channels, seed=config.seed)
        self.head = _projection_head(config)
        self.loss_of = losses.ContrastiveLoss(temperature=config.temperature)
        self.optimiser = torch.optim.Adam(
            [*self.network.parameters(), *self.head.parameters()],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda epoch: rate_factor(epoch, config.epochs)
        )
        self.random = np.random.default_rng(config.seed)

    @property
    def rate(self) -> float:
        """The learning rate in use."""
        return float(self.optimiser.param_groups[0]["lr"])

    def epoch(self, number: int) -> float:
        """Go over all slices in a new order; return the mean loss.

        A last batch that is not full is left out: the loss depends on how many slices it compares.
        """
        batch = min(self.config.batch, len(self.slices))
        shuffled = self.random.permutation(len(self.slices))
        losses = []
        for first in range(0, len(shuffled) - batch + 1, batch):
            chosen = shuffled[first : first + batch]
            one, two = self._project(np.concatenate([chosen, chosen])).chunk(2)
            loss: Tensor = self.loss_of(one, two)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise TrainingError(
                    "the pretraining loss is not finite",
                    got=f"{losses[-1]} in epoch {number}",
                    todo="lower the learning rate, or look for odd slices",
                )
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
        self.schedule.step()
        return sum(losses) / len(losses)

    def _project(self, chosen: NDArray[np.int64]) -> Tensor:
        """Return what the loss compares (B, projection), each from a new view."""
        views = []
        for index in chosen:
            seed = int(self.random.integers(2**63))
            view, _ = make_view(self.slices[index], None, recipe=self.config.views, seed=seed)
            views.append(view)
        deepest = encode(self.network, to_input(views, self.size))
        projected: Tensor = self.head(deepest.mean(dim=(2, 3)))
        return projected


def _projection_head(config: ContrastiveConfig) -> nn.Module:
    width = config.channels[-1]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(config.seed)
        return nn.Sequential(
            nn.Linear(width, width),
            # The encoder's last norm leaves little in a channel's average, so that all slices start
            # in nearly one place; without this the first steps have hardly a slope to follow.
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, config.projection),
        )
