"""Dice against the number of labelled volumes: a line a row, a point a seed, a band around."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autosam_deploy.benchmarks.efficiency.plan import count_of
from autosam_deploy.benchmarks.efficiency.rows import Row, listed_sizes, row_names, sizes_of
from autosam_deploy.extras import require
from autosam_deploy.files import atomic_file
from autosam_deploy.metrics.summary import statistic

#: Method -> colour and marker. Okabe & Ito's palette, told apart with colour-deficient sight; heads
#: on the frozen encoder have full lines, U-Nets broken ones.
_STYLES: dict[str, tuple[str, str, Any]] = {
    "autosam": ("#0072b2", "o", "-"),
    "cnn": ("#d55e00", "s", "-"),
    "linear": ("#009e73", "^", "-"),
    "unet": ("#444444", "D", (0, (4, 2))),
    "unet-pretrained": ("#cc79a7", "v", (0, (4, 2))),
}
#: Lines of heads, by image size from the largest down; markers of the smaller ones are hollow.
_SIZE_LINES: tuple[Any, ...] = ("-", (0, (1, 1.3)), (0, (6, 2, 1, 2)), (0, (9, 3)))
#: Rows stand a little beside each other: this many doublings apart.
_APART = 0.045
_INK, _SOFT, _FAINT, _WARNING = "#222222", "#666666", "#e4e4e4", "#b00020"
#: Dots an inch; inches that a line of title or legend takes.
_DPI, _LINE = 150, 0.25
#: Foreground classes that still make readable panels.
MOST_CLASSES = 8

Points = Mapping[int, Sequence[float]]
Result = Mapping[str, Any]


def write_dice_plot(path: Path, result: Result) -> None:
    """Draw mean foreground Dice.

    Args:
        path: of the PNG.
        result: of `study_result`.

    Raises:
        OutputError: the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    figure = _figure(7.6, 4.2, result)
    axes = figure.subplots()
    _draw(axes, result, None)
    axes.set_ylabel("mean foreground Dice on the test volumes", color=_INK)
    axes.set_xlabel(_volumes_label(result), color=_INK)
    _finish(figure, path, result)


def write_class_plot(path: Path, result: Result) -> None:
    """Draw the Dice of every class, a panel each (see `write_dice_plot`)."""
    names = result["data"]["classes"][1:]
    columns = 2 if len(names) in (2, 4) else 3
    rows = -(-len(names) // columns)
    figure = _figure(max(7.6, 3.7 * columns), 3.1 * rows, result)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for number, axes in enumerate(panels):
        if number >= len(names):
            axes.set_axis_off()
            continue
        _draw(axes, result, names[number])
        axes.set_title(names[number], fontsize=10.5, color=_INK).set_parse_math(False)
        if number % columns == 0:
            axes.set_ylabel("Dice on the test volumes", color=_INK)
        if number + columns >= len(names):
            # The long form is wider than a panel.
            axes.set_xlabel("labelled volumes N", color=_INK)
            axes.tick_params(labelbottom=True)
    _finish(figure, path, result)


def _figure(width: float, height: float, result: Result) -> Any:
    """Return a figure that is drawn into files and needs no display.

    Args:
        width: inches.
        height: inches of the panels; title and legend come on top.
        result: decides how much these need.
    """
    figures = require("matplotlib.figure", extra="bench", feature="drawing a study")
    above = _LINE * (2.6 if result["warning"] else 1.6)
    below = _LINE * (-(-len(_legend(result)) // _legend_columns(result)) + 0.5)
    whole = height + above + below
    figure = figures.Figure(figsize=(width, whole), dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(
        rect=(0, below / whole, 1, height / whole), w_pad=0.1, h_pad=0.06
    )
    return figure


def _draw(axes: Any, result: Result, class_name: str | None) -> None:
    """Draw every row: of one class, or of the foreground."""
    rows = row_names(result["cells"])
    middle = (len(rows) - 1) / 2
    for place, row in enumerate(rows):
        shift = 2.0 ** (_APART * (place - middle))
        _draw_row(axes, _style(row, result), _points(result, row, class_name), shift)
        _draw_failed(axes, row, result, shift)
    _dress(axes, result, _limits(result, of_classes=class_name is not None))


def _style(row: Row, result: Result) -> dict[str, Any]:
    """Return how matplotlib draws the line of a row."""
    colour, marker, line = _STYLES[row.method]
    rank = 0
    if row.image_size is not None:
        rank = sizes_of(row_names(result["cells"])).index(row.image_size)
        line = _SIZE_LINES[rank]
    return {
        "color": colour,
        "marker": marker,
        "linestyle": line,
        "markerfacecolor": "white" if rank else colour,
        "markeredgecolor": colour if rank else "white",
    }


def _cells(result: Result, row: Row) -> Iterator[Mapping[str, Any]]:
    return (cell for cell in result["cells"] if Row.of(cell) == row)


def _points(result: Result, row: Row, class_name: str | None) -> dict[int, list[float]]:
    """Return the Dice of all seeds by number of volumes, where there is one."""
    points: dict[int, list[float]] = {}
    for cell in _cells(result, row):
        if cell["failed"] is None:
            scores = cell if class_name is None else cell["classes"][class_name]
            if scores["dice"] is not None:
                points.setdefault(cell["volumes"], []).append(scores["dice"])
    return dict(sorted(points.items()))


def _draw_row(axes: Any, style: Mapping[str, Any], points: Points, shift: float) -> None:
    colour = style["color"]
    x = [count * shift for count in points]
    means = [statistic(values).mean for values in points.values()]
    # One seed has no spread: its band has no width.
    spreads = [np.nan_to_num(statistic(values).sd) for values in points.values()]
    if any(spreads):
        axes.fill_between(
            x,
            [mean - spread for mean, spread in zip(means, spreads, strict=True)],
            [mean + spread for mean, spread in zip(means, spreads, strict=True)],
            color=colour,
            alpha=0.11,
            linewidth=0,
        )
    axes.plot(
        x,
        means,
        linewidth=2.0,
        markersize=6.5,
        markeredgewidth=0.8,
        zorder=4,
        **style,
    )
    axes.scatter(
        [place for place, values in zip(x, points.values(), strict=True) for _ in values],
        [value for values in points.values() for value in values],
        s=13,
        color=colour,
        alpha=0.55,
        linewidths=0,
        zorder=3,
    )


def _draw_failed(axes: Any, row: Row, result: Result, shift: float) -> None:
    """Mark cells that have no Dice: below all that do, on the axis itself."""
    failed = [cell["volumes"] for cell in _cells(result, row) if cell["failed"] is not None]
    if failed:
        axes.plot(
            [count * shift for count in failed],
            [0.0] * len(failed),
            linestyle="none",
            marker="x",
            markersize=8,
            markeredgewidth=1.8,
            color=_STYLES[row.method][0],
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            zorder=5,
        )


def _dress(axes: Any, result: Result, limits: tuple[float, float]) -> None:
    """Set scale, ticks, limits and frame of a panel."""
    counts = sorted({cell["volumes"] for cell in result["cells"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xticks([], minor=True)
    axes.set_xlim(counts[0] / 2**0.35, counts[-1] * 2**0.35)
    axes.set_ylim(*limits)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=_FAINT, linewidth=0.8)
    axes.tick_params(axis="both", length=0, labelsize=9, colors=_INK)
    axes.tick_params(axis="x", pad=7)  # room for marks of failed seeds
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)


def _limits(result: Result, *, of_classes: bool) -> tuple[float, float]:
    """Return the lowest and highest Dice to show: whole tenths around all points of all panels."""
    done = [cell for cell in result["cells"] if cell["failed"] is None]
    values = [
        one["dice"] for cell in done for one in (cell["classes"].values() if of_classes else [cell])
    ]
    known = [value for value in values if value is not None] or [0.0, 1.0]
    low, high = int(10 * min(known)) / 10, (int(10 * max(known)) + 1) / 10
    # A point on the very frame would be cut in half.
    return max(0.0, low) - 0.02, min(1.0, high) + 0.02


def _volumes_label(result: Result) -> str:
    validating = len(result["data"]["validation"])
    beside = f" (+ {validating} that choose the epoch)" if validating else ""
    return f"labelled volumes N to learn from{beside}"


def _title(result: Result) -> str:
    encoder, recipe = result["encoder"], result["recipe"]
    parts = [f"Label efficiency: {result['data']['name']}"]
    if encoder is not None:
        parts.append(f"{encoder['name']} at {listed_sizes(result)}")
    return ", ".join([*parts, f"{recipe['steps']} steps, {count_of(recipe['seeds'], 'seed')}"])


def _finish(figure: Any, path: Path, result: Result) -> None:
    """Add title, warning and legend, and write the file."""
    line = _LINE / figure.get_figheight()
    left = 0.12 / figure.get_figwidth()
    title, warning = _title(result), result["warning"] or ""
    # A dollar sign in a name is no formula.
    for number, (text, size, colour) in enumerate(
        ((title, 11.5, _INK), (warning, 10, _WARNING)), start=1
    ):
        shown = figure.text(left, 1 - number * line, text, fontsize=size, color=colour)
        shown.set_parse_math(False)
    figure.legend(
        handles=_legend(result),
        loc="lower center",
        ncols=_legend_columns(result),
        frameon=False,
        fontsize=9,
        handlelength=3.2,
    )
    with atomic_file(path) as temporary:
        figure.savefig(
            temporary,
            format="png",
            facecolor="white",
            metadata={"Title": title, "Description": warning},
        )


def _legend_columns(result: Result) -> int:
    """Names with an image size are longer."""
    return 4 if len(sizes_of(row_names(result["cells"]))) < 2 else 3


def _legend(result: Result) -> list[Any]:
    lines = require("matplotlib.lines", extra="bench", feature="drawing a study")
    handles = []
    for row, name in row_names(result["cells"]).items():
        handles.append(lines.Line2D([], [], label=name, **_style(row, result)))
    if result["recipe"]["seeds"] > 1:
        handles.append(
            lines.Line2D(
                [], [], color=_SOFT, marker=".", linestyle="none", label="a seed; band: mean ± sd"
            )
        )
    if any(cell["failed"] is not None for cell in result["cells"]):
        handles.append(
            lines.Line2D([], [], color=_SOFT, marker="x", linestyle="none", label="failed seed")
        )
    return handles
