"""How heads are fitted: the reference's recipe as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from autosam_deploy.errors import UsageError


@dataclass(frozen=True)
class FitConfig:
    """How to fit; the defaults are the reference's (scripts/main_autosam_seg.py).

    epochs: passes over the slices, each with one version of every slice. batch: slices a step.
    learning_rate: of Adam. lr_factor, lr_patience: the rate is multiplied by the factor after so
    many epochs without a lower training loss (PyTorch's ReduceLROnPlateau, which the reference
    leaves at its defaults). patience: epochs without a higher validation Dice after which training
    ends; 0 goes on to the last epoch. seed: of the head's first weights, the order of slices and
    the choice of views. time_limit_s: no epoch begins after this many seconds, but one is always
    run; with a limit the result depends on the machine's speed. steps: no epoch begins after this
    many optimiser steps.
    """

    epochs: int = 120
    batch: int = 4
    learning_rate: float = 5e-4
    lr_factor: float = 0.1
    lr_patience: int = 10
    patience: int = 40
    seed: int = 0
    time_limit_s: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: naming the value.
        """
        for name in ("epochs", "batch", "learning_rate", "lr_patience", "time_limit_s", "steps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"training {name}", got=str(value), expected="> 0")
        for name in ("patience", "seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"training {name}", got=str(getattr(self, name)), expected=">= 0")
        if not 0 < self.lr_factor < 1:
            raise UsageError("training lr_factor", got=str(self.lr_factor), expected="in (0, 1)")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean training loss, and mean foreground Dice on the validation slices."""

    number: int
    loss: float
    dice: float
    learning_rate: float
    seconds: float
    steps: int
