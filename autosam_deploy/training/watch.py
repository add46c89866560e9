"""How a training tells whoever looks on what it does; command lines override what they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autosam_deploy.spec import HeadSpec
    from autosam_deploy.training.embedding.cache import CachePlan, EmbeddingCache
    from autosam_deploy.training.fitting.recipe import Epoch


class Watch:
    """Says nothing. Children override what they show."""

    def embedding(self, plan: CachePlan, cache: EmbeddingCache, runtime: str) -> None:
        """Embeddings are about to be computed, as many as `plan.missing`, by `runtime`."""

    def embedded(self, done: int, total: int) -> None:
        """So many of the missing embeddings are stored."""

    def fitting(self, head: HeadSpec, slices: int, held_out: int, device: str) -> None:
        """A head is about to be fitted on so many slices, validated on others."""

    def resumed(self, epoch: Epoch) -> None:
        """The fit goes on behind an epoch of an earlier process."""

    def saved(self) -> None:
        """The fit was saved: a later process could go on from here."""

    def step(self, done: int, total: int) -> None:
        """So many slices of the epoch were seen."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch ended."""
