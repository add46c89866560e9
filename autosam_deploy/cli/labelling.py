"""Label many volumes with one engine, and keep book of what became of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from autosam_deploy.cli.pipeline import Pipeline
from autosam_deploy.cli.planning import Task
from autosam_deploy.cli.report import CaseResult, Run, write_report
from autosam_deploy.errors import BackendInputError, OutOfMemoryError, OutputError, VolumeError
from autosam_deploy.runtime.engine import Engine, Labels
from autosam_deploy.spec import Axis
from autosam_deploy.volumes.itk import quiet_itk
from autosam_deploy.volumes.read import read_labels, read_volume
from autosam_deploy.volumes.slices import ARRAY_AXIS, resolve_axis
from autosam_deploy.volumes.volume import Volume
from autosam_deploy.volumes.write import write_volume

#: Called with (slices done, slices in all).
Progressed = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """What is the same for every case; `engine` holds arguments of `Engine.open`."""

    bundle: Path
    axis: Axis | None
    batch: int | Literal["auto"]
    verify: bool
    engine: dict[str, Any]
    skip_flat: bool = False
    report: Path | None = None
    verbose: bool = False


def label_cases(tasks: list[Task], job: Job, *, console: Console) -> Run:
    """Label the cases in their order with one engine.

    While one case runs, the next is read and the one before is written. A case that cannot be read,
    run or written is recorded and does not stop the others. The report is written however the run
    ends.

    Raises:
        BundleError: the bundle is not sound.
        BackendError: the engine cannot be opened, or breaks down.
        OutputError: the report cannot be written.
    """
    start = time.perf_counter()
    with Engine.open(job.bundle, verify=job.verify, **job.engine) as engine:
        info = engine.info
        console.print(
            f"{job.bundle} on {info.backend} ({info.provider}), {info.device}, {info.precision}, "
            f"{info.threads} threads: {info.reason}",
            style="dim",
            highlight=False,
            soft_wrap=True,
        )
        run = Run(
            bundle=str(job.bundle),
            name=engine.manifest.name,
            manifest_sha256=engine.bundle.manifest_sha256,
            intended_use=engine.manifest.intended_use,
            engine=info.as_dict(),
            planned=len(tasks),
        )
        if job.verbose:
            for name, version in info.versions.items():
                console.print(f"  {name} {version}", style="dim", highlight=False)
            for text in info.notes:
                console.print(f"  {text}", style="dim", highlight=False, soft_wrap=True)
        try:
            _label_all(tasks, job, engine, run, console)
            run.complete = True
        finally:
            # Asked again: the engine has learnt what fits into memory.
            run.engine = engine.info.as_dict()
            run.seconds = round(time.perf_counter() - start, 4)
            if not run.complete:
                done = sum(case.status in ("labelled", "skipped") for case in run.cases)
                console.print(f"stopped after {done} of {run.planned} cases; go on with --continue")
            if job.report is not None:
                write_report(job.report, run)
    return run


def _label_all(tasks: list[Task], job: Job, engine: Engine, run: Run, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    off = not console.is_terminal
    with (
        Progress(*columns, console=console, transient=True, disable=off) as progress,
        # Once around both threads: each would restore what it found, which may be the other's.
        quiet_itk(),
    ):
        bar = progress.add_task("cases", total=len(tasks))
        _Labelling(job, engine, run, _Screen(console, progress, bar)).process(
            _Case(task, CaseResult(task.case.name, str(task.case.path), str(task.output)))
            for task in tasks
        )


@dataclass(frozen=True)
class _Screen:
    """Where progress is shown; `everything` is the bar that counts cases."""

    console: Console
    progress: Progress
    everything: TaskID


@dataclass(frozen=True)
class _Case:
    """One case and the record of what became of it."""

    task: Task
    result: CaseResult


@dataclass(frozen=True)
class _Labelled:
    """What is to be written: labels, and the volume if there will be a picture of both."""

    labels: Labels
    volume: Volume | None
    axis: Literal["i", "j", "k"]


class _Labelling(Pipeline[_Case, Volume | None, _Labelled]):
    """The way of every case from its volume to its labels; read as None: its labels are kept."""

    item_errors = (VolumeError, OutputError, BackendInputError, OutOfMemoryError, MemoryError)
    memory_errors = (OutOfMemoryError, MemoryError)

    def __init__(self, job: Job, engine: Engine, report: Run, screen: _Screen) -> None:
        """Take what belongs together; `report.cases` is filled in the order of the cases."""
        self.job, self.engine, self.report, self.screen = job, engine, report, screen
        self.classes = engine.manifest.model.classes

    def begin(self, item: _Case) -> None:
        """Enter the case into the report."""
        self.report.cases.append(item.result)

    def read(self, item: _Case) -> Volume | None:
        """Read the volume unless its labels may be kept."""
        task, result = item.task, item.result
        start = time.perf_counter()
        result.notes = []
        if task.keep and (labels := _kept(task, result)) is not None:
            self._describe(result, labels)
            result.status = "skipped"
            return None
        volume = replace(read_volume(task.case.path), name=task.case.name)
        result.notes.extend(volume.notes)
        result.seconds["load"] = _since(start)
        return volume

    def run(self, item: _Case, read: Volume | None) -> _Labelled | None:
        """Label the volume."""
        if read is None:
            return None
        result, start = item.result, time.perf_counter()
        axis = resolve_axis(read.geometry, self._axis())
        result.axis, result.slices = axis, read.array.shape[ARRAY_AXIS[axis]]
        with self._progress(result) as note:
            labels = self.engine.segment(
                read,
                axis=axis,
                batch=self.job.batch,
                skip_flat=self.job.skip_flat,
                progress=note,
            )
        if self.job.skip_flat:
            result.flat_slices = labels.skipped
        result.seconds["run"] = _since(start)
        return _Labelled(labels, read if item.task.preview is not None else None, axis)

    def write(self, item: _Case, made: _Labelled) -> None:
        """Write labels and picture."""
        task, result, start = item.task, item.result, time.perf_counter()
        write_volume(task.output, made.labels)
        self._describe(result, made.labels)
        if task.preview is not None and made.volume is not None:
            from autosam_deploy.volumes.preview import write_preview

            labels, axis = made.labels.array, made.axis
            write_preview(task.preview, made.volume, labels, classes=self.classes, axis=axis)
            result.preview = str(task.preview)
        result.seconds["write"] = _since(start)
        result.status = "labelled"

    def done(self, item: _Case) -> None:
        """Show that a case is finished."""
        self.screen.progress.advance(self.screen.everything)
        if self.job.verbose:
            self.screen.console.print(_line(item.result), highlight=False, soft_wrap=True)

    def failed(self, item: _Case, error: Exception) -> None:
        """Record what is wrong with a case."""
        item.result.status, item.result.error = "failed", _text(error, item.task)
        self.done(item)

    def _axis(self) -> Axis:
        return self.job.axis or self.engine.manifest.model.preprocess.slice_axis

    @contextmanager
    def _progress(self, result: CaseResult) -> Iterator[Progressed]:
        """Show a bar for the slices of a case, and note the largest batch."""
        progress = self.screen.progress
        bar = progress.add_task(f"{result.name}: slices", total=None)
        last = 0
        result.batch = None

        def note(done: int, total: int) -> None:
            nonlocal last
            result.batch = max(result.batch or 0, done - last)
            last = done
            progress.update(bar, completed=done, total=total)

        try:
            yield note
        finally:
            progress.remove_task(bar)

    def _describe(self, result: CaseResult, labels: Volume) -> None:
        result.shape = labels.array.shape
        result.spacing_mm = labels.geometry.spacing
        counts = np.zeros(256, np.int64)
        # Plane by plane: numpy counts in a copy that is eight times as large.
        for plane in labels.array:
            counts += np.bincount(plane.ravel(), minlength=256)
        for value, entry in enumerate(self.classes[1:], start=1):
            result.voxels[entry.name] = int(counts[value])
            result.ml[entry.name] = round(result.voxels[entry.name] * labels.voxel_ml, 4)


def _kept(task: Task, result: CaseResult) -> Volume | None:
    """Return the labels if what is asked for is there already and whole."""
    try:
        labels = read_labels(task.output)
    except VolumeError as error:
        result.notes.append(f"made again: {error}")
        return None
    if task.preview is not None and not task.preview.exists():
        result.notes.append("made again: its picture was missing")
        return None
    return labels


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 4)


def _text(error: Exception, task: Task) -> str:
    if isinstance(error, MemoryError):
        detail = str(error) or "no detail"
        return f"volume '{task.case.path}' does not fit into memory; got {detail}"
    if isinstance(error, OutOfMemoryError):
        return f"volume '{task.case.path}': {error}"
    return str(error)


def _line(result: CaseResult) -> str:
    seconds = ", ".join(f"{name} {value:.2f} s" for name, value in result.seconds.items())
    where = f"{result.slices} slices along {result.axis}, batches of {result.batch}"
    parts = [f"{result.name}: {result.status}"]
    parts += [where] if result.batch else []
    parts += [f"{result.flat_slices} flat slices skipped"] if result.flat_slices else []
    parts += [seconds] if seconds else []
    return "; ".join([*parts, *result.notes])
