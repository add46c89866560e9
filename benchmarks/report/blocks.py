"""What a report is made of: headings, sentences, tables and figures, before any markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Text:
    """A paragraph. `kind` "warning" stands out."""

    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    lines: Sequence[str]
    kind: str = "plain"


@dataclass(frozen=True)
class Code:
    """Something to copy."""

    text: str


@dataclass(frozen=True)
class Grid:
    """A table.

    left: columns that are words. marks: state of every row, for its colour, which the column
    `badge` shows most.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int] = frozenset({0})
    marks: Sequence[str] = ()
    badge: int | None = None

    def without_empty(self, nothing: str) -> Grid:
        """Return the table without the columns in which every cell is `nothing`."""
        kept = [
            n
            for n in range(len(self.columns))
            if not self.rows or any(cells[n] != nothing for cells in self.rows)
        ]
        return Grid(
            [self.columns[n] for n in kept],
            [[cells[n] for n in kept] for cells in self.rows],
            frozenset(place for place, n in enumerate(kept) if n in self.left),
            self.marks,
            None if self.badge is None else kept.index(self.badge),
        )


@dataclass(frozen=True)
class Picture:
    """A plot by its name in `plots.PLOTS`, or a PNG in base64."""

    caption: str
    plot: str | None = None
    png: str | None = None


Block = Text | Bullets | Code | Grid | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block] = field(default=())
