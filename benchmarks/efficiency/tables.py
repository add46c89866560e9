"""The tables of a study: a row a method (and image size), a column a number of volumes.

For the terminal and for Markdown alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from autosam_deploy.benchmarks.efficiency.rows import Row, row_names, sizes_of
from autosam_deploy.metrics.summary import statistic
from autosam_deploy.models.image_size import show_image_size

Entry = Mapping[str, Any]
NOTHING = "-"
#: Characters of a number.
_NUMBER = 5


@dataclass(frozen=True)
class Slot:
    """One place of a table: a number, what must be known about it, and whether it is the best."""

    text: str
    note: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a row a method and image size.

    rows: name of the row and its slots, in the order of `header`.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Slot, ...]], ...]

    def markdown(self) -> str:
        """Return it as Markdown, without its title."""
        lines = [
            f"| method | {' | '.join(self.header)} |",
            f"|---|{'---:|' * len(self.header)}",
        ]
        for name, slots in self.rows:
            shown = []
            for slot in slots:
                text = f"**{slot.text}**" if slot.bold else slot.text
                shown.append(f"{text} ({slot.note})" if slot.note else text)
            lines.append(f"| {name} | {' | '.join(shown)} |")
        return "\n".join(lines)

    def rich(self) -> RichTable:
        """Return it for the terminal, without its title; notes are below their numbers."""
        table = RichTable(box=box.SIMPLE, pad_edge=False)
        table.add_column("method", no_wrap=True)
        for head in self.header:
            # Where room is short, mean and spread go on two lines; no number is cut off.
            table.add_column(head, justify="right", overflow="fold", min_width=_NUMBER)
        for name, slots in self.rows:
            table.add_row(name, *(_show(slot) for slot in slots))
        return table


def _show(slot: Slot) -> Text:
    text = Text(slot.text, "bold" if slot.bold else "")
    return text.append(f"\n{slot.note}", "dim") if slot.note else text


def dice_table(result: Mapping[str, Any]) -> Table:
    """Return Dice: mean and standard deviation over seeds, the highest mean of a column bold.

    Where a seed failed, the rest do not compete.
    """
    return _table(
        result,
        "Dice on the test volumes",
        lambda one: (_score(one, "dice", 3), _failed(one)),
        rank=lambda one: None if one["failed"] else _mean(one, "dice"),
    )


def distance_table(result: Mapping[str, Any]) -> Table:
    """Return HD95 in mm, the lowest mean of a column bold.

    A structure that was missed has no distance, so that where some were, the mean of the rest does
    not compete.
    """

    def show(one: Entry) -> tuple[str, str]:
        missed = f"{one['missed']} of {one['structures']} missed" if one["missed"] else ""
        return _score(one, "hd95_mm", 2), ", ".join(filter(None, (_failed(one), missed)))

    def rank(one: Entry) -> float | None:
        mean = _mean(one, "hd95_mm")
        return None if mean is None or one["failed"] or one["missed"] else -mean

    return _table(result, "HD95 on the test volumes, mm", show, rank=rank)


def seconds_table(result: Mapping[str, Any]) -> Table:
    """Return the seconds that training a cell takes, without embeddings and pretraining."""

    def show(one: Entry) -> tuple[str, str]:
        seconds = _mean(one, "seconds")
        return (NOTHING if seconds is None else f"{seconds:.{1 if seconds < 10 else 0}f}"), ""

    return _table(result, "Training, seconds a cell", show, rank=lambda _: None)


def size_table(result: Mapping[str, Any]) -> Table | None:
    """Return what heads gain or lose in Dice at smaller image sizes, None where there is one size.

    Differences to the largest size are taken seed by seed: the two share volumes, first weights
    and order, so that their spread is that of the size alone.
    """
    names = row_names(result["cells"])
    sizes = sizes_of(names)
    if len(sizes) < 2:
        return None
    dice = {
        (Row.of(cell), cell["volumes"], cell["seed"]): cell["dice"]
        for cell in result["cells"]
        if cell["failed"] is None and cell["dice"] is not None
    }
    counts = sorted({cell["volumes"] for cell in result["cells"]})
    seeds = sorted({cell["seed"] for cell in result["cells"]})

    def slot(row: Row, count: int) -> Slot:
        whole = Row(row.method, sizes[0])
        pairs = [
            dice[row, count, seed] - dice[whole, count, seed]
            for seed in seeds
            if (row, count, seed) in dice and (whole, count, seed) in dice
        ]
        found = statistic(pairs)
        if not pairs:
            return Slot(NOTHING)
        spread = "" if math.isnan(found.sd) else f" ± {found.sd:.3f}"
        missing = f"{found.n} of {len(seeds)} seeds" if found.n < len(seeds) else ""
        return Slot(f"{found.mean:+.3f}{spread}", missing)

    return Table(
        f"Difference in Dice to {show_image_size(sizes[0])}",
        tuple(f"N = {count}" for count in counts),
        tuple(
            (name, tuple(slot(row, count) for count in counts))
            for row, name in names.items()
            if row.image_size not in (None, sizes[0])
        ),
    )


def _table(
    result: Mapping[str, Any],
    title: str,
    show: Callable[[Entry], tuple[str, str]],
    *,
    rank: Callable[[Entry], float | None],
) -> Table:
    """Return a table: `show` gives text and note, the highest of a column by `rank` is bold."""
    entries = {(Row.of(one), one["volumes"]): one for one in result["summary"]}
    counts = sorted({volumes for _, volumes in entries})
    names = row_names(result["summary"])
    slots: dict[Row, list[Slot]] = {row: [] for row in names}
    for count in counts:
        ranks = {row: rank(entries[row, count]) for row in names}
        best = max((one for one in ranks.values() if one is not None), default=None)
        for row in names:
            bold = best is not None and ranks[row] == best
            slots[row].append(Slot(*show(entries[row, count]), bold))
    return Table(
        title,
        tuple(f"N = {count}" for count in counts),
        tuple((names[row], tuple(shown)) for row, shown in slots.items()),
    )


def _mean(entry: Entry, key: str) -> float | None:
    mean: float | None = entry[key]["mean"]
    return mean


def _score(entry: Entry, key: str, digits: int) -> str:
    """Return "0.712 ± 0.031"."""
    if len(entry["failed"]) == entry["seeds"]:
        return "failed"
    spread = entry[key]
    text = NOTHING if spread["mean"] is None else f"{spread['mean']:.{digits}f}"
    return text if spread["sd"] is None else f"{text} ± {spread['sd']:.{digits}f}"


def _failed(entry: Entry) -> str:
    """Return how many seeds failed, if some did and some did not."""
    failed = len(entry["failed"])
    return f"{failed} of {entry['seeds']} failed" if 0 < failed < entry["seeds"] else ""
