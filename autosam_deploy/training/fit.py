"""Fit a head on embeddings: the reference's recipe without its encoder in every step.

Recipe (scripts/main_autosam_seg.py of the reference): Adam, learning rate 5e-4, batch 4,
cross-entropy plus soft Dice without background, learning rate lowered on a plateau.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autosam_deploy.errors import AutosamError, UsageError
from autosam_deploy.extras import require
from autosam_deploy.metrics import dice, mean_foreground
from autosam_deploy.models.heads import Head
from autosam_deploy.models.preprocess import to_slice_size
from autosam_deploy.spec import PreprocessSpec
from autosam_deploy.training.embeddings import EmbeddedSlices


class TrainingError(AutosamError):
    """Training that cannot go on: a loss that is not a number, a head that died."""


@dataclass(frozen=True)
class FitConfig:
    """How to fit; the defaults are the reference's.

    patience: epochs without a lower training loss before the learning rate is halved.
    """

    epochs: int = 120
    batch: int = 4
    learning_rate: float = 5e-4
    patience: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: naming the value.
        """
        for name in ("epochs", "batch", "learning_rate", "patience"):
            if not getattr(self, name) > 0:
                raise UsageError(f"training {name}", got=str(getattr(self, name)), expected="> 0")


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean training loss, and mean foreground Dice on the validation slices."""

    number: int
    loss: float
    dice: float
    learning_rate: float
    seconds: float


@dataclass
class FitResult:
    """The head's best state (by validation Dice) and the history of all epochs."""

    state: dict[str, Tensor]
    best: Epoch
    history: list[Epoch] = field(default_factory=list)


Report = Callable[[Epoch], None]


def fit_head(
    head: Head,
    train: EmbeddedSlices,
    validation: EmbeddedSlices,
    *,
    preprocess: PreprocessSpec,
    image_size: tuple[int, int],
    config: FitConfig | None = None,
    report: Report | None = None,
) -> FitResult:
    """Fit a head; the same seed gives the same weights on one machine.

    Args:
        head: its weights are the start; they are changed.
        train: slices to learn from.
        validation: slices that choose the best epoch.
        preprocess: the recipe, for the way from logits to slice size.
        image_size: encoder input (height, width).
        config: how; None is the reference's recipe.
        report: called after every epoch.

    Raises:
        TrainingError: the loss is not finite, or all outputs became constant.
        MissingExtraError: MONAI is not installed.
    """
    config = config or FitConfig()
    losses = require("monai.losses", extra="train", feature="training a head")
    loss_of = losses.DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True
    )
    optimiser = torch.optim.Adam(head.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, factor=0.5, patience=config.patience
    )
    order = np.random.default_rng(config.seed)
    history: list[Epoch] = []
    best: tuple[Epoch, dict[str, Tensor]] | None = None

    def resize(low: Tensor, size: tuple[int, int]) -> Tensor:
        return to_slice_size(low, preprocess, image_size, size)

    for number in range(1, config.epochs + 1):
        begun = time.perf_counter()
        loss = _epoch(head, train, loss_of, optimiser, resize, order, config, number)
        schedule.step(loss)
        score = evaluate_head(head, validation, resize)
        epoch = Epoch(
            number, loss, score, optimiser.param_groups[0]["lr"], time.perf_counter() - begun
        )
        history.append(epoch)
        if best is None or epoch.dice > best[0].dice:
            best = epoch, copy.deepcopy(head.state_dict())
        if report is not None:
            report(epoch)
    if best is None:
        raise TrainingError("no epoch was run")
    return FitResult(best[1], best[0], history)


def _epoch(
    head: Head,
    train: EmbeddedSlices,
    loss_of: Any,
    optimiser: torch.optim.Optimizer,
    resize: Callable[[Tensor, tuple[int, int]], Tensor],
    order: np.random.Generator,
    config: FitConfig,
    number: int,
) -> float:
    """Run one epoch and return its mean loss."""
    head.train()
    total, steps = 0.0, 0
    shuffled = order.permutation(len(train))
    for first in range(0, len(train), config.batch):
        chosen = shuffled[first : first + config.batch]
        low = head(train.embeddings[torch.from_numpy(chosen)])
        # Slices may differ in size: their pixels are put in one row, which is all that
        # cross-entropy and batch Dice need.
        masks = [torch.from_numpy(train.labels[index]) for index in chosen]
        logits = torch.cat(
            [
                resize(low[i : i + 1], (mask.shape[0], mask.shape[1])).flatten(2)
                for i, mask in enumerate(masks)
            ],
            dim=2,
        )
        target = torch.cat([mask.flatten() for mask in masks]).long()[None, None]
        loss = loss_of(logits, target)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                "the training loss is not finite",
                got=f"{value} in epoch {number}, step {steps + 1}",
                todo="lower the learning rate, or look for odd slices",
            )
        if steps == 0 and number > 1 and float((low.max() - low.min()).detach()) == 0:
            raise TrainingError(
                "the head died: all of its logits are equal",
                got=f"epoch {number}",
                todo="train without the final ReLU, or with another seed or learning rate",
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total, steps = total + value, steps + 1
    return total / steps


def evaluate_head(
    head: Head,
    slices: EmbeddedSlices,
    resize: Callable[[Tensor, tuple[int, int]], Tensor],
    *,
    batch: int = 8,
) -> float:
    """Return the mean foreground Dice over all slices together (0..1)."""
    head.eval()
    found, wanted = [], []
    with torch.no_grad():
        for first in range(0, len(slices), batch):
            low = head(slices.embeddings[first : first + batch])
            for index, one in enumerate(low):
                mask = slices.labels[first + index]
                logits = resize(one[None], (mask.shape[0], mask.shape[1]))
                found.append(logits.argmax(dim=1).to(torch.uint8).numpy().ravel())
                wanted.append(mask.ravel())
    scores = dice(np.concatenate(found), np.concatenate(wanted), num_classes=head.spec.num_classes)
    return mean_foreground(scores)
