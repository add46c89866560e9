"""The rows of tables and lines of plots: a method, and for heads the encoder's input size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autosam_deploy.benchmarks.efficiency.plan import row_name
from autosam_deploy.models.image_size import ImageSize, show_image_size


@dataclass(frozen=True)
class Row:
    """What one row shows; `image_size` is None for methods that have no encoder."""

    method: str
    image_size: ImageSize | None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Row:
        """Return the row of a cell, or of an entry of the summary."""
        size = record["image_size"]
        return cls(record["method"], None if size is None else (size[0], size[1]))


def row_names(records: Iterable[Mapping[str, Any]]) -> dict[Row, str]:
    """Return the rows of cells or of a summary in their order, and what people call them.

    Sizes are named where there are several; a single one stands in the title.
    """
    rows = list(dict.fromkeys(Row.of(record) for record in records))
    several = len(sizes_of(rows)) > 1
    return {row: row_name(row.method, row.image_size if several else None) for row in rows}


def sizes_of(rows: Iterable[Row]) -> list[ImageSize]:
    """Return the image sizes of some rows, the largest first."""
    sizes = {row.image_size for row in rows if row.image_size is not None}
    return sorted(sizes, key=lambda size: (size[0] * size[1], size), reverse=True)


def listed_sizes(result: Mapping[str, Any]) -> str:
    """Return the image sizes of a study as people read them ("1024x1024 and 512x512")."""
    shown = [show_image_size(size) for size in sizes_of(row_names(result["cells"]))]
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))
