"""Embeddings of slices and their views: the frozen encoder's work, done once for all trainings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autosam_deploy.errors import UsageError
from autosam_deploy.training.datasets.loading import LabelledSlices
from autosam_deploy.training.embedding.cache import EmbeddingCache, Stored, entry_key, slice_sha256
from autosam_deploy.training.embedding.views import ViewRecipe, make_view, view_labels

#: Called with (slices done, slices in all).
Progress = Callable[[int, int], None]
Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Views:
    """Augmented copies of every slice.

    count: copies of each. seed: another seed, other copies. recipe: how they are made.
    """

    count: int
    recipe: ViewRecipe = field(default_factory=ViewRecipe)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a negative number.

        Raises:
            UsageError: naming it.
        """
        if self.count < 0:
            raise UsageError("views of a slice", got=str(self.count), expected="0 or more")

    def name(self, number: int) -> str:
        """Return what tells view `number` (1 ..) from all others, recipe included."""
        return f"{self.recipe.model_dump_json()}:{self.seed}:{number}"


@dataclass(frozen=True)
class Version:
    """One version of a slice: itself or a view of it.

    embedding: (C, Sh, Sw), float16 or float32, an array or one that is still on disk. labels:
    (H, W) uint8, moved as the view moves the image. origin: for messages ("case_07, slice 12,
    view 2").
    """

    embedding: NDArray[Any] | Stored
    labels: NDArray[np.uint8]
    origin: str


@dataclass(frozen=True)
class EmbeddedSlices:
    """Slices with the versions of each: the slice itself first, then its views."""

    slices: tuple[tuple[Version, ...], ...]

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.slices)

    @property
    def plain(self) -> tuple[Version, ...]:
        """Every slice as it is."""
        return tuple(versions[0] for versions in self.slices)


def stack(versions: Sequence[Version], device: torch.device | None = None) -> Tensor:
    """Return the embeddings of some versions as (B, C, Sh, Sw) float32."""
    joined = np.stack([np.asarray(version.embedding) for version in versions])
    return torch.from_numpy(joined).to(device or torch.device("cpu"), torch.float32)


@dataclass(frozen=True)
class _Wanted:
    """One version that is needed: of which slice, as which view (0: as it is), under which key."""

    volume: LabelledSlices
    index: int
    view: int
    key: str
    seed: int

    @property
    def origin(self) -> str:
        text = f"{self.volume.name}, slice {self.index}"
        return f"{text}, view {self.view}" if self.view else text


def list_versions(volume: LabelledSlices, views: Views | None) -> Iterator[tuple[_Wanted, ...]]:
    """Yield the versions of every slice of a volume, without computing any."""
    for index, slice_ in enumerate(volume.slices):
        slice_hash = slice_sha256(slice_)
        versions = [_Wanted(volume, index, 0, entry_key(slice_hash, ""), 0)]
        for number in range(1, 1 + (views.count if views else 0)):
            key = entry_key(slice_hash, views.name(number) if views else "")
            versions.append(_Wanted(volume, index, number, key, _seed_of(key)))
        yield tuple(versions)


def _seed_of(key: str) -> int:
    """Return the seed of a view: it follows from what the view is, and nothing else."""
    return int.from_bytes(hashlib.sha256(f"seed:{key}".encode()).digest()[:7], "big")


def keys_of(volumes: Sequence[LabelledSlices], views: Views | None) -> list[str]:
    """Return the keys of all embeddings of some volumes."""
    return [
        version.key
        for volume in volumes
        for versions in list_versions(volume, views)
        for version in versions
    ]


def fill_cache(
    volumes: Sequence[LabelledSlices],
    cache: EmbeddingCache,
    embed: Embed,
    *,
    missing: Iterable[str],
    views: Views | None = None,
    batch: int = 8,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Compute what is missing and store it, slice by slice: a killed run goes on where it was.

    Args:
        volumes: labelled slices; sizes may differ between volumes.
        cache: where to.
        embed: raw slices (B, H, W) float32 -> embeddings (B, C, Sh, Sw) float32.
        missing: keys that the cache lacks, of these volumes or others.
        views: None embeds the slices as they are.
        batch: slices a call.
        progress: called with the number of embeddings that were just stored.

    Raises:
        OutputError: an embedding cannot be written; those before it stay.
        TrainingError: an embedding is not finite.
    """
    cache.describe()
    left = set(missing)
    for volume in volumes:
        # A slice may come twice (empty ones do): its embedding is computed once.
        wanted = []
        for versions in list_versions(volume, views):
            for version in versions:
                if version.key in left:
                    left.remove(version.key)
                    wanted.append(version)
        for first in range(0, len(wanted), batch):
            part = wanted[first : first + batch]
            images = np.stack([_image(version, views) for version in part])
            for version, embedding in zip(part, embed(images), strict=True):
                cache.put(version.key, embedding)
            if progress is not None:
                progress(len(part))


def _image(version: _Wanted, views: Views | None) -> NDArray[np.float32]:
    slice_: NDArray[np.float32] = version.volume.slices[version.index]
    if version.view == 0 or views is None:
        return slice_
    image, _ = make_view(slice_, None, recipe=views.recipe, seed=version.seed)
    return image


def open_embeddings(
    volumes: Sequence[LabelledSlices], cache: EmbeddingCache, views: Views | None = None
) -> EmbeddedSlices:
    """Find what `fill_cache` stored; labels of views are made here, in memory.

    Raises:
        OutputError: an embedding is not there.
    """
    slices = []
    for volume in volumes:
        for versions in list_versions(volume, views):
            slices.append(tuple(_open(version, cache, views) for version in versions))
    return EmbeddedSlices(tuple(slices))


def _open(version: _Wanted, cache: EmbeddingCache, views: Views | None) -> Version:
    labels = version.volume.labels[version.index]
    if version.view and views is not None:
        labels = view_labels(labels, recipe=views.recipe, seed=version.seed)
    if not cache.has(version.key):
        cache.get(version.key)  # says what is wrong with it
    cache.mark_used(version.key)
    return Version(Stored(cache, version.key), labels, version.origin)
