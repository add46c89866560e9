"""The tables of a study: methods by numbers of volumes. For the terminal and for Markdown alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

Entry = Mapping[str, Any]
NOTHING = "–"


@dataclass(frozen=True)
class Slot:
    """One place of a table; the best of a column is bold."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a row a method.

    rows: name of the method and its slots, in the order of `header`.
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
            shown = (f"**{slot.text}**" if slot.bold else slot.text for slot in slots)
            lines.append(f"| {name} | {' | '.join(shown)} |")
        return "\n".join(lines)

    def rich(self) -> RichTable:
        """Return it for the terminal."""
        table = RichTable(title=self.title, title_justify="left", box=box.SIMPLE, pad_edge=False)
        table.add_column("method", no_wrap=True)
        for head in self.header:
            table.add_column(head, justify="right", no_wrap=True)
        for name, slots in self.rows:
            table.add_row(name, *(Text(one.text, "bold" if one.bold else "") for one in slots))
        return table


def dice_table(result: Mapping[str, Any]) -> Table:
    """Return Dice: mean and standard deviation over seeds, the highest mean of a column bold.

    Where a seed failed, the rest do not compete.
    """
    return _table(
        result,
        "Dice on the test volumes",
        lambda one: _score(one, "dice", 3),
        rank=lambda one: None if one["failed"] else _mean(one, "dice"),
    )


def distance_table(result: Mapping[str, Any]) -> Table:
    """Return HD95 in mm, the lowest mean of a column bold.

    A structure that was missed has no distance, so that where some were, the mean of the rest does
    not compete.
    """

    def show(one: Entry) -> str:
        text = _score(one, "hd95_mm", 2)
        return f"{text} ({one['missed']} missed)" if one["missed"] else text

    def rank(one: Entry) -> float | None:
        mean = _mean(one, "hd95_mm")
        return None if mean is None or one["failed"] or one["missed"] else -mean

    return _table(result, "HD95 on the test volumes, mm", show, rank=rank)


def seconds_table(result: Mapping[str, Any]) -> Table:
    """Return the seconds that training a cell takes, without embeddings and pretraining."""

    def show(one: Entry) -> str:
        seconds = _mean(one, "seconds")
        return NOTHING if seconds is None else f"{seconds:.{1 if seconds < 10 else 0}f}"

    return _table(result, "Training, seconds a cell", show, rank=lambda _: None)


def _table(
    result: Mapping[str, Any],
    title: str,
    show: Callable[[Entry], str],
    *,
    rank: Callable[[Entry], float | None],
) -> Table:
    """Return a table with what `show` says, and the highest of a column by `rank` bold."""
    entries = {(one["method"], one["volumes"]): one for one in result["summary"]}
    counts = sorted({volumes for _, volumes in entries})
    methods = list(dict.fromkeys(method for method, _ in entries))
    slots: dict[str, list[Slot]] = {method: [] for method in methods}
    for count in counts:
        ranks = {method: rank(entries[method, count]) for method in methods}
        best = max((one for one in ranks.values() if one is not None), default=None)
        for method in methods:
            bold = best is not None and ranks[method] == best
            slots[method].append(Slot(show(entries[method, count]), bold))
    return Table(
        title,
        tuple(f"N = {count}" for count in counts),
        tuple((method, tuple(row)) for method, row in slots.items()),
    )


def _mean(entry: Entry, key: str) -> float | None:
    mean: float | None = entry[key]["mean"]
    return mean


def _score(entry: Entry, key: str, digits: int) -> str:
    """Return "0.712 ± 0.031", and how many seeds failed."""
    failed, spread = len(entry["failed"]), entry[key]
    if failed == entry["seeds"]:
        return "failed"
    text = NOTHING if spread["mean"] is None else f"{spread['mean']:.{digits}f}"
    if spread["sd"] is not None:
        text += f" ± {spread['sd']:.{digits}f}"
    return f"{text} ({failed} of {entry['seeds']} failed)" if failed else text
