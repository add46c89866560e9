"""Embeddings of slices: the frozen encoder's work, done once for the whole training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autosam_deploy.errors import UsageError
from autosam_deploy.training.data import LabelledSlices

Embed = Callable[[Tensor], Tensor]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class EmbeddedSlices:
    """Embeddings (N, C, Sh, Sw) float32 and the labels (H, W) uint8 of every slice."""

    embeddings: Tensor
    labels: tuple[NDArray[np.uint8], ...]

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.labels)

    def part(self, start: int, stop: int) -> EmbeddedSlices:
        """Return slices `start` to `stop`, without copying embeddings."""
        return EmbeddedSlices(self.embeddings[start:stop], self.labels[start:stop])


def embed_volumes(
    volumes: Sequence[LabelledSlices],
    embed: Embed,
    *,
    batch: int = 8,
    progress: Progress | None = None,
) -> EmbeddedSlices:
    """Compute the embedding of every slice.

    Args:
        volumes: labelled slices; sizes may differ between volumes.
        embed: raw slices (B, 1, H, W) float32 -> embeddings (B, C, Sh, Sw).
        batch: slices per call.
        progress: called with (slices done, slices in all).

    Raises:
        UsageError: there are no slices.
    """
    total = sum(len(volume.slices) for volume in volumes)
    if total == 0:
        raise UsageError("slices to embed", got="none", expected="at least one")
    embeddings, done = torch.empty(0), 0
    with torch.no_grad():
        for volume in volumes:
            for start in range(0, len(volume.slices), batch):
                part = embed(torch.from_numpy(volume.slices[start : start + batch]).unsqueeze(1))
                if done == 0:
                    # One allocation: joining parts at the end would need the memory twice.
                    embeddings = torch.empty(total, *part.shape[1:], dtype=torch.float32)
                embeddings[done : done + len(part)] = part
                done += len(part)
                if progress is not None:
                    progress(done, total)
    labels = tuple(mask for volume in volumes for mask in volume.labels)
    return EmbeddedSlices(embeddings, labels)
