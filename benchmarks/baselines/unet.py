"""A U-Net trained from random weights, or from a pretrained encoder, on labelled slices.

The recipe is that of the heads (`training/recipe.py`, `training/step.py`): Adam, batch 4,
cross-entropy plus soft Dice without background, learning rate lowered on a plateau, best epoch by
mean foreground Dice, slices in the same order. What a U-Net may do and a head on kept embeddings
may not is see a new view of a slice in every epoch.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from numpy.typing import NDArray
from torch import Tensor, nn

from autosam_deploy.benchmarks.baselines.network import (
    CHANNELS,
    build_unet,
    check_network,
    check_slices,
    choose_size,
    load_encoder,
    to_input,
)
from autosam_deploy.errors import TrainingError, UsageError
from autosam_deploy.extras import require
from autosam_deploy.metrics import dice, mean_foreground
from autosam_deploy.training.datasets.loading import LabelledSlices
from autosam_deploy.training.embedding.views import ViewRecipe, make_view
from autosam_deploy.training.fitting.fit import Report
from autosam_deploy.training.fitting.recipe import Epoch, FitConfig
from autosam_deploy.training.fitting.step import PLATEAU_FROM


@dataclass(frozen=True)
class UnetConfig(FitConfig):
    """How to train the U-Net: as a head (see `FitConfig`), and what a U-Net needs besides.

    steps: no more optimiser steps than this. The last epoch ends early for it, so that methods get
    the same number of steps where it is a multiple of an epoch's, and a U-Net never gets more.
    channels: of the five levels, top to bottom. size: input (height, width); None takes the largest
    slice's (see `choose_size`). views: how slices are augmented, anew in every epoch; None takes
    them as they are.
    """

    channels: tuple[int, ...] = CHANNELS
    size: tuple[int, int] | None = None
    views: ViewRecipe | None = field(default_factory=ViewRecipe)

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: naming the value.
        """
        super().__post_init__()
        check_network(self.channels, self.size)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        views = None if self.views is None else self.views.model_dump(mode="json")
        return {**super().as_dict(), "views": views}


@dataclass(frozen=True)
class UnetResult:
    """The U-Net's best state (by validation Dice), how it came about, and what it needs to run.

    size: input (height, width) that slices are resized to.
    """

    state: dict[str, Tensor]
    best: Epoch
    history: list[Epoch]
    num_classes: int
    channels: tuple[int, ...]
    size: tuple[int, int]

    @property
    def steps(self) -> int:
        """Optimiser steps of all epochs."""
        return sum(epoch.steps for epoch in self.history)

    def network(self) -> nn.Module:
        """Return the U-Net with its best weights, in evaluation mode."""
        network = build_unet(self.num_classes, self.channels, seed=0)
        network.load_state_dict(self.state)
        return network.eval()


@dataclass(frozen=True)
class _Pool:
    """Slices of all volumes in one row, each with its origin for messages."""

    origins: list[str]
    slices: list[NDArray[np.float32]]
    labels: list[NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.slices)


def fit_unet(
    train: Sequence[LabelledSlices],
    validation: Sequence[LabelledSlices],
    *,
    num_classes: int,
    config: UnetConfig | None = None,
    start: Mapping[str, Tensor] | None = None,
    report: Report | None = None,
) -> UnetResult:
    """Train a U-Net; the same seed gives the same weights on one machine.

    Args:
        train: volumes to learn from; slice sizes may differ.
        validation: volumes that choose the best epoch; without any the training volumes do.
        num_classes: K; labels are 0 .. K - 1.
        config: how; None is the recipe of the heads.
        start: weights of the encoder, of `contrastive.pretrain`; None starts from random ones. The
            decoder is random either way.
        report: called after every epoch.

    Raises:
        UsageError: no slices to learn from, no foreground to validate on, unknown labels, slices
            that are not finite.
        CheckpointError: `start` is not this U-Net's encoder.
        TrainingError: the loss is not finite.
        MissingExtraError: MONAI is not installed.
    """
    config = config or UnetConfig()
    learned = _pool(train, num_classes)
    judged = _pool(validation, num_classes) if validation else learned
    if not len(learned) or not any(mask.any() for mask in judged.labels):
        raise UsageError(
            "slices to train a U-Net on",
            got=f"{len(learned)} for training, {len(judged)} for validation",
            expected="at least one of each, and foreground among those for validation",
        )
    size = config.size or choose_size([*learned.slices, *judged.slices])
    network = build_unet(num_classes, config.channels, seed=config.seed)
    if start is not None:
        load_encoder(network, start)
    trainer = _Trainer(network, config, size)
    history: list[Epoch] = []
    best, state = None, network.state_dict()
    begun = time.perf_counter()
    while best is None or not _has_ended(history, best, config, time.perf_counter() - begun):
        clock, rate = time.perf_counter(), trainer.rate
        loss, steps = trainer.epoch(learned, len(history) + 1)
        score = _score(network, judged, size, num_classes)
        seconds = time.perf_counter() - clock
        epoch = Epoch(len(history) + 1, loss, score, rate, seconds, steps)
        history.append(epoch)
        if best is None or epoch.dice > best.dice:
            best, state = epoch, copy.deepcopy(network.state_dict())
        if report is not None:
            report(epoch)
    return UnetResult(state, best, history, num_classes, config.channels, size)


def _pool(volumes: Sequence[LabelledSlices], num_classes: int) -> _Pool:
    for volume in volumes:
        check_slices(volume.slices, name=volume.name)
        if volume.labels.shape != volume.slices.shape:
            raise UsageError(
                f"labels of '{volume.name}'",
                got=f"shape {volume.labels.shape}",
                expected=str(volume.slices.shape),
            )
        if volume.labels.size and (largest := int(volume.labels.max())) >= num_classes:
            raise UsageError(
                f"labels of '{volume.name}'", got=str(largest), expected=f"0..{num_classes - 1}"
            )
    return _Pool(
        [f"{one.name}, slice {index}" for one in volumes for index in range(len(one.slices))],
        [slice_ for one in volumes for slice_ in one.slices],
        [mask for one in volumes for mask in one.labels],
    )


def _has_ended(history: list[Epoch], best: Epoch, config: UnetConfig, seconds: float) -> bool:
    """Return whether no further epoch is run, `seconds` after the beginning."""
    done = len(history)
    return (
        done >= config.epochs
        or (config.patience > 0 and done - best.number >= config.patience)
        or (config.steps is not None and sum(one.steps for one in history) >= config.steps)
        or (config.time_limit_s is not None and seconds >= config.time_limit_s)
    )


class _Trainer:
    """Network, optimiser and schedule: what changes from step to step."""

    def __init__(self, network: nn.Module, config: UnetConfig, size: tuple[int, int]) -> None:
        losses = require("monai.losses", extra="train", feature="training a U-Net")
        self.network, self.config, self.size = network, config, size
        self.loss_of = losses.DiceCELoss(
            include_background=False, to_onehot_y=True, softmax=True, batch=True
        )
        self.optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, factor=config.lr_factor, patience=config.lr_patience
        )
        self.left = math.inf if config.steps is None else config.steps

    @property
    def rate(self) -> float:
        """The learning rate in use."""
        return float(self.optimiser.param_groups[0]["lr"])

    def epoch(self, pool: _Pool, number: int) -> tuple[float, int]:
        """Go over all slices, or until no steps are left, in an order that `number` decides.

        Returns:
            The mean loss and the number of steps.

        Raises:
            TrainingError: the loss is not finite.
        """
        self.network.train()
        # As for heads: the same seed gives the same order.
        random = np.random.default_rng([self.config.seed, number])
        order = random.permutation(len(pool))
        seeds = random.integers(2**63, size=len(pool))
        losses: list[float] = []
        for first in range(0, len(pool), self.config.batch):
            if self.left <= 0:
                break
            part = slice(first, first + self.config.batch)
            loss = self._loss(pool, order[part], seeds[part])
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise TrainingError(
                    "the training loss is not finite",
                    got=f"{losses[-1]} in epoch {number}, step {len(losses)}: "
                    f"{'; '.join(sorted(pool.origins[index] for index in order[part]))}",
                    todo="lower the learning rate, or look for odd slices",
                )
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            self.left -= 1
        mean = sum(losses) / len(losses)
        if number >= PLATEAU_FROM:
            self.schedule.step(mean)
        return mean, len(losses)

    def _loss(self, pool: _Pool, chosen: NDArray[np.int64], seeds: NDArray[np.int64]) -> Tensor:
        seen = [
            self._view(pool.slices[index], pool.labels[index], int(seed))
            for index, seed in zip(chosen, seeds, strict=True)
        ]
        low = self.network(to_input([one for one, _ in seen], self.size))
        # Judged at the slices' own sizes, all pixels in one row, as heads are.
        logits = [
            _to_slice(low[i : i + 1], mask.shape).flatten(2) for i, (_, mask) in enumerate(seen)
        ]
        target = np.concatenate([mask.ravel() for _, mask in seen])
        loss: Tensor = self.loss_of(
            torch.cat(logits, dim=2), torch.from_numpy(target).long()[None, None]
        )
        return loss

    def _view(
        self, slice_: NDArray[np.float32], labels: NDArray[np.uint8], seed: int
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        if self.config.views is None:
            return slice_, labels
        moved, marks = make_view(slice_, labels, recipe=self.config.views, seed=seed)
        return moved, labels if marks is None else marks


def _to_slice(logits: Tensor, shape: tuple[int, ...]) -> Tensor:
    return F.interpolate(logits, shape, mode="bilinear", align_corners=False)


def _score(network: nn.Module, pool: _Pool, size: tuple[int, int], num_classes: int) -> float:
    """Return the mean foreground Dice over all slices together."""
    found = _label(network, pool.slices, size)
    scores = dice(
        np.concatenate([mask.ravel() for mask in found]),
        np.concatenate([mask.ravel() for mask in pool.labels]),
        num_classes=num_classes,
    )
    return mean_foreground(scores)


def _label(
    network: nn.Module,
    slices: Sequence[NDArray[np.float32]],
    size: tuple[int, int],
    *,
    batch: int = 8,
) -> list[NDArray[np.uint8]]:
    network.eval()
    found = []
    with torch.no_grad():
        for first in range(0, len(slices), batch):
            part = slices[first : first + batch]
            low = network(to_input(part, size))
            for logits, one in zip(low, part, strict=True):
                labels = _to_slice(logits[None], one.shape).argmax(dim=1)[0]
                found.append(labels.to(torch.uint8).numpy())
    return found


def label_slices(
    result: UnetResult, slices: NDArray[np.float32], *, batch: int = 8
) -> NDArray[np.uint8]:
    """Label the slices of one volume.

    Args:
        result: of `fit_unet`.
        slices: raw (N, H, W).
        batch: slices per call of the network.

    Returns:
        (N, H, W) uint8.

    Raises:
        UsageError: slices of another shape, or not finite.
    """
    check_slices(slices, name="the volume to label")
    if not len(slices):
        return np.zeros(slices.shape, np.uint8)
    return np.stack(_label(result.network(), list(slices), result.size, batch=batch))
