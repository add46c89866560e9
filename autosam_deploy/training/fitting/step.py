"""What changes from step to step: head, optimiser, schedule. And how a head is scored."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autosam_deploy.errors import TrainingError
from autosam_deploy.extras import require
from autosam_deploy.metrics import dice, mean_foreground
from autosam_deploy.models.heads import Head
from autosam_deploy.training.embedding.versions import EmbeddedSlices, Version, stack
from autosam_deploy.training.fitting.recipe import FitConfig, warm_up

#: (low-resolution logits (B, K, h, w), slice (H, W)) -> logits (B, K, H, W).
Resize = Callable[[Tensor, tuple[int, int]], Tensor]

#: The reference's schedule looks at the loss from this epoch on (main_autosam_seg.py).
PLATEAU_FROM = 10


@dataclass(frozen=True)
class Score:
    """How a head does on slices.

    dice: mean foreground Dice over all slices together (0..1), NaN without any foreground.
    spread: the largest difference that any class's logits show between two pixels of the slices; 0
    is a head that answers the same everywhere.
    """

    dice: float
    spread: float


class Trainer:
    """Head, optimiser and schedule of one fit.

    As in the reference whatever has "iou" in its name keeps its first weights
    (models/build_autosam_seg_model.py).
    """

    def __init__(
        self, head: Head, config: FitConfig, *, resize: Resize, device: torch.device
    ) -> None:
        """Move the head to its device and start an optimiser."""
        losses = require("monai.losses", extra="train", feature="training a head")
        self.head, self.config, self.resize, self.device = head.to(device), config, resize, device
        self.loss_of = losses.DiceCELoss(
            include_background=False, to_onehot_y=True, softmax=True, batch=True
        )
        for name, weight in head.named_parameters():
            weight.requires_grad_("iou" not in name)
        trained = [weight for weight in head.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.Adam(trained, lr=config.learning_rate)
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, factor=config.lr_factor, patience=config.lr_patience
        )
        self.average = copy.deepcopy(self.head) if config.average else None
        self.steps, self.total = 0, 0

    @property
    def result(self) -> Head:
        """The head to score and to keep: the average of the weights, if there is one."""
        return self.head if self.average is None else self.average

    @property
    def rate(self) -> float:
        """The learning rate in use."""
        return float(self.optimiser.param_groups[0]["lr"])

    def state(self) -> dict[str, Any]:
        """Return what a later process needs to go on as this one would."""
        return {
            "head": self.head.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "steps": self.steps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.head.load_state_dict(state["head"], strict=True)
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.load_state_dict(state["average"], strict=True)
        self.steps = state["steps"]

    def epoch(
        self,
        slices: EmbeddedSlices,
        number: int,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[float, int, float]:
        """Go over all slices, one version of each, in an order that `number` decides.

        `FitConfig.passes` times, to be exact.

        Returns:
            The mean loss, the number of steps, and the learning rate of the last one.

        Raises:
            TrainingError: the loss is not finite.
        """
        self.head.train()
        # Seeded by the epoch: a resumed run needs no state of a generator.
        random = np.random.default_rng([self.config.seed, number])
        order = [
            index for _ in range(self.config.passes) for index in random.permutation(len(slices))
        ]
        self.total = self.config.steps_of(len(slices))
        chosen = [
            versions[int(random.integers(len(versions)))]
            for versions in (slices.slices[index] for index in order)
        ]
        losses = []
        for step, first in enumerate(range(0, len(chosen), self.config.batch), start=1):
            part = chosen[first : first + self.config.batch]
            losses.append(self._step(part, number, step))
            if progress is not None:
                progress(first + len(part), len(chosen))
        mean = sum(losses) / len(losses)
        rate = self.rate
        if self.config.schedule == "plateau" and number >= PLATEAU_FROM:
            self.schedule.step(mean)
        return mean, len(losses), rate

    def _step(self, part: Sequence[Version], number: int, step: int) -> float:
        loss = self.loss(part)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                "the training loss is not finite",
                got=f"{value} in epoch {number}, step {step}: "
                f"{'; '.join(sorted(version.origin for version in part))}",
                todo="lower the learning rate, or look for odd slices",
            )
        self._set_rate()
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.steps += 1
        self._follow()
        return value

    def _set_rate(self) -> None:
        """Set the rate of the step that comes, where the step decides it."""
        if self.config.schedule == "plateau":
            return
        rise = min(1.0, (self.steps + 1) / (warm_up(self.total) + 1))
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, self.steps / self.total)))
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate * rise * fall

    def _follow(self) -> None:
        """Move the average towards the weights; the first steps count more."""
        if self.average is None:
            return
        decay = min(self.config.average, self.steps / (self.steps + 9))
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.head.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)

    def loss(self, part: Sequence[Version]) -> Tensor:
        """Return cross-entropy plus soft Dice without background, over the pixels of a batch."""
        low = self.head(stack(part, self.device))
        # Slices may differ in size: their pixels are put in one row, which is all that
        # cross-entropy and batch Dice need.
        logits, targets = [], []
        for size, indices in _by_size(part):
            full = self.resize(low[indices], size)
            logits.append(full.transpose(0, 1).flatten(1))
            targets.append(np.stack([part[index].labels for index in indices]).ravel())
        target = torch.from_numpy(np.concatenate(targets)).to(self.device, torch.long)
        loss: Tensor = self.loss_of(torch.cat(logits, dim=1)[None], target[None, None])
        return loss


def _by_size(part: Sequence[Version]) -> list[tuple[tuple[int, int], list[int]]]:
    """Return (slice size, positions in the batch), sizes in the order in which they come."""
    sizes: dict[tuple[int, int], list[int]] = {}
    for index, version in enumerate(part):
        height, width = version.labels.shape
        sizes.setdefault((height, width), []).append(index)
    return list(sizes.items())


def label_versions(
    head: Head, versions: Sequence[Version], resize: Resize, *, batch: int = 8
) -> Iterator[tuple[NDArray[np.uint8], Tensor]]:
    """Label slices; the head is left in evaluation mode.

    Args:
        head: in any mode, on any device.
        versions: of slices.
        resize: see `Resize`.
        batch: slices per call of the head.

    Yields:
        For every version its labels (H, W) uint8 and its low-resolution logits (K, h, w).
    """
    head.eval()
    device = next(head.parameters()).device
    with torch.no_grad():
        for first in range(0, len(versions), batch):
            part = versions[first : first + batch]
            low = head(stack(part, device))
            labels: dict[int, NDArray[np.uint8]] = {}
            for size, indices in _by_size(part):
                found = resize(low[indices], size).argmax(dim=1).to(torch.uint8).cpu().numpy()
                labels.update(zip(indices, found, strict=True))
            yield from ((labels[index], low[index]) for index in range(len(part)))


def evaluate_head(
    head: Head, versions: Sequence[Version], resize: Resize, *, batch: int = 8
) -> Score:
    """Label slices and compare with the truth (see `label_versions`)."""
    found, wanted, lowest, highest = [], [], [], []
    labelled = label_versions(head, versions, resize, batch=batch)
    for version, (labels, low) in zip(versions, labelled, strict=True):
        lowest.append(low.amin(dim=(1, 2)))
        highest.append(low.amax(dim=(1, 2)))
        found.append(labels.ravel())
        wanted.append(version.labels.ravel())
    scores = dice(np.concatenate(found), np.concatenate(wanted), num_classes=head.spec.num_classes)
    spread = torch.stack(highest).amax(dim=0) - torch.stack(lowest).amin(dim=0)
    return Score(mean_foreground(scores), float(spread.max()))
