"""Tables on the terminal for what export, inspect and verify found."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from autosam_deploy.bundle.manifest import Artefact
    from autosam_deploy.export.pipeline import Result
    from autosam_deploy.parity import Comparison


def show_facts(console: Console, facts: dict[str, Any]) -> None:
    """Print facts as a two-column table; nested values on lines of their own."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), _plain(value))
    console.print(table)


def _plain(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{k}={_plain(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, list):
        joint = "\n" if any(isinstance(entry, dict) for entry in value) else ", "
        return joint.join(_plain(entry) for entry in value)
    return str(value)


def show_result(console: Console, result: Result) -> None:
    """Print what an export wrote and how its graphs compare with the segmenter."""
    table = Table(title=f"parity with PyTorch on {result.record.inputs}", title_justify="left")
    for column in ("graph", "MB", "max |d|", "gate", "labels =", "ties", "Dice", "verdict"):
        table.add_column(column, justify="right", no_wrap=True)
    graphs = {a.file.path: a for a in result.manifest.artefacts}
    for comparison in result.record.comparisons:
        table.add_row(*_row(graphs[comparison.artefact], comparison))
    console.print(table)
    console.print(
        "max |d|: largest logit difference; gate: twice what plain PyTorch errs in that precision; "
        "labels = and Dice (worst class): without ties, pixels that rounding may decide.",
        style="dim",
    )
    for artefact in result.manifest.artefacts:
        if artefact.typing is not None:
            console.print(_islands(artefact))
    for note in result.notes:
        console.print(f"note: {note}", style="yellow")
    if not result.manifest.trained:
        console.print("random weights: good for latency, not for labels", style="yellow")
    size = sum(ref.bytes for ref in result.manifest.files()) / 1e6
    console.print(f"wrote {result.path} ({size:.1f} MB) in {sum(result.seconds.values()):.0f} s")


def _row(artefact: Artefact, comparison: Comparison) -> list[str]:
    size = artefact.file.bytes + (artefact.external_data.bytes if artefact.external_data else 0)
    scores = [score for score in comparison.dice if score is not None]

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        comparison.precision,
        f"{size / 1e6:.1f}",
        number(comparison.required_tolerance, ".1e"),
        f"{comparison.gate:.1e}",
        number(comparison.agreement, ".3%"),
        number(comparison.ties, ".2%"),
        f"{min(scores):.4f}" if scores else "-",
        "passed" if comparison.passed else ", ".join(comparison.failures),
    ]


def _islands(artefact: Artefact) -> str:
    """Say how much of a graph is in low precision, and what is not."""
    if artefact.typing is None:
        return ""
    reasons = Counter(island.reason for island in artefact.typing.islands)
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    share = f"{artefact.typing.share:.0%}"
    return f"{artefact.precision}: {share} of nodes; float32 islands: {listed}"
