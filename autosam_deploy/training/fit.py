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

import numpy as np
import torch
from numpy.typing import NDArray
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
    time_limit_s: no epoch begins after this many seconds, but one is always run. With a limit the
    result depends on the machine's speed, so only `epochs` is reproducible.
    """

    epochs: int = 120
    batch: int = 4
    learning_rate: float = 5e-4
    patience: int = 10
    seed: int = 0
    time_limit_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: naming the value.
        """
        for name in ("epochs", "batch", "learning_rate", "patience", "time_limit_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"training {name}", got=str(value), expected="> 0")


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean training loss, and mean foreground Dice on the validation slices."""

    number: int
    loss: float
    dice: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Score:
    """How a head does on slices.

    dice: mean foreground Dice over all slices together (0..1), NaN without any foreground.
    spread: the largest difference that any class's logits show between two pixels of the slices; 0
    is a head that answers the same everywhere.
    """

    dice: float
    spread: float


@dataclass
class FitResult:
    """The head's best state (by validation Dice) and the history of all epochs."""

    state: dict[str, Tensor]
    best: Epoch
    history: list[Epoch] = field(default_factory=list)


Report = Callable[[Epoch], None]
Resize = Callable[[Tensor, tuple[int, int]], Tensor]


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
        head: its weights are the start; they are changed, and end as the last epoch left them.
        train: slices to learn from.
        validation: slices that choose the best epoch.
        preprocess: the recipe, for the way from logits to slice size.
        image_size: encoder input (height, width).
        config: how; None is the reference's recipe.
        report: called after every epoch.

    Raises:
        UsageError: no slices to learn from, or no foreground to validate on.
        TrainingError: the loss is not finite, or all outputs became constant.
        MissingExtraError: MONAI is not installed.
    """
    config = config or FitConfig()
    if not len(train) or not any(mask.any() for mask in validation.labels):
        raise UsageError(
            "slices to fit a head on",
            got=f"{len(train)} for training, {len(validation)} for validation",
            expected="at least one of each, and foreground among those for validation",
        )

    def resize(low: Tensor, size: tuple[int, int]) -> Tensor:
        return to_slice_size(low, preprocess, image_size, size)

    trainer = _Trainer(head, config, resize)
    history: list[Epoch] = []
    state: dict[str, Tensor] = {}
    highest = -1.0  # below any Dice, and Dice is a number: validation has foreground
    begun = time.perf_counter()
    for number in range(1, config.epochs + 1):
        start = time.perf_counter()
        if history and config.time_limit_s is not None and start - begun >= config.time_limit_s:
            break
        loss = trainer.epoch(train, number)
        score = evaluate_head(head, validation, resize)
        _check_alive(score, number)
        epoch = Epoch(number, loss, score.dice, trainer.rate, time.perf_counter() - start)
        if epoch.dice > highest:
            highest, state = epoch.dice, copy.deepcopy(head.state_dict())
        history.append(epoch)
        if report is not None:
            report(epoch)
    return FitResult(state, max(history, key=lambda epoch: epoch.dice), history)


class _Trainer:
    """Head, optimiser and schedule: what changes from step to step."""

    def __init__(self, head: Head, config: FitConfig, resize: Resize) -> None:
        losses = require("monai.losses", extra="train", feature="training a head")
        self.head, self.config, self.resize = head, config, resize
        self.loss_of = losses.DiceCELoss(
            include_background=False, to_onehot_y=True, softmax=True, batch=True
        )
        self.optimiser = torch.optim.Adam(head.parameters(), lr=config.learning_rate)
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, factor=0.5, patience=config.patience
        )
        self.order = np.random.default_rng(config.seed)

    @property
    def rate(self) -> float:
        """The learning rate in use."""
        return float(self.optimiser.param_groups[0]["lr"])

    def epoch(self, slices: EmbeddedSlices, number: int) -> float:
        """Go once over all slices in a new order; return the mean loss."""
        self.head.train()
        shuffled = self.order.permutation(len(slices))
        losses = []
        for step, first in enumerate(range(0, len(slices), self.config.batch), start=1):
            chosen = shuffled[first : first + self.config.batch]
            loss = self._loss(slices, chosen)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise TrainingError(
                    "the training loss is not finite",
                    got=f"{losses[-1]} in epoch {number}, step {step}, training slices "
                    f"{', '.join(str(index) for index in sorted(chosen))}",
                    todo="lower the learning rate, or look for odd slices",
                )
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
        mean = sum(losses) / len(losses)
        self.schedule.step(mean)
        return mean

    def _loss(self, slices: EmbeddedSlices, chosen: NDArray[np.int64]) -> Tensor:
        low = self.head(slices.embeddings[torch.from_numpy(chosen)])
        # Slices may differ in size: their pixels are put in one row, which is all that
        # cross-entropy and batch Dice need.
        masks = [torch.from_numpy(slices.labels[index]) for index in chosen]
        logits = [
            self.resize(low[i : i + 1], (mask.shape[0], mask.shape[1])).flatten(2)
            for i, mask in enumerate(masks)
        ]
        target = torch.cat([mask.flatten() for mask in masks]).long()[None, None]
        loss: Tensor = self.loss_of(torch.cat(logits, dim=2), target)
        return loss


def _check_alive(score: Score, number: int) -> None:
    """Refuse a head that answers the same everywhere: nothing it sees can change that.

    Raises:
        TrainingError: every class has one logit for all pixels of all validation slices.
    """
    if score.spread == 0:
        raise TrainingError(
            "the head died: its logits are the same for every pixel",
            got=f"constant output in epoch {number}",
            todo="train without the final ReLU, or with another seed or learning rate",
        )


def evaluate_head(head: Head, slices: EmbeddedSlices, resize: Resize, *, batch: int = 8) -> Score:
    """Label slices and compare with the truth.

    Args:
        head: in any mode; left in evaluation mode.
        slices: embeddings and labels.
        resize: (low-resolution logits (1, K, h, w), slice (H, W)) -> logits (1, K, H, W).
        batch: slices per call of the head.
    """
    head.eval()
    found, wanted, lowest, highest = [], [], [], []
    with torch.no_grad():
        for first in range(0, len(slices), batch):
            low = head(slices.embeddings[first : first + batch])
            lowest.append(low.amin(dim=(0, 2, 3)))
            highest.append(low.amax(dim=(0, 2, 3)))
            for index, one in enumerate(low):
                mask = slices.labels[first + index]
                logits = resize(one[None], (mask.shape[0], mask.shape[1]))
                found.append(logits.argmax(dim=1).to(torch.uint8).numpy().ravel())
                wanted.append(mask.ravel())
    scores = dice(np.concatenate(found), np.concatenate(wanted), num_classes=head.spec.num_classes)
    spread = torch.stack(highest).amax(dim=0) - torch.stack(lowest).amin(dim=0)
    return Score(mean_foreground(scores), float(spread.max()))
