"""What `autosam-predict` did, as a table and as JSON."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from autosam_deploy.cli.labelling import Run
from autosam_deploy.files import write_json


def write_report(path: Path, run: Run) -> None:
    """Write the run as JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    write_json(path, run.as_dict())


def show_cases(console: Console, run: Run) -> None:
    """Print one row a case."""
    table = Table(title=f"{run.bundle}", title_justify="left")
    for column in ("case", "status", "slices", "axis", "s", "ml", "labels"):
        right = column in ("slices", "s", "ml")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for case in run.cases:
        table.add_row(
            case.name,
            case.status,
            "-" if case.slices is None else str(case.slices),
            case.axis or "-",
            f"{sum(case.seconds.values()):.1f}" if case.seconds else "-",
            f"{sum(case.ml.values()):.1f}" if case.ml else "-",
            case.output if case.status != "failed" else "-",
        )
    console.print(table)
    counts = {s: sum(c.status == s for c in run.cases) for s in ("labelled", "skipped", "failed")}
    listed = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    console.print(f"{listed} in {run.seconds:.1f} s. {run.intended_use}")
