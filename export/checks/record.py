"""Completing a bundle's record on the target: an engine against the golden slices, there."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.bundle.writer import add_member, amend_bundle
from autosam_deploy.errors import ExportError
from autosam_deploy.parity import Comparison, EngineRun, ParityRecord, compare
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.selftest import read_golden, read_parity


def state_of(record: ParityRecord, artefact: Artefact) -> str:
    """Say in a few words what is known of an engine."""
    run = record.run_of(artefact.file.sha256)
    if run is None:
        return "built, not run"
    verdict = "passed" if run.comparison.passed else ", ".join(run.comparison.failures)
    return f"ran on {run.device}: {verdict}"


def judged_by(record: ParityRecord, precision: str) -> Comparison:
    """Return the comparison that export judged a precision by.

    Raises:
        ExportError: export never judged it.
    """
    found = record.comparison_of(precision)
    if found is None:
        raise ExportError(
            f"the bundle's record has no gate for {precision}",
            got=f"gates for {', '.join(c.precision for c in record.comparisons)}",
            todo="measure it with autosam-bench, or choose another --precision",
        )
    return found


def record_run(engine: Engine) -> EngineRun:
    """Run the golden slices on an engine and write the result into its bundle.

    The record is written under a new name, then the manifest names it, then the old one goes: a
    stop leaves the bundle sound. A failed comparison is recorded too.

    Raises:
        ExportError: what is open is no engine, or export never judged its precision.
        OutputError: the bundle cannot be written.
    """
    bundle, info = engine.bundle, engine.info
    artefact = next((a for a in bundle.manifest.artefacts if a.file.path == info.artefact), None)
    if artefact is None or artefact.kind != "engine":
        raise ExportError(
            "runs of engines are recorded, and this backend runs none",
            got=f"{info.backend} with '{info.artefact}'",
            todo="use --backend tensorrt",
        )
    record = read_parity(bundle)
    known = judged_by(record, info.precision)
    golden = [read_golden(bundle, case) for case in bundle.manifest.golden]
    comparison = compare(
        [engine.outputs(case.slices) for case in golden],
        [case.logits for case in golden],
        artefact=artefact.file.path,
        precision=info.precision,
        reference=known.reference,
        names=bundle.manifest.model.outputs,
    )
    run = EngineRun(
        sha256=artefact.file.sha256,
        device=info.notes[0] if info.notes else info.device,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=info.versions,
        comparison=comparison,
    )
    others = tuple(r for r in record.engines if (r.sha256, r.device) != (run.sha256, run.device))
    _replace(bundle, record.model_copy(update={"engines": (*others, run)}))
    return run


def _replace(bundle: Bundle, record: ParityRecord) -> None:
    """Put a record in the place of the bundle's, under a name that is free."""
    number = len(record.engines)
    while (bundle.path / f"parity-{number}.json").exists():
        number += 1
    content = json.dumps(record.model_dump(mode="json"), indent=2).encode()
    ref = add_member(bundle, f"parity-{number}.json", content)
    amend_bundle(bundle, bundle.manifest.model_copy(update={"parity": ref}))
