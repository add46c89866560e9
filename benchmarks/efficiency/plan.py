"""What a study compares: methods, numbers of volumes, seeds, and the recipe that all share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeGuard

from autosam_deploy.errors import UsageError
from autosam_deploy.spec import HEAD_KINDS, HeadKind

Method = Literal["autosam", "cnn", "linear", "unet", "unet-pretrained"]

#: Method -> what it is, for help and report.
METHODS: dict[Method, str] = {
    "autosam": "SAM's mask decoder without prompts, on the frozen encoder",
    "cnn": "convolutional head on the frozen encoder",
    "linear": "linear head on the frozen encoder",
    "unet": "U-Net from random weights",
    "unet-pretrained": "U-Net whose encoder was pretrained on the pool's slices without labels",
}
#: Said wherever a result stands that was made with such an encoder.
RANDOM_ENCODER = "encoder weights are RANDOM: this says nothing of SAM"


def uses_encoder(method: Method) -> TypeGuard[HeadKind]:
    """Tell whether a method is a head on the frozen encoder; heads are named after their kinds."""
    return method in HEAD_KINDS


@dataclass(frozen=True)
class Cell:
    """One training of the study: a method, on so many volumes, with a seed."""

    method: Method
    volumes: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the cell's file, without its ending."""
        return f"{self.method}-n{self.volumes:03d}-s{self.seed}"

    def __str__(self) -> str:
        """Return the cell as messages name it."""
        return f"{self.method}, {count_of(self.volumes, 'volume')}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """What is compared, and how every method is trained.

    volumes: numbers of volumes to learn from. seeds: 0 .. seeds - 1 of them. steps: optimiser steps
    at least; all methods run the whole epochs that it takes. batch: slices a step. learning_rate:
    of Adam. views: augmented copies of a slice that heads learn from; with 0 the U-Nets see no
    views either. cnn_channels: narrowest layer of the cnn head. unet_channels: of the U-Net's five
    levels; None are its own. pretrain_epochs: of the contrastive pretraining.
    """

    methods: tuple[Method, ...] = tuple(METHODS)
    volumes: tuple[int, ...] = (1, 2, 4, 8)
    seeds: int = 3
    steps: int = 400
    batch: int = 4
    learning_rate: float = 5e-4
    views: int = 4
    cnn_channels: int = 64
    unet_channels: tuple[int, ...] | None = None
    pretrain_epochs: int = 100

    def __post_init__(self) -> None:
        """Refuse what cannot be compared.

        Raises:
            UsageError: naming the value.
        """
        check_choice("methods", self.methods, METHODS)
        check_choice("volumes", self.volumes)
        if min(self.volumes) < 1:
            raise UsageError("volumes", got=str(min(self.volumes)), expected="1 or more")
        for name in ("seeds", "steps", "batch", "learning_rate", "cnn_channels", "pretrain_epochs"):
            if not getattr(self, name) > 0:
                raise UsageError(name, got=str(getattr(self, name)), expected="> 0")
        if self.views < 0:
            raise UsageError("views", got=str(self.views), expected="0 or more")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, seed by seed: a study that is stopped has whole curves of its first seeds."""
        return tuple(
            Cell(method, count, seed)
            for seed in range(self.seeds)
            for count in sorted(self.volumes)
            for method in self.methods
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def check_choice(what: str, chosen: Sequence[Any], known: Collection[Any] = ()) -> None:
    """Refuse an empty choice, a value twice, and one that is not known (if any are).

    Raises:
        UsageError: naming the values.
    """
    shown = ", ".join(str(one) for one in known)
    if not chosen:
        raise UsageError(what, got="none", expected=f"some of {shown}" if shown else "at least one")
    if known and (unknown := [repr(one) for one in chosen if one not in known]):
        raise UsageError(what, got=", ".join(unknown), expected=f"some of {shown}")
    if twice := sorted({str(one) for one in chosen if list(chosen).count(one) > 1}):
        raise UsageError(f"{what} named twice", got=", ".join(twice), expected="each once")


def whole_epochs(steps: int, *, slices: int, batch: int) -> int:
    """Return how many epochs over so many slices have so many steps or more."""
    per_epoch = -(-slices // batch)
    return -(-steps // per_epoch)


def count_of(number: int, noun: str) -> str:
    """Return "1 volume" or "4 volumes"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
