"""What `autosam-predict` is going to write where, refused as a whole before any work is done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from autosam_deploy.errors import OutputError
from autosam_deploy.volumes.cases import Case, find_cases
from autosam_deploy.volumes.read import SUFFIXES, case_name
from autosam_deploy.volumes.write import WRITABLE, check_writable_suffix

#: The format that holds a DICOM geometry to the last digit; NIfTI rounds it to float32.
_EXACT = ".nrrd"


@dataclass(frozen=True)
class Wish:
    """What the user asked for.

    form: suffix of labels in a folder, without its dot; "auto" as the input, nrrd for DICOM.
    resume: labels that exist and can be read are finished cases. overwrite: labels that exist are
    replaced. preview_folder: None puts pictures beside the labels.
    """

    form: str = "auto"
    resume: bool = False
    overwrite: bool = False
    preview: bool = False
    preview_folder: Path | None = None
    report: Path | None = None


@dataclass(frozen=True)
class Task:
    """One case, where its labels and its picture go, and whether labels there may be kept."""

    case: Case
    output: Path
    preview: Path | None
    keep: bool


def plan_cases(source: Path, target: Path, wish: Wish) -> list[Task]:
    """Decide where the labels of every case go.

    Args:
        source: a file, a DICOM folder, or a folder of either.
        target: a label file (one case, name with a known suffix) or a folder.
        wish: everything else.

    Raises:
        VolumeError: nothing to label.
        OutputError: something exists that would be replaced unasked, or is an input; one file for
            many cases; a place that cannot be written.
    """
    cases = find_cases(source)
    single = target.name.lower().endswith(SUFFIXES) and not target.is_dir()
    if single and source.is_dir() and cases[0].path != source:
        raise OutputError(
            "many volumes, one label file",
            got=f"{len(cases)} cases and '{target}'",
            expected="a folder for --output",
        )
    if single:
        check_writable_suffix(target)
    for folder in (target.parent if single else target, wish.preview_folder):
        if folder is not None:
            _check_writable(folder)
    if wish.report is not None:
        _check_writable(wish.report.parent)
    tasks = []
    for case in cases:
        output = target if single else target / (case.name + _suffix(case, wish.form))
        picture = None
        if wish.preview or wish.preview_folder is not None:
            folder = wish.preview_folder or output.parent
            picture = folder / f"{case_name(output)}.png"
        tasks.append(Task(case, output, picture, keep=wish.resume and output.exists()))
    _check_existing(tasks, wish)
    _check_apart(tasks, wish)
    return tasks


def _outputs(task: Task) -> list[Path]:
    return [task.output] if task.preview is None else [task.output, task.preview]


def _suffix(case: Case, form: str) -> str:
    if form != "auto":
        return f".{form}"
    if case.kind == "dicom":
        return _EXACT
    name = case.path.name.lower()
    return next((suffix for suffix in WRITABLE if name.endswith(suffix)), ".mha")


def _check_existing(tasks: list[Task], wish: Wish) -> None:
    for task in tasks:
        for output in _outputs(task):
            if output.is_dir():
                raise OutputError(f"'{output}' is a folder", todo="choose another --output")
            if output.exists() and output.samefile(task.case.path):
                raise OutputError(
                    f"labels would replace their volume '{task.case.path}'",
                    todo="choose another --output",
                )
            if output.exists() and not (wish.resume or wish.overwrite):
                raise OutputError(
                    f"'{output}' exists",
                    todo="use --continue to keep it or --overwrite to replace it",
                )


def _check_apart(tasks: list[Task], wish: Wish) -> None:
    """Refuse outputs that are a volume of another case, or the report's own file."""
    inputs = {task.case.path.resolve() for task in tasks}
    outputs = {output.resolve() for task in tasks for output in _outputs(task)}
    if clash := sorted(inputs & outputs):
        raise OutputError(
            f"labels would replace the volume '{clash[0]}'", todo="choose another --output"
        )
    if wish.report is None:
        return
    if wish.report.is_dir():
        raise OutputError(f"'{wish.report}' is a folder", expected="a file for --report")
    if wish.report.resolve() in inputs | outputs:
        raise OutputError(
            f"the report would replace '{wish.report}'", todo="choose another --report"
        )


def _check_writable(folder: Path) -> None:
    """Refuse a place that cannot be written, before hours of work; makes nothing."""
    existing = folder.absolute()
    # Not `Path.exists`: it raises where a folder on the way may not be looked into.
    while not os.access(existing, os.F_OK) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError(
            f"'{existing}' is a file",
            expected=f"a folder, or the name of a label file ({' '.join(WRITABLE)})",
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(
            f"cannot write into '{folder}'",
            got=f"'{existing}', where this user may not write",
            todo="choose another output path",
        )
