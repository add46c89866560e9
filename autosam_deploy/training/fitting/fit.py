"""Fit a head on embeddings: the reference's recipe without its encoder in every step."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autosam_deploy.errors import TrainingError, UsageError
from autosam_deploy.models.heads import Head
from autosam_deploy.models.preprocess import to_slice_size
from autosam_deploy.spec import PreprocessSpec
from autosam_deploy.training.embedding.versions import EmbeddedSlices, Progress, Version
from autosam_deploy.training.fitting.recipe import Epoch, FitConfig
from autosam_deploy.training.fitting.step import Resize, Score, Trainer, evaluate_head


@dataclass
class FitResult:
    """The head's best state (by validation Dice), the history of all epochs, why it ended."""

    state: dict[str, Tensor]
    best: Epoch
    history: list[Epoch] = field(default_factory=list)
    ended: str = ""

    @property
    def steps(self) -> int:
        """Optimiser steps of all epochs."""
        return sum(epoch.steps for epoch in self.history)


Report = Callable[[Epoch], None]
#: Called after every epoch with what a later process needs to go on; the last argument tells
#: whether the fit has ended.
Save = Callable[["Fit", bool], None]


class Fit:
    """A fit under way: everything that decides how it goes on."""

    def __init__(
        self, head: Head, config: FitConfig, *, resize: Resize, device: torch.device
    ) -> None:
        """Start with the head's present weights."""
        self.trainer = Trainer(head, config, resize=resize, device=device)
        self.config = config
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        self.best_state: dict[str, Tensor] = {}

    def advance(
        self, train: EmbeddedSlices, validation: Sequence[Version], progress: Progress | None
    ) -> Epoch:
        """Run one epoch and score the head.

        Raises:
            TrainingError: the loss is not finite, or all outputs became constant.
        """
        start = time.perf_counter()
        number = len(self.history) + 1
        loss, steps, rate = self.trainer.epoch(train, number, progress=progress)
        score = evaluate_head(self.trainer.result, validation, self.trainer.resize)
        _check_alive(score, number)
        epoch = Epoch(number, loss, score.dice, rate, time.perf_counter() - start, steps)
        self.history.append(epoch)
        # Dice is a number: validation has foreground.
        if self.best is None or epoch.dice > self.best.dice:
            self.best = epoch
            self.best_state = {
                name: tensor.detach().cpu().clone()
                for name, tensor in self.trainer.result.state_dict().items()
            }
        return epoch

    def ended(self, seconds: float) -> str:
        """Return why no further epoch is run, or nothing.

        Args:
            seconds: since this process began the fit.
        """
        config, done = self.config, len(self.history)
        if not self.history or self.best is None:
            return ""
        if done >= config.epochs:
            return f"all {config.epochs} epochs are done"
        if config.patience and done - self.best.number >= config.patience:
            return f"no higher validation Dice for {config.patience} epochs"
        if config.steps is not None and sum(one.steps for one in self.history) >= config.steps:
            return f"{config.steps} steps are done"
        if config.time_limit_s is not None and seconds >= config.time_limit_s:
            return f"the time limit of {config.time_limit_s:g} s is over"
        return ""

    def result(self, reason: str) -> FitResult:
        """Return the outcome.

        Raises:
            TrainingError: no epoch was run.
        """
        if self.best is None:
            raise TrainingError("no epoch was run", expected="at least one")
        return FitResult(copy.copy(self.best_state), self.best, list(self.history), reason)


def fit_head(
    head: Head,
    train: EmbeddedSlices,
    validation: Sequence[Version],
    *,
    preprocess: PreprocessSpec,
    image_size: tuple[int, int],
    config: FitConfig | None = None,
    device: torch.device | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
    resume: Callable[[Fit], None] | None = None,
    save: Save | None = None,
) -> FitResult:
    """Fit a head; the same seed gives the same weights on one machine.

    Args:
        head: its weights are the start; they are changed, and end as the last epoch left them.
        train: slices to learn from.
        validation: slices that choose the best epoch.
        preprocess: the recipe, for the way from logits to slice size.
        image_size: encoder input (height, width).
        config: how; None is the reference's recipe.
        device: where to compute; None is the CPU.
        report: called after every epoch.
        progress: called after every step, (slices done, slices in the epoch).
        resume: puts the fit where an earlier process left it.
        save: keeps what a later process would need.

    Raises:
        UsageError: no slices to learn from, or no foreground to validate on.
        TrainingError: the loss is not finite, or all outputs became constant.
        MissingExtraError: MONAI is not installed.
    """
    if not len(train) or not any(version.labels.any() for version in validation):
        raise UsageError(
            "slices to fit a head on",
            got=f"{len(train)} for training, {len(validation)} for validation",
            expected="at least one of each, and foreground among those for validation",
        )

    def resize(low: Tensor, size: tuple[int, int]) -> Tensor:
        return to_slice_size(low, preprocess, image_size, size)

    fit = Fit(head, config or FitConfig(), resize=resize, device=device or torch.device("cpu"))
    if resume is not None:
        resume(fit)
    begun = time.perf_counter()
    while not (reason := fit.ended(time.perf_counter() - begun)):
        epoch = fit.advance(train, validation, progress)
        if report is not None:
            report(epoch)
        if save is not None:
            save(fit, bool(fit.ended(time.perf_counter() - begun)))
    return fit.result(reason)


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
