"""Box plots of scores: one row a class, every case a point."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from autosam_deploy.cli.scores import Scores
from autosam_deploy.extras import require
from autosam_deploy.files import atomic_file
from autosam_deploy.spec import ClassSpec

_PANELS = (
    ("dice", "Dice", "higher is better"),
    ("hd95_mm", "HD95 (mm)", "lower is better"),
    ("assd_mm", "ASSD (mm)", "lower is better"),
)
#: Inches; dots an inch.
_WIDTH, _ROW, _FRAME, _DPI = 10.0, 0.62, 1.5, 150
_INK, _FAINT = "#222222", "#dddddd"


def load_matplotlib() -> Any:
    """Import `matplotlib.figure`, which draws into files and needs no display.

    Raises:
        MissingExtraError: not installed.
    """
    return require("matplotlib.figure", extra="train", feature="drawing box plots")


def write_boxplot(path: Path, scores: Scores) -> None:
    """Write a PNG with three panels: Dice, HD95 and ASSD of every class.

    A class's box spans the quartiles, its line is the median, its whiskers reach the furthest case
    within 1.5 times the box, as is usual; every case is a point.

    Raises:
        OutputError: the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    classes = scores.evaluation.classes
    height = _FRAME + _ROW * len(classes)
    figure = load_matplotlib().Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (key, title, hint) in zip(panels, _PANELS, strict=True):
        for row, (label, entry) in enumerate(classes.items()):
            _draw_class(axes, row, entry, _values(scores, label, key))
        axes.set_title(title, fontsize=11, color=_INK)
        axes.set_xlabel(hint, fontsize=9, color="#666666")
        _dress(axes, key)
    panels[0].set_ylim(len(classes) - 0.5, -0.5)
    panels[0].set_yticks(range(len(classes)), [_row_name(scores, label) for label in classes])
    title = figure.suptitle(_title(scores), fontsize=10, color=_INK)
    # A dollar sign in a name is no formula.
    for text in (title, *panels[0].get_yticklabels()):
        text.set_parse_math(False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", facecolor="white")


def _title(scores: Scores) -> str:
    sides = (Path(side).resolve().name for side in (scores.predictions, scores.labels))
    cases = len(scores.evaluation.scored)
    return f"{' against '.join(sides)}, {cases} case{'' if cases == 1 else 's'}"


def _values(scores: Scores, label: int, key: str) -> list[float]:
    """Return one score of a class for every case, NaN where it has none."""
    return [
        getattr(score, key)
        for case in scores.evaluation.scored
        for score in case.scores
        if score.label == label
    ]


def _dress(axes: Any, key: str) -> None:
    """Set the frame and the limits of one panel."""
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=_FAINT, linewidth=0.8)
    axes.tick_params(axis="both", length=0, labelsize=9, colors=_INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    # Without any point the limits of the data are infinite.
    left, right = axes.dataLim.intervalx if np.isfinite(axes.dataLim.x0) else (0.0, 1.0)
    # Distances begin at 0. Dice ends at 1 and begins at the tenth below the worst case, since good
    # scores crowd at the top.
    if key == "dice":
        left, right = min(math.floor(10 * left) / 10, 0.9), 1.0
    else:
        left, right = 0.0, 1.05 * right or 1.0
    room = 0.02 * (right - left)
    axes.set_xlim(left - room, right + room)


def _draw_class(axes: Any, row: int, entry: ClassSpec, values: list[float]) -> None:
    array = np.array(values)
    known = ~np.isnan(array)
    if not known.any():
        return
    line = {"color": _INK, "linewidth": 0.8}
    axes.boxplot(
        [array[known]],
        positions=[row],
        orientation="horizontal",
        widths=0.5,
        showfliers=False,  # every case is drawn as a point below
        patch_artist=True,
        boxprops={"facecolor": entry.colour, "alpha": 0.45, "edgecolor": _INK, "linewidth": 0.8},
        medianprops={"color": _INK, "linewidth": 1.8},
        whiskerprops=line,
        capprops=line,
        manage_ticks=False,
    )
    # A case lies at one height in every panel, in the order of names.
    spread = np.linspace(-0.17, 0.17, len(array)) if len(array) > 1 else np.zeros(1)
    axes.scatter(
        array[known],
        (row + spread)[known],
        s=20,
        color=entry.colour,
        edgecolors=_INK,
        linewidths=0.6,
        zorder=3,
        clip_on=False,
    )


def _row_name(scores: Scores, label: int) -> str:
    """Return a class's name with what its distances leave out."""
    one = next(one for one in scores.classes if one.label == label)
    counts = [f"n {one.dice.n}"]
    counts += [f"{one.missed} missed"] if one.missed else []
    counts += [f"{one.invented} invented"] if one.invented else []
    return f"{scores.name(label)}\n{', '.join(counts)}"
