"""Completing a bundle's record on the target: an engine against the golden slices, there."""

from __future__ import annotations

from datetime import UTC, datetime

from autosam_deploy.bundle.manifest import MANIFEST, Artefact, FileRef
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import ExportError
from autosam_deploy.files import sha256_file, write_json
from autosam_deploy.parity import EngineRun, ParityRecord, compare
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.selftest import read_golden


def read_record(bundle: Bundle) -> ParityRecord:
    """Return the bundle's parity record."""
    text = bundle.file(bundle.manifest.parity).read_text("utf-8")
    return ParityRecord.model_validate_json(text)


def state_of(record: ParityRecord, artefact: Artefact) -> str:
    """Say in a few words what is known of an engine."""
    run = record.run_of(artefact.file.sha256)
    if run is None:
        return "built, not run"
    verdict = "passed" if run.comparison.passed else ", ".join(run.comparison.failures)
    return f"ran on {run.device}: {verdict}"


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
    record = read_record(bundle)
    known = [c for c in record.comparisons if c.precision == info.precision]
    if not known:
        raise ExportError(
            f"export measured no error of {info.precision} to judge the engine by",
            todo="export the bundle again in this precision",
        )
    golden = [read_golden(bundle, case) for case in bundle.manifest.golden]
    comparison = compare(
        [engine.outputs(case.slices) for case in golden],
        [case.logits for case in golden],
        artefact=artefact.file.path,
        precision=info.precision,
        reference=known[0].reference,
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
    old = bundle.manifest.parity
    count = len(record.engines)
    name = f"parity-{count}.json"
    while name == old.path or (bundle.path / name).exists():
        count += 1
        name = f"parity-{count}.json"
    path = bundle.path / name
    write_json(path, record.model_dump(mode="json"))
    ref = FileRef(path=name, sha256=sha256_file(path), bytes=path.stat().st_size)
    manifest = bundle.manifest.model_copy(update={"parity": ref})
    write_json(bundle.path / MANIFEST, manifest.model_dump(mode="json", exclude_none=True))
    bundle.file(old).unlink(missing_ok=True)
