"""Facts about a row that follow from its bundle, or from another row."""

from __future__ import annotations

from autosam_deploy.benchmarks.harness.record import Ratio, Row
from autosam_deploy.benchmarks.harness.times import ratio_of
from autosam_deploy.bundle.reader import Bundle

_MIB = 2**20


def size_mib(bundle: Bundle, artefact: str) -> float | None:
    """Return the size of the file that runs, its external weights included."""
    for one in bundle.manifest.artefacts:
        if one.file.path == artefact:
            external = one.external_data.bytes if one.external_data is not None else 0
            return (one.file.bytes + external) / _MIB
    return None


def activation_mib(bundle: Bundle, artefact: str) -> float | None:
    """Return what the builder of an engine said that it needs beside its weights."""
    for one in bundle.manifest.artefacts:
        if one.file.path == artefact and one.engine is not None:
            needed = one.engine.activation_bytes
            return None if needed is None else needed / _MIB
    return None


def ratio_to(anchor: Row | None, row: Row, *, seed: int = 0) -> Ratio | None:
    """Return a row's times over the anchor's in the turns that both took.

    None for the anchor itself, and where the two were never measured side by side.
    """
    if anchor is None or anchor.key == row.key or row.latency is None or anchor.latency is None:
        return None
    found = ratio_of(row.latency.rounds_ms, anchor.latency.rounds_ms, seed=seed)
    if found is None:
        return None
    memory = None
    if row.memory is not None and anchor.memory is not None:
        memory = row.memory.peak_mib / anchor.memory.peak_mib
    times, interval, turns = found
    return Ratio(
        anchor=anchor.key, times=times, interval=interval, turns=turns, memory_times=memory
    )
