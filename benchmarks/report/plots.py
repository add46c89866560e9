"""Plots of a report as SVG, to be set into a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from autosam_deploy.benchmarks.harness.record import Report, Row
from autosam_deploy.benchmarks.report.cells import number, row_name
from autosam_deploy.extras import require

#: Okabe & Ito's palette, told apart with colour-deficient sight: ours, and peers in grey.
_OURS = ("#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00", "#56b4e9")
_PEER, _INK, _SOFT, _FAINT = "#9a9a9a", "#222222", "#666666", "#e6e6e6"
_WIDTH = 8.4
#: Beyond this ratio of the slowest to the fastest a linear axis shows nothing of the fast ones.
_LOG_BEYOND = 12


def latency(report: Report) -> str:
    """Draw every run of every row as a dot, with median and quartiles."""
    rows = [row for row in report.rows if row.latency is not None]
    figure, axes = _figure(0.42 * len(rows) + 0.75)
    random = np.random.default_rng(0)
    for place, row in enumerate(rows):
        values = np.asarray(row.latency.samples_ms if row.latency else [])
        colour = colour_of(row, report)
        spread = random.uniform(-0.16, 0.16, len(values))
        axes.plot(values, place + spread, "o", ms=2.6, alpha=0.35, mew=0, color=colour)
        low, middle, high = np.percentile(values, (25, 50, 75))
        axes.plot([low, high], [place, place], "-", lw=5, alpha=0.45, color=colour)
        axes.plot([middle], [place], "|", ms=17, mew=2.4, color=colour)
        axes.annotate(
            number(float(middle)),
            (middle, place),
            xytext=(0, 10),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color=_INK,
        )
    medians = [row.latency.p50_ms for row in rows if row.latency]
    _scale(axes, medians)
    _label_rows(axes, rows, report)
    axes.set_xlabel("ms a slice", color=_SOFT)
    return _svg(figure, "latency")


def throughput(report: Report) -> str:
    """Draw slices a second: against the batch size, or as bars where there is one size."""
    rows = [row for row in report.rows if row.latency is not None]
    if len({row.batch for row in rows}) < 2:
        values = [row.latency.slices_per_second for row in rows if row.latency]
        return _bars(rows, values, report, "slices a second", "throughput")
    figure, axes = _figure(3.2)
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(row_name(row, report).rpartition(", batch")[0], []).append(row)
    for name, found in lines.items():
        ordered = sorted(found, key=lambda row: row.batch)
        axes.plot(
            [row.batch for row in ordered],
            [row.latency.slices_per_second for row in ordered if row.latency],
            "o-",
            color=colour_of(ordered[0], report),
            label=name,
            ms=5,
            lw=1.8,
        )
    batches = sorted({row.batch for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("batch, slices", color=_SOFT)
    axes.set_ylabel("slices a second", color=_SOFT)
    axes.legend(frameon=False, fontsize=8.5)
    return _svg(figure, "throughput")


def memory(report: Report) -> str:
    """Draw the peak memory of every row's process."""
    rows = [row for row in report.rows if row.memory is not None]
    values = [row.memory.peak_mib for row in rows if row.memory]
    return _bars(rows, values, report, "peak resident memory, MiB", "memory")


PLOTS: dict[str, Callable[[Report], str]] = {
    "latency": latency,
    "throughput": throughput,
    "memory": memory,
}


def colour_of(row: Row, report: Report) -> str:
    """Return a row's colour: one a backend and precision, the same in all plots."""
    if row.role == "peer":
        return _PEER
    kinds = list(
        dict.fromkeys(
            (one.bundle, one.backend, one.precision) for one in report.rows if one.role == "bundle"
        )
    )
    return _OURS[kinds.index((row.bundle, row.backend, row.precision)) % len(_OURS)]


def _bars(
    rows: Sequence[Row], values: Sequence[float], report: Report, label: str, name: str
) -> str:
    figure, axes = _figure(0.36 * len(rows) + 0.75)
    colours = [colour_of(row, report) for row in rows]
    axes.barh(range(len(rows)), values, color=colours, height=0.62, alpha=0.9)
    for place, value in enumerate(values):
        axes.annotate(
            number(value),
            (value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=_INK,
        )
    axes.margins(x=0.1)
    _label_rows(axes, rows, report)
    axes.set_xlabel(label, color=_SOFT)
    return _svg(figure, name)


def _figure(height: float) -> tuple[Any, Any]:
    figures = require("matplotlib.figure", extra="bench", feature="drawing a report")
    figure = figures.Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.tick_params(length=0, labelsize=9, labelcolor=_INK)
    axes.grid(axis="x", color=_FAINT, lw=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _scale(axes: Any, medians: Sequence[float]) -> None:
    if max(medians) > _LOG_BEYOND * min(medians):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    else:
        axes.set_xlim(left=0)


def _label_rows(axes: Any, rows: Sequence[Row], report: Report) -> None:
    axes.set_yticks(range(len(rows)), [row_name(row, report) for row in rows])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.set_ylim(len(rows) - 0.4, -0.7)


def _svg(figure: Any, name: str) -> str:
    """Return the figure as an SVG element whose parts are named like those of no other."""
    matplotlib = require("matplotlib", extra="bench", feature="drawing a report")
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": f"autosam-{name}"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # The page decides how wide it is; the drawing keeps its proportions.
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
