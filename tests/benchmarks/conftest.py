"""Rows and reports made up for tests that judge and show them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from autosam_deploy.benchmarks.harness.record import (
    BundleRecord,
    Gpu,
    Machine,
    Memory,
    Report,
    Row,
    Settings,
)
from autosam_deploy.benchmarks.harness.times import summarise


@pytest.fixture(scope="session")
def machine() -> Machine:
    """A machine with a GPU."""
    return Machine(
        processor="AMD EPYC 9R14",
        features=["avx2"],
        cores=2,
        usable_cores=2,
        memory_gib=8.0,
        system="Linux",
        versions={"numpy": "2.0"},
        threads=2,
        gpus=[Gpu(name="NVIDIA L4", driver="1", memory_mib=24000)],
    )


@pytest.fixture(scope="session")
def bundle_record() -> BundleRecord:
    """The bundle that made-up rows are of."""
    return BundleRecord(
        name="heart",
        path="heart.autosam",
        manifest_sha256="0" * 64,
        encoder="vit_b",
        image_size=[1024, 1024],
        head="autosam",
        classes=["background", "heart"],
        colours=["#000000", "#ffffff"],
        trained=True,
        intended_use="tests",
        gflop=972.0,
        least_gflop=942.0,
        weights_mib=350.0,
    )


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Row]:
    """Factory: make_row("onnxruntime", ms=100, turns=..., role="peer", ...)."""

    def build(
        backend: str = "onnxruntime",
        *,
        ms: float = 100.0,
        turns: Sequence[Sequence[float]] | None = None,
        **fields: Any,
    ) -> Row:
        runs = turns if turns is not None else [[ms / 1e3], [ms / 1e3]]
        batch = fields.get("batch", 1)
        made: dict[str, Any] = {
            "key": f"heart/{backend}/b{batch}",
            "bundle": "heart",
            "role": "bundle",
            "backend": backend,
            "precision_asked": "auto",
            "precision": "fp32",
            "batch": batch,
            "asked": False,
            "device": "cpu",
            "latency": summarise(dict(enumerate(runs)), batch=batch, warm_up_runs=1),
            "memory": Memory(loaded_mib=100.0, peak_mib=200.0),
        }
        return Row(**{**made, **fields})

    return build


@pytest.fixture(scope="session")
def make_report(machine: Machine, bundle_record: BundleRecord) -> Callable[..., Report]:
    """Factory: make_report(rows, ...)."""

    def build(rows: Sequence[Row], **fields: Any) -> Report:
        made: dict[str, Any] = {
            "report_version": 1,
            "created": "2026-01-01T00:00:00+00:00",
            "command": "autosam-bench heart.autosam",
            "seconds": 12.0,
            "settings": Settings(repeats=3, seconds=1.0, budget_s=9.0, size=[64, 64], seed=0),
            "machine": machine,
            "bundles": [bundle_record],
            "rows": list(rows),
            "exit_code": 0,
            "verdict": "1 of 1 measured rows passed",
        }
        return Report(**{**made, **fields})

    return build
