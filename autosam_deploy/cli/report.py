"""What `autosam-predict` did, as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from autosam_deploy import __version__
from autosam_deploy.files import write_json

Status = Literal["labelled", "skipped", "failed", "stopped"]


@dataclass
class CaseResult:
    """What became of one case. Times are seconds; `ml` is millilitres per class name.

    seconds: `load`, `run` and `write`, each as long as it took; those of one case overlap with
    those of others, so that their sum may exceed the time of the whole run.
    flat_slices: how many were made background without a run; None where that was not asked for.
    batch: slices of the largest batch that ran. status "stopped" is a case that was under way when
    the run ended before its time.
    """

    name: str
    input: str
    output: str
    status: Status = "stopped"
    error: str | None = None
    shape: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    axis: str | None = None
    slices: int | None = None
    batch: int | None = None
    flat_slices: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    voxels: dict[str, int] = field(default_factory=dict)
    ml: dict[str, float] = field(default_factory=dict)
    preview: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Run:
    """One call of the command; `complete` tells whether every case was looked at."""

    bundle: str
    name: str
    manifest_sha256: str
    intended_use: str
    engine: dict[str, Any]
    cases: list[CaseResult] = field(default_factory=list)
    planned: int = 0
    complete: bool = False
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the run as JSON values."""
        return {"tool": f"autosam-predict {__version__}", **asdict(self)}


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
            # A case whose picture failed has its labels all the same.
            case.output if case.ml or case.status == "skipped" else "-",
        )
    console.print(table)
    if flat := sum(case.flat_slices or 0 for case in run.cases):
        console.print(f"{flat} slices that hold one value were made background without a run.")
    counts = {s: sum(c.status == s for c in run.cases) for s in ("labelled", "skipped", "failed")}
    listed = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    console.print(f"{listed} in {run.seconds:.1f} s. {run.intended_use}", highlight=False)
