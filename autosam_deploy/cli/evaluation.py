"""Score many cases, and keep book of what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
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

from autosam_deploy.cli.pairing import Pair
from autosam_deploy.errors import BackendInputError, OutOfMemoryError, VolumeError
from autosam_deploy.metrics.surface import ClassScore, no_score, score_classes
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.spec import ClassSpec, default_classes
from autosam_deploy.volumes.read import read_labels, read_volume
from autosam_deploy.volumes.volume import Geometry, Volume, near_space

#: What is wrong with one case and says nothing about the next.
_CASE_ERRORS = (VolumeError, BackendInputError, OutOfMemoryError, MemoryError)

#: Called with (slices done, slices in all).
Progressed = Callable[[int, int], None]


@dataclass
class CaseScores:
    """One case: where it came from and its scores, one a class, or why there are none.

    source: the predicted label file, or the image that a bundle labelled. spacing_mm: (x, y, z).
    """

    name: str
    source: str
    truth: str
    spacing_mm: tuple[float, ...] | None = None
    scores: tuple[ClassScore, ...] = ()
    error: str | None = None


@dataclass
class Evaluation:
    """All cases of one call; `classes` are those behind background, by their label."""

    cases: list[CaseScores] = field(default_factory=list)
    classes: dict[int, ClassSpec] = field(default_factory=dict)

    @property
    def scored(self) -> list[CaseScores]:
        """The cases that have scores."""
        return [case for case in self.cases if case.error is None]

    @property
    def failed(self) -> list[CaseScores]:
        """The cases that have none."""
        return [case for case in self.cases if case.error is not None]


@dataclass(frozen=True)
class Labeller:
    """A bundle at work: labels images in memory, `batch` slices at a time."""

    engine: Engine
    batch: int | Literal["auto"] = "auto"

    def read(self, path: Path) -> Volume:
        """Read an image."""
        return read_volume(path)

    def labels(self, volume: Volume, advance: Progressed) -> Volume:
        """Label an image."""
        return self.engine.segment(volume, batch=self.batch, progress=advance)


class Reader:
    """Predictions that are there already: label files."""

    def read(self, path: Path) -> Volume:
        """Read a label file."""
        return read_labels(path)

    def labels(self, volume: Volume, advance: Progressed) -> Volume:
        """Return the labels as they are."""
        return volume


def evaluate(
    pairs: Sequence[Pair],
    source: Labeller | Reader,
    *,
    classes: Sequence[ClassSpec] | None,
    console: Console,
) -> Evaluation:
    """Score the cases one after the other; a case that is bad does not stop the others.

    Args:
        pairs: what to compare.
        source: how predictions come about.
        classes: background first; a label beyond them is an error of its case. None takes
            the labels that are met, as `class_1`, ...
        console: for the progress bar.

    Raises:
        BackendError: the engine breaks down.
        MissingExtraError: MONAI or SciPy is not installed.
    """
    found = Evaluation()
    with _bars(console, len(pairs)) as bars:
        for pair in pairs:
            case = CaseScores(pair.name, str(pair.source), str(pair.truth))
            found.cases.append(case)
            with bars.case(pair.name) as advance:
                try:
                    _score_case(case, pair, source, classes=classes, advance=advance)
                except _CASE_ERRORS as error:
                    case.error = _text(error, pair)
    _complete(found, classes)
    return found


def _score_case(
    case: CaseScores,
    pair: Pair,
    source: Labeller | Reader,
    *,
    classes: Sequence[ClassSpec] | None,
    advance: Progressed,
) -> None:
    truth, volume = read_labels(pair.truth), source.read(pair.source)
    # Before the image is labelled, which may take minutes.
    _check_fit(volume, truth, pair)
    _check_values(truth, pair.truth, classes)
    prediction = source.labels(volume, advance)
    _check_values(prediction, pair.source, classes)
    if classes is None:
        met = np.union1d(np.unique(truth.array), np.unique(prediction.array))
        labels = [int(label) for label in met if label != 0]
    else:
        labels = list(range(1, len(classes)))
    spacing = truth.geometry.spacing
    case.scores = score_classes(prediction.array, truth.array, spacing=spacing, labels=labels)
    case.spacing_mm = spacing


def _check_fit(volume: Volume, truth: Volume, pair: Pair) -> None:
    if volume.array.shape != truth.array.shape:
        raise VolumeError(
            f"'{pair.source}' and its labels '{pair.truth}' differ in shape",
            got=f"{volume.array.shape} (z, y, x)",
            expected=str(truth.array.shape),
        )
    if not near_space(volume.geometry, truth.geometry):
        raise VolumeError(
            f"'{pair.source}' does not lie where its labels '{pair.truth}' lie",
            got=_geometry(volume.geometry),
            expected=_geometry(truth.geometry),
            todo="resample one onto the other first",
        )


def _geometry(geometry: Geometry) -> str:
    """Return a geometry as one reads it; seven digits, as float32 has."""
    return ", ".join(
        f"{name} ({' '.join(f'{value:.7g}' for value in values)})"
        for name, values in vars(geometry).items()
    )


def _check_values(labels: Volume, path: Path, classes: Sequence[ClassSpec] | None) -> None:
    largest = int(labels.array.max())
    if classes is not None and largest >= len(classes):
        names = ", ".join(one.name for one in classes)
        raise VolumeError(
            f"'{path}' holds an unknown label",
            got=str(largest),
            expected=f"0..{len(classes) - 1} ({names})",
            todo="name all classes with --classes",
        )


def _complete(found: Evaluation, classes: Sequence[ClassSpec] | None) -> None:
    """Give every case a score of every class, now that all are known."""
    if classes is None:
        met = {score.label for case in found.scored for score in case.scores}
        known = default_classes(max(met, default=1) + 1)
        found.classes = {label: known[label] for label in sorted(met)}
    else:
        found.classes = dict(enumerate(classes[1:], start=1))
    for case in found.scored:
        by_label = {score.label: score for score in case.scores}
        case.scores = tuple(by_label.get(label, no_score(label)) for label in found.classes)


def _text(error: Exception, pair: Pair) -> str:
    if isinstance(error, MemoryError):
        return f"'{pair.source}' does not fit into memory; got {str(error) or 'no detail'}"
    if isinstance(error, VolumeError):
        return str(error)
    return f"'{pair.source}': {error}"


class _Bars:
    """A bar of cases and, while one is being labelled, a bar of its slices."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress = progress
        self.cases = progress.add_task("cases", total=total)

    @contextmanager
    def case(self, name: str) -> Iterator[Progressed]:
        """Yield what moves the bar of slices."""
        bar = self.progress.add_task(f"{name}: slices", total=None, visible=False)
        yield partial(self._show, bar)
        self.progress.remove_task(bar)
        self.progress.advance(self.cases)

    def _show(self, bar: TaskID, done: int, total: int) -> None:
        self.progress.update(bar, completed=done, total=total, visible=True)


@contextmanager
def _bars(console: Console, total: int) -> Iterator[_Bars]:
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    off = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=off) as progress:
        yield _Bars(progress, total)
