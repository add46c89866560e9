"""Label many volumes with one engine: what goes where, and what became of each."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from autosam_deploy import __version__
from autosam_deploy.errors import BackendInputError, OutputError, VolumeError
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.spec import Axis
from autosam_deploy.volumes.cases import Case, find_cases
from autosam_deploy.volumes.read import SUFFIXES, read_volume
from autosam_deploy.volumes.slices import resolve_axis
from autosam_deploy.volumes.volume import Volume
from autosam_deploy.volumes.write import WRITABLE, check_writable_suffix, write_volume

#: Formats that hold a DICOM geometry to the last digit; NIfTI rounds it to float32.
_EXACT = ".nrrd"


@dataclass(frozen=True)
class Task:
    """One case, where its labels go, and whether they are there already."""

    case: Case
    output: Path
    done: bool


@dataclass(frozen=True)
class Job:
    """What is the same for every case; `engine` holds arguments of `Engine.open`."""

    bundle: Path
    axis: Axis | None
    batch: int | Literal["auto"]
    preview: bool
    verify: bool
    engine: dict[str, Any]


@dataclass
class CaseResult:
    """What became of one case. Times are seconds; `ml` is millilitres per class name."""

    name: str
    input: str
    output: str
    status: Literal["labelled", "skipped", "failed"]
    error: str | None = None
    shape: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    axis: str | None = None
    slices: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    voxels: dict[str, int] = field(default_factory=dict)
    ml: dict[str, float] = field(default_factory=dict)
    preview: str | None = None


@dataclass
class Run:
    """One call of the command."""

    bundle: str
    manifest_sha256: str
    intended_use: str
    engine: dict[str, Any]
    cases: list[CaseResult]
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the run as JSON values."""
        return {"tool": f"autosam-predict {__version__}", **asdict(self)}


def plan_cases(
    source: Path, target: Path, *, form: str, resume: bool, overwrite: bool
) -> list[Task]:
    """Decide where the labels of every case go.

    Args:
        source: a file, a DICOM folder, or a folder of either.
        target: a label file (one case, name with a known suffix) or a folder.
        form: suffix of labels in a folder, without its dot; "auto" as the input, nrrd for DICOM.
        resume: labels that exist are finished cases.
        overwrite: labels that exist are replaced.

    Raises:
        VolumeError: nothing to label.
        OutputError: labels exist, would replace their own volume, or one file for many cases.
    """
    cases = find_cases(source)
    single = target.name.lower().endswith(SUFFIXES)
    if single and source.is_dir() and cases[0].path != source:
        raise OutputError(
            "many volumes, one label file",
            got=f"{len(cases)} cases and '{target}'",
            expected="a folder for --output",
        )
    if single:
        check_writable_suffix(target)
    if not single and target.is_file():
        raise OutputError(f"'{target}' is a file", expected=f"a folder, or a name in {WRITABLE}")
    tasks = []
    for case in cases:
        output = target if single else target / (case.name + _suffix(case, form))
        if output.resolve() == case.path.resolve():
            raise OutputError(
                f"labels would replace their volume '{case.path}'", todo="choose another --output"
            )
        there = output.exists()
        if there and not (resume or overwrite):
            raise OutputError(
                f"'{output}' exists", todo="use --continue to keep it or --overwrite to replace it"
            )
        tasks.append(Task(case, output, done=there and resume))
    return tasks


def _suffix(case: Case, form: str) -> str:
    if form != "auto":
        return f".{form}"
    if case.kind == "dicom":
        return _EXACT
    name = case.path.name.lower()
    return next((suffix for suffix in WRITABLE if name.endswith(suffix)), ".mha")


def label_cases(tasks: list[Task], job: Job, *, console: Console) -> Run:
    """Label the cases one after the other with one engine.

    A case that cannot be read or written is recorded and does not stop the others.

    Raises:
        BundleError: the bundle is not sound.
        BackendError: the engine cannot be opened, or breaks down.
    """
    start = time.perf_counter()
    with Engine.open(job.bundle, verify=job.verify, **job.engine) as engine:
        info = engine.info
        console.print(
            f"{job.bundle} on {info.backend} ({info.provider}), {info.device}, {info.precision}, "
            f"{info.threads} threads: {info.reason}",
            style="dim",
            highlight=False,
        )
        run = Run(
            bundle=str(job.bundle),
            manifest_sha256=engine.bundle.manifest_sha256,
            intended_use=engine.manifest.intended_use,
            engine=info.as_dict(),
            cases=[],
        )
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            everything = progress.add_task("cases", total=len(tasks))
            for task in tasks:
                run.cases.append(_label_case(task, job, engine, progress))
                progress.advance(everything)
        # Batches that were halved on the way are part of what is in use.
        run.engine = engine.info.as_dict()
        run.notes = [*engine.bundle.notes, *engine.info.notes]
    run.seconds = time.perf_counter() - start
    return run


def _label_case(task: Task, job: Job, engine: Engine, progress: Progress) -> CaseResult:
    case = task.case
    result = CaseResult(case.name, str(case.path), str(task.output), "labelled")
    if task.done:
        result.status = "skipped"
        return result
    bar = progress.add_task(f"{case.name}: slices", total=None)

    def advance(done: int, total: int) -> None:
        progress.update(bar, completed=done, total=total)

    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        result.seconds[name], clock = round(now - clock, 4), now

    try:
        volume = read_volume(case.path)
        lap("load")
        recipe = engine.manifest.model.preprocess
        axis = resolve_axis(volume.geometry, job.axis or recipe.slice_axis)
        labels = engine.segment(volume, axis=axis, batch=job.batch, progress=advance)
        lap("run")
        write_volume(task.output, labels)
        _describe(result, volume, labels, engine)
        result.axis, result.slices = axis, volume.array.shape[{"k": 0, "j": 1, "i": 2}[axis]]
        if job.preview:
            result.preview = str(_preview(task.output, volume, labels, engine, axis))
        lap("write")
    except (VolumeError, OutputError, BackendInputError) as error:
        result.status, result.error = "failed", str(error)
    finally:
        progress.remove_task(bar)
    return result


def _preview(
    output: Path, volume: Volume, labels: Volume, engine: Engine, axis: Literal["i", "j", "k"]
) -> Path:
    from autosam_deploy.volumes.preview import write_preview
    from autosam_deploy.volumes.read import case_name

    path = output.with_name(f"{case_name(output)}.png")
    write_preview(path, volume, labels.array, classes=engine.manifest.model.classes, axis=axis)
    return path


def _describe(result: CaseResult, volume: Volume, labels: Volume, engine: Engine) -> None:
    result.shape = volume.array.shape
    result.spacing_mm = volume.geometry.spacing
    for value, entry in enumerate(engine.manifest.model.classes[1:], start=1):
        count = int((labels.array == value).sum())
        result.voxels[entry.name] = count
        result.ml[entry.name] = round(count * volume.voxel_ml, 4)
