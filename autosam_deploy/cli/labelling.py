"""Label many volumes with one engine, and keep book of what became of each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from autosam_deploy.cli.planning import Task
from autosam_deploy.cli.report import CaseResult, Run, write_report
from autosam_deploy.errors import BackendInputError, OutOfMemoryError, OutputError, VolumeError
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.spec import Axis
from autosam_deploy.volumes.read import read_labels, read_volume
from autosam_deploy.volumes.slices import ARRAY_AXIS, resolve_axis
from autosam_deploy.volumes.volume import Volume
from autosam_deploy.volumes.write import write_volume

#: Called with (slices done, slices in all).
Progressed = Callable[[int, int], None]

#: What is wrong with one case and says nothing about the next.
_CASE_ERRORS = (VolumeError, OutputError, BackendInputError, OutOfMemoryError, MemoryError)


@dataclass(frozen=True)
class Job:
    """What is the same for every case; `engine` holds arguments of `Engine.open`."""

    bundle: Path
    axis: Axis | None
    batch: int | Literal["auto"]
    verify: bool
    engine: dict[str, Any]
    report: Path | None = None
    verbose: bool = False


def label_cases(tasks: list[Task], job: Job, *, console: Console) -> Run:
    """Label the cases one after the other with one engine.

    A case that cannot be read, run or written is recorded and does not stop the others. The report
    is written however the run ends.

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
    with Progress(*columns, console=console, transient=True, disable=off) as progress:
        everything = progress.add_task("cases", total=len(tasks))
        for task in tasks:
            result = CaseResult(task.case.name, str(task.case.path), str(task.output))
            run.cases.append(result)
            bar = progress.add_task(f"{task.case.name}: slices", total=None)
            show = partial(_show, progress, bar)
            _Labelling(task, job, engine, result).run(show)
            progress.remove_task(bar)
            progress.advance(everything)
            if job.verbose:
                console.print(_line(result), highlight=False, soft_wrap=True)


def _show(progress: Progress, bar: TaskID, done: int, total: int) -> None:
    progress.update(bar, completed=done, total=total)


class _Labelling:
    """The way of one case from its volume to its labels."""

    def __init__(self, task: Task, job: Job, engine: Engine, result: CaseResult) -> None:
        """Take what belongs together; `result` is filled by `run`."""
        self.task, self.job, self.engine, self.result = task, job, engine, result
        self.clock = time.perf_counter()
        self.done = 0

    def run(self, advance: Progressed) -> None:
        """Label the case unless its labels may be kept, and record what happened."""
        result = self.result

        def note(done: int, total: int) -> None:
            result.batch = max(result.batch or 0, done - self.done)
            self.done = done
            advance(done, total)

        try:
            if self._kept():
                result.status = "skipped"
                return
            volume = read_volume(self.task.case.path)
            volume = replace(volume, name=self.task.case.name)
            result.notes.extend(volume.notes)
            self._lap("load")
            axis = resolve_axis(volume.geometry, self._axis())
            result.axis, result.slices = axis, volume.array.shape[ARRAY_AXIS[axis]]
            batch = self.job.batch
            labels = self.engine.segment(volume, axis=axis, batch=batch, progress=note)
            self._lap("run")
            write_volume(self.task.output, labels)
            self._describe(labels)
            self._preview(volume, labels, axis)
            self._lap("write")
            result.status = "labelled"
        except _CASE_ERRORS as error:
            result.status, result.error = "failed", _text(error, self.task)

    def _axis(self) -> Axis:
        return self.job.axis or self.engine.manifest.model.preprocess.slice_axis

    def _lap(self, name: str) -> None:
        now = time.perf_counter()
        self.result.seconds[name], self.clock = round(now - self.clock, 4), now

    def _kept(self) -> bool:
        """Tell whether what is asked for is there already and whole."""
        if not self.task.keep:
            return False
        try:
            labels = read_labels(self.task.output)
        except VolumeError as error:
            self.result.notes.append(f"made again: {error}")
            return False
        if self.task.preview is not None and not self.task.preview.exists():
            self.result.notes.append("made again: its picture was missing")
            return False
        self._describe(labels)
        return True

    def _describe(self, labels: Volume) -> None:
        result = self.result
        result.shape = labels.array.shape
        result.spacing_mm = labels.geometry.spacing
        for value, entry in enumerate(self.engine.manifest.model.classes[1:], start=1):
            count = int((labels.array == value).sum())
            result.voxels[entry.name] = count
            result.ml[entry.name] = round(count * labels.voxel_ml, 4)

    def _preview(self, volume: Volume, labels: Volume, axis: Literal["i", "j", "k"]) -> None:
        path = self.task.preview
        if path is None:
            return
        from autosam_deploy.volumes.preview import write_preview

        classes = self.engine.manifest.model.classes
        write_preview(path, volume, labels.array, classes=classes, axis=axis)
        self.result.preview = str(path)


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
    parts += [seconds] if seconds else []
    return "; ".join([*parts, *result.notes])
