"""How heads are fitted: recipes as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from autosam_deploy.errors import UsageError
from autosam_deploy.spec import HeadKind


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
    many optimiser steps. schedule: `plateau` as above, or `cosine`: down to zero over all steps,
    behind a rise from zero (`warm_up`), which needs no factor and no patience. average: decay of a
    running average of the weights over steps, which is scored and kept in place of the weights; 0
    for none. passes: over the slices in an epoch.
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
    schedule: Literal["plateau", "cosine"] = "plateau"
    average: float = 0.0
    passes: int = 1

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: naming the value.
        """
        for name in (
            "epochs",
            "batch",
            "learning_rate",
            "lr_patience",
            "time_limit_s",
            "steps",
            "passes",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"training {name}", got=str(value), expected="> 0")
        for name in ("patience", "seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"training {name}", got=str(getattr(self, name)), expected=">= 0")
        if not 0 <= self.average < 1:
            raise UsageError("training average", got=str(self.average), expected="in [0, 1)")
        if not 0 < self.lr_factor < 1:
            raise UsageError("training lr_factor", got=str(self.lr_factor), expected="in (0, 1)")

    def steps_of(self, slices: int) -> int:
        """Return the optimiser steps of all epochs over so many slices."""
        return self.epochs * -(-slices * self.passes // self.batch)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


#: Epochs, so scores on the validation slices, of `steady`.
_SCORED = 25


#: Augmented copies of every slice that `steady` learns from (`ViewRecipe.gentle`).
STEADY_VIEWS = 2

#: Head -> steps and highest learning rate of `steady`. Those of linear and cnn come from a first
#: look at Sunnybrook hearts (docs/results); the autosam head's are not measured yet.
_STEADY: dict[HeadKind, tuple[int, float]] = {
    "autosam": (450, 4e-4),
    "cnn": (600, 1e-3),
    "linear": (1200, 2e-3),
}


def warm_up(total: int) -> int:
    """Return the steps over which the rate rises, of so many in all."""
    return min(50, total // 10)


def steady(
    kind: HeadKind, slices: int, *, steps: int | None = None, batch: int = FitConfig.batch
) -> FitConfig:
    """Return the default recipe: a number of steps, whatever the number of slices.

    The rate falls along a cosine and the weights are averaged, so that the end of training does not
    hang on one step, and few epochs are there to choose from.

    Args:
        kind: of the head.
        slices: of the training volumes.
        steps: about, in whole passes over the slices; None is what the head needs.
        batch: slices a step.
    """
    usual, rate = _STEADY[kind]
    passes = max(1, round((steps or usual) * batch / slices))
    epochs = min(_SCORED, passes)
    return FitConfig(
        epochs=epochs,
        passes=-(-passes // epochs),
        batch=batch,
        learning_rate=rate,
        patience=0,
        schedule="cosine",
        average=0.98,
    )


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean training loss, and mean foreground Dice on the validation slices."""

    number: int
    loss: float
    dice: float
    learning_rate: float
    seconds: float
    steps: int
