"""Golden slices and boundaries of blocks as tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from autosam_deploy.export.checks.bisection import Bisection, Tap
    from autosam_deploy.export.checks.golden import Verification

#: Boundaries of vit_b, which fit on a screen; deeper encoders show as many.
MAX_ROWS = 17


def show_verification(console: Console, verification: Verification) -> None:
    """Print the golden cases of a bundle on a backend."""
    info = verification.info
    table = Table(
        title=f"golden slices on {info.backend}, {info.device}, {info.precision} ({info.reason})",
        title_justify="left",
    )
    for column in ("case", "shape", "labels equal", "|dlogit| max", "gate", "verdict"):
        table.add_column(column, justify="right")
    for result in verification.results:
        difference = result.max_logit_difference
        table.add_row(
            result.name,
            "x".join(map(str, result.shape)),
            f"{result.agreement:.4%}",
            "-" if difference is None else f"{difference:.2e}",
            f"{verification.gate:.2e}",
            "passed" if verification.case_passed(result) else "FAILED",
        )
    console.print(table)


def shown(taps: tuple[Tap, ...], *, limit: int = MAX_ROWS) -> tuple[Tap, ...]:
    """Choose the rows to print: both ends, the first that is off with its neighbours, even steps.

    Args:
        taps: all boundaries.
        limit: rows at most (rows around the first that is off come on top).

    Returns:
        The chosen taps in their order.
    """
    last = len(taps) - 1
    if last < limit:
        return taps
    chosen = {round(index * last / (limit - 1)) for index in range(limit)}
    bad = next((index for index, tap in enumerate(taps) if not tap.passed), None)
    if bad is not None:
        chosen |= {max(0, bad - 1), bad, min(last, bad + 1)}
    return tuple(taps[index] for index in sorted(chosen))


def show_bisection(console: Console, bisection: Bisection, *, golden_passed: bool) -> None:
    """Print every boundary and which block is the first to be off.

    Args:
        console: where to.
        bisection: the result.
        golden_passed: whether the golden slices passed on the graph without taps.
    """
    info = bisection.info
    table = Table(
        title=f"blocks of {bisection.artefact} on {info.backend}, {info.device} against PyTorch",
        title_justify="left",
    )
    table.add_column("behind", no_wrap=True)
    # Without shapes, which are in the JSON, the table fits on 80 columns.
    for column in ("|d| max", "allowed", "rel. L2", "allowed", "cosine", "verdict"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = shown(bisection.taps)
    for tap in rows:
        first = tap.name == bisection.first_bad
        table.add_row(*_row(tap, first=first), style="bold red" if first else None)
    console.print(table)
    if hidden := len(bisection.taps) - len(rows):
        console.print(f"{hidden} more boundaries are left out here; --json has all", style="dim")
    for note in bisection.notes:
        console.print(f"note: {note}", style="yellow", soft_wrap=True)
    console.print(conclusion(bisection, golden_passed=golden_passed), soft_wrap=True)


def conclusion(bisection: Bisection, *, golden_passed: bool) -> str:
    """Say in one sentence what the bisection found."""
    names = [tap.name for tap in bisection.taps]
    bad = bisection.first_bad
    if bad is None and golden_passed:
        return "every block agrees with PyTorch"
    if bad is None:
        return (
            "every block agrees with PyTorch once its result is an output, yet the golden slices "
            "fail: the runtime goes wrong where it fuses across blocks, or the golden files differ"
        )
    before = names.index(bad)
    where = f"behind '{names[before - 1]}', which agrees" if before else "at the very start"
    tap = bisection.taps[before]
    how = (
        "its values are not finite"
        if not tap.finite
        else f"it is off by {tap.excess:.3g} times what is allowed"
    )
    passes = "; the golden slices pass all the same" if golden_passed else ""
    return f"the first block that disagrees is '{bad}', {where}: {how}{passes}"


def _row(tap: Tap, *, first: bool) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        tap.name,
        number(tap.max_abs, ".1e") if tap.finite else "nan/inf",
        f"{tap.tolerance:.1e}",
        number(tap.rel_l2, ".1e"),
        f"{tap.rel_tolerance:.1e}",
        number(tap.cosine, ".4f"),
        "passed" if tap.passed else "FAILED" if first else "off",
    ]
