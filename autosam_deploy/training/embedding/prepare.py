"""From labelled volumes to embeddings that a head can be trained on, through the cache."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autosam_deploy.errors import UsageError
from autosam_deploy.training.datasets.loading import LabelledSlices
from autosam_deploy.training.embedding.cache import CacheDtype, EmbeddingCache, Space
from autosam_deploy.training.embedding.encoding import (
    RUNTIMES,
    FrozenEncoder,
    RuntimeName,
    choose_runtime,
)
from autosam_deploy.training.embedding.versions import (
    EmbeddedSlices,
    Version,
    Views,
    fill_cache,
    keys_of,
    open_embeddings,
)
from autosam_deploy.training.watch import Watch


@dataclass(frozen=True)
class Caching:
    """Where embeddings are kept: folder, bytes that the whole folder may hold, stored dtype."""

    folder: Path
    limit_bytes: int
    dtype: CacheDtype = "float16"


@dataclass(frozen=True)
class Prepared:
    """Embedded slices for training and for validation, and what it took."""

    train: EmbeddedSlices
    validation: tuple[Version, ...]
    record: Mapping[str, Any]


def prepare_embeddings(
    train: Sequence[LabelledSlices],
    validation: Sequence[LabelledSlices],
    encoder: FrozenEncoder,
    *,
    caching: Caching,
    views: Views | None = None,
    device: torch.device | None = None,
    runtime: RuntimeName | None = None,
    watch: Watch | None = None,
) -> Prepared:
    """Embed what the cache lacks, and open all of it.

    Args:
        train: volumes to learn from.
        validation: volumes to choose the epoch with; without any the training slices as they are.
        encoder: the frozen encoder.
        caching: where embeddings are kept.
        views: augmented copies of the training slices.
        device: where to compute; None is the CPU.
        runtime: what computes; None chooses (`encoding.choose_runtime`).
        watch: is told how it goes.

    Raises:
        UsageError: no slices; more than the cache's limit.
        OutputError: the disk is full; embeddings that were stored stay.
        TrainingError: an embedding is not finite.
    """
    watch, device = watch or Watch(), device or torch.device("cpu")
    space = Space(
        encoder=encoder.spec,
        encoder_sha256=encoder.sha256,
        preprocess=encoder.preprocess,
        dtype=caching.dtype,
    )
    cache = EmbeddingCache(caching.folder, space, limit_bytes=caching.limit_bytes)
    start = time.perf_counter()
    jobs = ((train, views), (validation, None))
    # Looked at together: all must be there at a time.
    plan = cache.plan(key for volumes, wish in jobs for key in keys_of(volumes, wish))
    if not plan.keys:
        raise UsageError("slices to embed", got="none", expected="at least one")
    name, why = choose_runtime(encoder, slices=len(plan.missing), device=device)
    if runtime is not None:
        name, why = runtime, "asked for"
    watch.embedding(plan, cache, f"{name} on {device}: {why}")
    if plan.missing:
        cache.make_room(plan)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            watch.embedded(done, len(plan.missing))

        with RUNTIMES[name](encoder, device=device, threads=torch.get_num_threads()) as embed:
            for volumes, wish in jobs:
                fill_cache(
                    volumes,
                    cache,
                    embed,
                    missing=plan.missing,
                    views=wish,
                    batch=encoder.batch,
                    progress=advance,
                )
    embedded = open_embeddings(train, cache, views)
    held_out = open_embeddings(validation, cache) if validation else embedded
    record = {
        "space": space.name,
        "dtype": space.dtype,
        "embeddings": len(plan.keys),
        "bytes": len(plan.keys) * space.file_bytes,
        "computed": len(plan.missing),
        "runtime": name if plan.missing else None,
        "seconds": round(time.perf_counter() - start, 3),
    }
    return Prepared(embedded, held_out.plain, record)
