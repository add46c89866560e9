"""The result of a study as JSON: everything that tables, plots and pages are made from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from autosam_deploy.benchmarks.efficiency.plan import METHODS, RANDOM_ENCODER
from autosam_deploy.benchmarks.efficiency.rows import Row
from autosam_deploy.metrics.summary import statistic
from autosam_deploy.models.image_size import show_image_size

if TYPE_CHECKING:
    from autosam_deploy.benchmarks.efficiency.material import Material
    from autosam_deploy.benchmarks.efficiency.plan import Plan
    from autosam_deploy.benchmarks.efficiency.sam import Sam

Record = Mapping[str, Any]


def study_result(
    material: Material,
    cells: Sequence[Record],
    *,
    machine: Record,
    command: str,
    embeddings: Sequence[Record],
    pretraining: Sequence[Record],
) -> dict[str, Any]:
    """Put everything together.

    Args:
        material: of the study.
        cells: records of all cells.
        machine: of `machine_record`.
        command: the command line.
        embeddings: what they took, a record an image size.
        pretraining: records of the pretrained encoders.

    Returns:
        JSON values; `warning` says so where the encoder is random.
    """
    plan, data, sam = material.plan, material.data, material.sam
    random = sam is not None and sam.encoder.random
    return {
        "what": "Dice on held-out volumes by the number of labelled volumes learned from",
        "schema_version": 2,
        "warning": RANDOM_ENCODER if random else None,
        "command": command,
        "machine": {**machine, "versions": {**machine["versions"], "monai": version("monai")}},
        "data": {
            "name": data.name,
            "classes": list(data.class_names),
            "slices": {name: len(volume.slices) for name, volume in data.volumes.items()},
            "pool": list(data.roles.pool),
            "validation": list(data.roles.validation),
            "test": list(data.roles.test),
            "draws": {
                str(seed): list(data.roles.draw(max(plan.volumes), seed=seed))
                for seed in range(plan.seeds)
            },
        },
        "methods": {method: METHODS[method] for method in plan.methods},
        "encoder": None if sam is None else {**sam.as_dict(), "macs": _macs(sam, plan)},
        "recipe": plan.as_dict(),
        "embeddings": [_without_fingerprint(record) for record in embeddings],
        "pretraining": [_without_fingerprint(record) for record in pretraining],
        "summary": summary(cells),
        "cells": [_without_fingerprint(cell) for cell in cells],
    }


def _macs(sam: Sam, plan: Plan) -> dict[str, int]:
    """Return the multiply-adds of the encoder for a slice, by image size."""
    return {
        show_image_size(size): sam.at(size).spec.macs(padded=False) for size in plan.image_sizes
    }


def _without_fingerprint(record: Record) -> dict[str, Any]:
    """Return a record for people: what decided it stands beside it in its own file."""
    return {key: value for key, value in record.items() if key != "fingerprint"}


def summary(cells: Iterable[Record]) -> list[dict[str, Any]]:
    """Summarise the cells of every method, image size and number of volumes over their seeds.

    Returns:
        One entry each: mean and sample standard deviation (n - 1, None with one seed) of the scores
        and times of the seeds that did not fail; `missed` and `invented` are sums over them.
    """
    groups: dict[tuple[Row, int], list[Record]] = {}
    for cell in cells:
        groups.setdefault((Row.of(cell), cell["volumes"]), []).append(cell)
    return [_entry(row, volumes, group) for (row, volumes), group in groups.items()]


def _entry(row: Row, volumes: int, cells: Sequence[Record]) -> dict[str, Any]:
    done = [cell for cell in cells if cell["failed"] is None]
    classes = done[0]["classes"] if done else {}
    return {
        "method": row.method,
        "image_size": None if row.image_size is None else list(row.image_size),
        "volumes": volumes,
        "seeds": len(cells),
        "failed": [cell["seed"] for cell in cells if cell["failed"] is not None],
        **{key: _spread(cell[key] for cell in done) for key in ("dice", "hd95_mm", "assd_mm")},
        "seconds": _spread(cell["seconds"] for cell in done),
        "steps": _range(cell["steps"] for cell in done),
        "parameters": done[0]["parameters"] if done else None,
        **{key: sum(cell[key] for cell in done) for key in ("structures", "missed", "invented")},
        "classes": {
            name: _spread(cell["classes"][name]["dice"] for cell in done) for name in classes
        },
    }


def _spread(values: Iterable[float | None]) -> dict[str, float | int | None]:
    found = statistic(math.nan if value is None else value for value in values)
    return {
        "n": found.n,
        "mean": None if math.isnan(found.mean) else found.mean,
        "sd": None if math.isnan(found.sd) else found.sd,
    }


def _range(values: Iterable[int]) -> list[int]:
    """Return the lowest and the highest, or nothing."""
    known = list(values)
    return [min(known), max(known)] if known else []


def failures(result: Record) -> list[Record]:
    """Return the cells that could not be trained."""
    return [cell for cell in result["cells"] if cell["failed"] is not None]
