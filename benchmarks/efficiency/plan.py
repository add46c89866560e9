"""What a study compares: methods, image sizes, volumes, seeds; and the recipe that all share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeGuard

from autosam_deploy.errors import UsageError
from autosam_deploy.models.image_size import ImageSize, show_image_size
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
#: Image sizes that lines of a plot can be told apart by.
MOST_SIZES = 4
#: Said wherever a result stands that was made with such an encoder.
RANDOM_ENCODER = "encoder weights are RANDOM: this says nothing of SAM"


def uses_encoder(method: Method) -> TypeGuard[HeadKind]:
    """Tell whether a method is a head on the frozen encoder; heads are named after their kinds."""
    return method in HEAD_KINDS


@dataclass(frozen=True)
class Cell:
    """One training of the study: a method, on so many volumes, with a seed.

    image_size: (height, width) in pixels at which the encoder sees slices; None for methods that
    have no encoder.
    """

    method: Method
    volumes: int
    seed: int
    image_size: ImageSize | None = None

    @property
    def name(self) -> str:
        """Name of the cell's file, without its ending."""
        size = "" if self.image_size is None else f"-{show_image_size(self.image_size)}"
        return f"{self.method}{size}-n{self.volumes:03d}-s{self.seed}"

    @property
    def encoder_size(self) -> ImageSize:
        """The image size of a head's cell.

        Raises:
            LookupError: the cell has none.
        """
        if self.image_size is None:
            raise LookupError(f"the cell '{self}' has no image size")
        return self.image_size

    @property
    def row(self) -> str:
        """Return method and image size as messages name them."""
        return row_name(self.method, self.image_size)

    def __str__(self) -> str:
        """Return the cell as messages name it."""
        return f"{self.row}, {count_of(self.volumes, 'volume')}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """What is compared, and how every method is trained.

    volumes: numbers of volumes to learn from. seeds: 0 .. seeds - 1 of them. steps: optimiser steps
    at least; all methods run the whole epochs that it takes. batch: slices a step. learning_rate:
    of Adam. views: augmented copies of a slice that heads learn from; with 0 the U-Nets see no
    views either. cnn_channels: narrowest layer of the cnn head. unet_channels: of the U-Net's five
    levels; None are its own. pretrain_epochs: of the contrastive pretraining. image_sizes: (height,
    width) at which the encoder sees slices, each of which trains heads of its own.
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
    image_sizes: tuple[ImageSize, ...] = ((1024, 1024),)

    def __post_init__(self) -> None:
        """Refuse what cannot be compared.

        Raises:
            UsageError: naming the value.
        """
        check_choice("methods", self.methods, METHODS)
        check_choice("volumes", self.volumes)
        if any(uses_encoder(method) for method in self.methods):
            check_choice("image sizes", [show_image_size(size) for size in self.image_sizes])
        if len(self.image_sizes) > MOST_SIZES:
            raise UsageError(
                "image sizes", got=str(len(self.image_sizes)), expected=f"at most {MOST_SIZES}"
            )
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
            Cell(method, count, seed, size)
            for seed in range(self.seeds)
            for count in sorted(self.volumes)
            for method in self.methods
            for size in self._sizes(method)
        )

    def _sizes(self, method: Method) -> tuple[ImageSize | None, ...]:
        """Return the sizes that a method is trained at, the largest first."""
        if not uses_encoder(method):
            return (None,)
        return tuple(sorted(self.image_sizes, key=lambda size: size[0] * size[1], reverse=True))

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


def row_name(method: str, image_size: ImageSize | None) -> str:
    """Return "cnn at 512x512", or "unet" for a method without an encoder."""
    return method if image_size is None else f"{method} at {show_image_size(image_size)}"


def whole_epochs(steps: int, *, slices: int, batch: int) -> int:
    """Return how many epochs over so many slices have so many steps or more."""
    per_epoch = -(-slices // batch)
    return -(-steps // per_epoch)


def count_of(number: int, noun: str) -> str:
    """Return "1 volume" or "4 volumes"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
