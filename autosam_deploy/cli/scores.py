"""What `autosam-evaluate` found: as a table, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from autosam_deploy import __version__
from autosam_deploy.cli.evaluation import CaseScores, Evaluation
from autosam_deploy.cli.pairing import Pairing
from autosam_deploy.files import atomic_file
from autosam_deploy.metrics.summary import (
    ClassSummary,
    Foreground,
    Statistic,
    statistic,
    summarise_class,
    summarise_foreground,
)

DEFINITIONS = {
    "dice": "2 |P and T| / (|P| + |T|) of the voxels of prediction P and truth T",
    "hd95_mm": "95th percentile (linear between values) of the distances from the surface of P to "
    "that of T, the same from T to P, the larger of the two; in mm",
    "assd_mm": "mean over the distances from every surface voxel of P to the surface of T and from "
    "every one of T to that of P; in mm",
    "surface": "voxels of a mask with a face neighbour outside of it; the outside of the volume is "
    "outside of the mask; distances run between voxel centres",
    "sd": "sample standard deviation over cases (n - 1)",
    "foreground": "mean of the means of the classes, each class weighing the same",
}
NAN_POLICY = (
    "A class in neither prediction nor truth of a case has no scores there and is left out. A "
    "class in one of them only has Dice 0 and no distances: it enters the mean of Dice, is left "
    "out of the means of distances, and is counted as missed (only in the truth) or invented (only "
    "in the prediction). null stands for no number."
)
_COLUMNS = (
    *("case", "class", "label", "found", "dice", "hd95_mm", "assd_mm"),
    *("truth_ml", "prediction_ml"),
)
#: Digits of numbers in files: MONAI computes in float32.
_DIGITS = 7
#: Takes the place of " ± 0.000" where one value has no spread, so that means stay aligned.
_NO_SD = " " * 8
#: Columns of a terminal that no table fills.
_BOUNDLESS = 10_000


@dataclass(frozen=True)
class Scores:
    """An evaluation with its summary, and how it came about.

    bundle: what is known of the bundle that labelled the images, if one did.
    """

    evaluation: Evaluation
    pairing: Pairing
    command: str
    predictions: str
    labels: str
    bundle: dict[str, Any] | None = None

    @cached_property
    def classes(self) -> list[ClassSummary]:
        """Every class over all cases; none where no case could be scored."""
        columns = zip(*(case.scores for case in self.evaluation.scored), strict=True)
        return [summarise_class(column) for column in columns]

    @cached_property
    def foreground(self) -> Foreground:
        """The mean of the classes."""
        return summarise_foreground(self.classes)

    def name(self, label: int) -> str:
        """Return the name of a class."""
        return self.evaluation.classes[label].name

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; NaN is null."""
        record = {
            "tool": f"autosam-evaluate {__version__}",
            "command": self.command,
            "versions": {
                "autosam-deploy": __version__,
                **{name: version(name) for name in ("monai", "scipy", "torch")},
            },
            "predictions": self.predictions,
            "labels": self.labels,
            "bundle": self.bundle,
            "definitions": DEFINITIONS,
            "nan_policy": NAN_POLICY,
            "unpaired": {
                "without_labels": list(self.pairing.only_sources),
                "without_prediction": list(self.pairing.only_truths),
            },
            "summary": {
                "cases": len(self.evaluation.scored),
                "failed": len(self.evaluation.failed),
                "classes": [{"class": self.name(one.label), **asdict(one)} for one in self.classes],
                "foreground": self._foreground(),
            },
            "cases": [self._case(case) for case in self.evaluation.cases],
        }
        return {key: _plain(value) for key, value in record.items()}

    def _foreground(self) -> dict[str, Any]:
        mean = self.foreground
        return {
            "dice": {"mean": mean.dice.mean, "classes": mean.dice.n},
            "hd95_mm": {"mean": mean.hd95_mm.mean, "classes": mean.hd95_mm.n},
            "assd_mm": {"mean": mean.assd_mm.mean, "classes": mean.assd_mm.n},
            "missed": mean.missed,
            "invented": mean.invented,
        }

    def _case(self, case: CaseScores) -> dict[str, Any]:
        scores = [
            {"class": self.name(score.label), "found": score.found, **asdict(score)}
            for score in case.scores
        ]
        return {**asdict(case), "scores": scores}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: null for NaN, lists for tuples, rounded numbers."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.{_DIGITS}g}")
    return value


def write_csv(path: Path, scores: Scores) -> None:
    """Write one row a case and class; a cell is empty where there is no number.

    Raises:
        OutputError: the file cannot be written.
    """
    stream = io.StringIO()
    rows = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    rows.writeheader()
    for case in scores.evaluation.scored:
        for score in case.scores:
            values = {"case": case.name, "class": scores.name(score.label), "found": score.found}
            rows.writerow(_plain({**values, **asdict(score)}))
    with atomic_file(path) as temporary:
        temporary.write_text(stream.getvalue(), "utf-8")


def show_scores(console: Console, scores: Scores, *, verbose: bool = False) -> None:
    """Print one row a class and their mean; with `verbose` one row a case before it."""
    if verbose:
        console.print(_fitted(_case_table(scores), console))
        console.print()
    console.print(_fitted(_class_table(scores), console))
    for line in _notes(scores):
        console.print(line, style="dim", highlight=False)


def _fitted(table: Table, console: Console) -> Table:
    """Put two spaces between columns where the terminal has room for them."""
    table.padding = (0, 1, 0, 0)
    boundless = console.options.update_width(_BOUNDLESS)
    if Measurement.get(console, boundless, table).maximum > console.width:
        # What is left is the space of the box itself.
        table.padding = (0, 0, 0, 0)
    return table


def _new_table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
        show_edge=False,
        show_footer=True,
        footer_style="bold",
    )


def _class_table(scores: Scores) -> Table:
    mean = scores.foreground
    table = _new_table("Scores by class, distances in mm")
    table.add_column("\nclass", f"mean, {_classes(mean.dice.n)}", overflow="fold")
    for header, footer in (
        ("\nn", ""),
        ("Dice\nmean ± sd", f"{_number(mean.dice.mean, 3)}{_NO_SD}"),
        ("Dice\nmedian", ""),
        ("n\nboth", ""),
        ("HD95\nmean", _mm(mean.hd95_mm.mean)),
        ("HD95\nmedian", ""),
        ("ASSD\nmean", _mm(mean.assd_mm.mean)),
        ("\nmissed", _count(mean.missed)),
        ("\ninvented", _count(mean.invented)),
    ):
        table.add_column(header, footer, justify="right", no_wrap=True)
    for one in scores.classes:
        table.add_row(
            # A name in brackets is no markup.
            Text(scores.name(one.label)),
            str(one.dice.n),
            _spread(one.dice),
            _number(one.dice.median, 3),
            str(one.hd95_mm.n),
            _mm(one.hd95_mm.mean),
            _mm(one.hd95_mm.median),
            _mm(one.assd_mm.mean),
            _count(one.missed),
            _count(one.invented),
        )
    return table


def _case_table(scores: Scores) -> Table:
    table = _new_table("Scores by case, over its classes, distances in mm")
    table.show_footer = False
    table.add_column("\ncase", overflow="fold")
    for header in ("Dice\nmean", "Dice\nlowest", "HD95\nmean", "ASSD\nmean"):
        table.add_column(header, justify="right", no_wrap=True)
    for header in ("missed", "invented"):
        table.add_column(f"\n{header}", overflow="fold")
    for case in scores.evaluation.scored:
        known = [score for score in case.scores if score.found != "neither"]
        table.add_row(
            Text(case.name),
            _number(statistic(score.dice for score in known).mean, 3),
            _number(min((score.dice for score in known), default=math.nan), 3),
            _mm(statistic(score.hd95_mm for score in known).mean),
            _mm(statistic(score.assd_mm for score in known).mean),
            *(
                Text(", ".join(scores.name(s.label) for s in known if s.found == found), "red")
                for found in ("missed", "invented")
            ),
        )
    return table


def _spread(value: Statistic) -> str:
    sd = f" ± {_number(value.sd, 3)}" if value.n > 1 else _NO_SD
    return f"{_number(value.mean, 3)}{sd}"


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _mm(value: float) -> str:
    return _number(value, 2 if value < 100 else 1)


def _count(count: int) -> Text:
    """Return a count that catches the eye unless it is 0."""
    return Text(str(count), style="bold red" if count else "")


def _classes(count: int) -> str:
    return f"{count} class{'' if count == 1 else 'es'}"


def _notes(scores: Scores) -> list[str]:
    """Return what one must know to read the table."""
    cases = len(scores.evaluation.scored)
    note = f"{cases} case{'' if cases == 1 else 's'} scored"
    if failed := len(scores.evaluation.failed):
        note += f", {failed} failed and left out"
    for names, other in (
        (scores.pairing.only_sources, "labels"),
        (scores.pairing.only_truths, "a prediction"),
    ):
        if names:
            note += f", {len(names)} left out for want of {other}"
    mean = scores.foreground
    if mean.hd95_mm.n != mean.dice.n:
        note += f"; the mean of distances is one of {_classes(mean.hd95_mm.n)}"
    return [
        f"{note}.",
        "n: cases with the class in prediction or truth, Dice 0 where it is in one only; "
        "n both: cases with it in both, the only ones that have distances.",
    ]
