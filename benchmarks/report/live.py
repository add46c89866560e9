"""A run as it goes: a table that fills on a terminal, a line a step elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from autosam_deploy.benchmarks.harness.record import Report, Row
from autosam_deploy.benchmarks.report.blocks import Grid
from autosam_deploy.benchmarks.report.cells import (
    NONE,
    number,
    row_name,
    state,
    tolerance,
    why,
)
from autosam_deploy.benchmarks.report.content import main_table, reasons_of

#: Columns of a terminal that the whole table needs, and that most of it needs.
_WIDE, _NARROW = 200, 116
_STYLES = {
    "passed": "green",
    "parity": "bold red",
    "failed": "bold red",
    "missed": "yellow",
    "unavailable": "dim",
    "measured": "dim",
}


class Progress:
    """The listener of a run at a command line."""

    def __init__(self, console: Console) -> None:
        """Take where to show it."""
        self.console = console
        self.rows: dict[str, Row] = {}
        self.step = ""
        self._live = (
            Live(console=console, transient=True, refresh_per_second=4, get_renderable=self._render)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        """Begin."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Show a step."""
        self.step = text
        if self._live is None:
            self.console.print(f"{text} ...", highlight=False, soft_wrap=True)

    def changed(self, row: Row, done: bool) -> None:
        """Show a row."""
        new = row.key not in self.rows
        self.rows[row.key] = row
        if self._live is not None:
            if new:
                self.step = f"{row.key}: loading, warming up, comparing"
            elif row.latency is not None and not done:
                self.step = "rows take turns"
        elif done:
            self.console.print(line(row), highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("row", "so far", "Δlogit / gate", "ms a slice", "runs", "MiB"):
            table.add_column(name, justify="left" if name in ("row", "so far") else "right")
        for row in self.rows.values():
            table.add_row(
                row.key,
                Text(so_far(row), _STYLES.get(row.status, "")),
                tolerance(row),
                NONE if row.latency is None else number(row.latency.p50_ms),
                NONE if row.latency is None else str(row.latency.runs),
                NONE if row.memory is None else number(row.memory.peak_mib, 4),
            )
        return Group(table, Spinner("dots", text=Text(f" {self.step}", "dim")))


def so_far(row: Row) -> str:
    """Say what is known of a row before it is judged."""
    if row.status == "running" and row.parity:
        kinds = dict.fromkeys(kind for one in row.parity for kind in one.failures)
        if kinds and row.role == "bundle":
            return f"parity failed: {', '.join(kinds)}"
        return "agrees" if row.role == "bundle" else "peer"
    return state(row)


def line(row: Row) -> str:
    """Return one line for a finished row."""
    reason = why(row) if row.status in ("unavailable", "failed") else ""
    parts = [f"{row.key}: {so_far(row)}{f': {reason}' if reason else ''}"]
    if row.latency is not None:
        parts.append(f"{number(row.latency.p50_ms)} ms a slice in {row.latency.runs} runs")
    if row.memory is not None:
        parts.append(f"{number(row.memory.peak_mib, 4)} MiB")
    return ", ".join(parts)


def show(console: Console, report: Report) -> None:
    """Print the table and what it comes to."""
    console.print(rich_table(_fitting(report, console.width)))
    for text in reasons_of(report):
        console.print(Text(text, "yellow"), soft_wrap=True)
    for row in report.rows:
        if row.warnings:
            text = f"{row_name(row, report)}: {'; '.join(row.warnings)}"
            console.print(Text(text, "dim"), soft_wrap=True)
    for text in report.warnings:
        console.print(Text(text, "yellow"), soft_wrap=True)
    if report.baseline is not None:
        if report.baseline.refused is not None:
            refused = f"absolute numbers were not compared: {report.baseline.refused}"
            console.print(Text(refused, "yellow"), soft_wrap=True)
        for one in report.baseline.changes:
            remark = f" ({one.detail})" if one.detail else ""
            text = f"{one.key}: {one.what} {one.change:+.1%} since the baseline: {one.verdict}"
            console.print(text + remark, highlight=False, soft_wrap=True)
    style = "bold green" if report.exit_code == 0 else "bold red"
    console.print(Text(report.verdict, style), soft_wrap=True)


def _fitting(report: Report, width: int) -> Grid:
    return main_table(report) if width >= _WIDE else short_table(report, width)


def short_table(report: Report, width: int) -> Grid:
    """Return what fits a narrow terminal of the main table."""
    table = main_table(report)
    names = ["Status", "Dice vs torch", "labels equal", "max Δlogit / gate", "of roofline"]
    names += ["peak MiB", "times anchor", "targets"]
    if width < _NARROW:
        names = ["Status", "max Δlogit / gate", "peak MiB", "times anchor"]
    places = [table.columns.index(name) for name in names if name in table.columns]
    rows = []
    for row, cells in zip(report.rows, table.rows, strict=True):
        middle = NONE if row.latency is None else number(row.latency.p50_ms)
        name = row_name(row, report).replace(", batch ", " b")
        # Which kinds of failure stands below the table.
        status, *others = (cells[n] for n in places)
        rows.append([name, status.partition(":")[0], *others, middle])
    shown = [table.columns[n].replace("max ", "").replace("vs torch", "") for n in places]
    return Grid(
        ["row", *shown, "ms a slice"], rows, frozenset({0, 1}), table.marks, badge=1
    ).without_empty(NONE)


def rich_table(grid: Grid) -> Table:
    """Return a table for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    for n, name in enumerate(grid.columns):
        table.add_column(
            name, justify="left" if n in grid.left else "right", no_wrap=n in (0, grid.badge)
        )
    for place, cells in enumerate(grid.rows):
        style = _STYLES.get(grid.marks[place], "") if grid.marks else ""
        table.add_row(
            *(Text(cell, style if n == grid.badge else "") for n, cell in enumerate(cells))
        )
    return table
