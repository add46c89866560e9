"""Engines as a table and as JSON values."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from autosam_deploy.bundle.manifest import Artefact, EngineInfo
from autosam_deploy.errors import ExportError
from autosam_deploy.export.checks.record import state_of
from autosam_deploy.export.engines.add import AddedEngine
from autosam_deploy.parity import ParityRecord
from autosam_deploy.runtime.nvidia.families import FAMILIES

_COLUMNS = ("engine", "GPU", "MB", "activations", "low", "fused", "build s")


def info_of(artefact: Artefact) -> EngineInfo:
    """Return an engine's record.

    Raises:
        ExportError: the artefact is no engine.
    """
    if artefact.engine is None:
        raise ExportError(f"'{artefact.file.path}' is no engine")
    return artefact.engine


def describe(added: AddedEngine, record: ParityRecord) -> dict[str, Any]:
    """Return an engine as JSON values; memory is in bytes, time in seconds.

    `new` tells what was built now from what was there already.
    """
    info = info_of(added.artefact)
    values: dict[str, Any] = {
        "file": added.artefact.file.path,
        "bytes": added.artefact.file.bytes,
        "precision": added.artefact.precision,
        "new": added.built is not None,
        "state": state_of(record, added.artefact),
        **info.model_dump(mode="json", exclude={"log"}),
    }
    if added.built is not None:
        values["attention_layers"] = added.built.facts.attentions
    return values


def show_engines(console: Console, results: list[AddedEngine]) -> None:
    """Print what was built, or was there already."""
    table = Table(title="engines", title_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "engine" else "right", no_wrap=True)
    for added in results:
        info = info_of(added.artefact)
        table.add_row(
            f"{FAMILIES[info.family].word} {info.version} {added.artefact.precision}",
            ", ".join(f"sm{sm}" for sm in info.compute_capabilities),
            f"{added.artefact.file.bytes / 1e6:.1f}",
            activations(info),
            f"{info.low_share:.1%}",
            str(added.built.facts.attentions) if added.built else "-",
            f"{info.build_seconds:.1f}" if added.built else "kept",
        )
    console.print(table)
    console.print(
        "low: share of computing layers in low precision; fused: attentions that are one kernel.",
        style="dim",
    )
    console.print(
        "Built, not run: only a run on its GPU proves an engine (autosam-export verify BUNDLE "
        "--backend tensorrt, there).",
        style="dim",
    )


def activations(info: EngineInfo) -> str:
    """Return the activation memory at the largest batch, whole and per slice."""
    if info.activation_bytes is None:
        return "not said"
    count = info.profile["B"][2]
    whole = info.activation_bytes / 1e6
    return f"{whole:.0f} MB for {count} ({whole / count:.0f} a slice)"
