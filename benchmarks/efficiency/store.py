"""A study's folder: one file a finished cell, so that a study that was killed can go on.

OUT/cells/<method>-<size>-n<volumes>-s<seed>.json  a finished cell, with what decided it
OUT/pretraining/seed-<seed>.safetensors, .json  a pretrained encoder, likewise
OUT/embeddings/<height>x<width>.json            what the embeddings of an image size took
OUT/label-efficiency.json, report.md, *.png     the result, written when all cells are done
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autosam_deploy.benchmarks.efficiency.plan import Cell
from autosam_deploy.errors import OutputError
from autosam_deploy.files import write_json
from autosam_deploy.models.image_size import ImageSize, show_image_size

CELLS, PRETRAINING, EMBEDDINGS = "cells", "pretraining", "embeddings"
RESULT_FILE, REPORT_FILE = "label-efficiency.json", "report.md"
DICE_PLOT, CLASSES_PLOT = "dice.png", "classes.png"

#: Everything that decides a cell, by the words of an error: what -> value.
Fingerprint = Mapping[str, str]

#: Characters of a value, and differences, that a message shows.
_SHOWN, _DIFFERENCES = 24, 3


class Store:
    """The folder of one study."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is written yet."""
        self.folder = folder

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse to mix a study with what lies in its folder.

        Raises:
            OutputError: there is something already and nobody said what to do with it; or there is
                no study to go on with.
        """
        begun = (self.folder / CELLS).is_dir()
        if resume and not begun:
            raise OutputError(
                f"nothing to resume in '{self.folder}'",
                got="no cells of a study",
                todo="leave --resume out",
            )
        if resume or overwrite or not self.folder.exists():
            return
        # Folders without a file are what a study leaves that ended before its first cell.
        if not self.folder.is_dir() or any(path.is_file() for path in self.folder.rglob("*")):
            raise OutputError(
                f"'{self.folder}' {'holds a study' if begun else 'is there'} already",
                todo=(
                    "go on with --resume, start anew with --overwrite"
                    if begun
                    else "add --overwrite"
                )
                + ", or choose another folder with --out",
            )

    def clear(self) -> None:
        """Remove an earlier study; files that no study writes stay.

        Raises:
            OutputError: it cannot be removed.
        """
        try:
            for name in (CELLS, PRETRAINING, EMBEDDINGS):
                if (self.folder / name).is_dir():
                    shutil.rmtree(self.folder / name)
            for name in (RESULT_FILE, REPORT_FILE, DICE_PLOT, CLASSES_PLOT):
                (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot remove the earlier study in '{self.folder}'",
                got=error.strerror or str(error),
                todo="choose another folder with --out",
            ) from error

    def begin(self) -> None:
        """Make the folder.

        Raises:
            OutputError: it cannot be made.
        """
        try:
            (self.folder / CELLS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot write into '{self.folder}'",
                got=error.strerror or str(error),
                todo="choose another folder with --out",
            ) from error

    def load(self, cell: Cell, fingerprint: Fingerprint) -> dict[str, Any] | None:
        """Return the record of a finished cell, None where there is none.

        Raises:
            OutputError: the file cannot be read, or something else decided that cell.
        """
        return read_record(self._path(cell), fingerprint, what=f"the finished cell '{cell}'")

    def save(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """Write the record of a finished cell.

        Raises:
            OutputError: it cannot be written.
        """
        write_json(self._path(cell), record)

    def embeddings(self, size: ImageSize) -> dict[str, Any] | None:
        """Return what the embeddings of an image size took, None where none was ever needed.

        Raises:
            OutputError: the file cannot be read.
        """
        return read_record(self._embeddings_path(size), {}, what="the record of embeddings")

    def add_embeddings(self, size: ImageSize, made: Mapping[str, Any]) -> None:
        """Add what this process did for the embeddings of a size to what earlier ones did.

        Args:
            size: (height, width) of the encoder's input.
            made: record of `Material.embed`.

        Raises:
            OutputError: the file cannot be read or written.
        """
        before = self.embeddings(size)
        total = {"fingerprint": {}, **made}
        for key in ("computed", "seconds"):
            total[key] += 0 if before is None else before[key]
        total["runtime"] = made["runtime"] or (before or {}).get("runtime")
        write_json(self._embeddings_path(size), total)

    def _embeddings_path(self, size: ImageSize) -> Path:
        return self.folder / EMBEDDINGS / f"{show_image_size(size)}.json"

    def others(self, cells: Iterable[Cell]) -> int:
        """Return how many finished cells lie there beside these."""
        return len(
            {path.name for path in (self.folder / CELLS).glob("*.json")}
            - {self._path(cell).name for cell in cells}
        )

    def _path(self, cell: Cell) -> Path:
        return self.folder / CELLS / f"{cell.name}.json"


def read_record(path: Path, fingerprint: Fingerprint, *, what: str) -> dict[str, Any] | None:
    """Read a record that was written together with its fingerprint.

    Args:
        path: of the JSON file.
        fingerprint: what decides the record now.
        what: the record, for messages.

    Returns:
        None where there is no such file.

    Raises:
        OutputError: it cannot be read, or its fingerprint is another.
    """
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        stored: Fingerprint = record["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"'{path}' cannot be read",
            got=f"{type(error).__name__}: {error}",
            todo="delete it, and it is made anew",
        ) from error
    if differing := [
        key
        for key in dict.fromkeys([*fingerprint, *stored])
        if fingerprint.get(key) != stored.get(key)
    ]:
        raise OutputError(
            f"{what} was made in another way",
            got=_differences(differing, stored),
            expected=_differences(differing, fingerprint),
            todo="repeat the command as it was, start anew with --overwrite, or choose another "
            "folder with --out",
        )
    return record


def _differences(keys: list[str], fingerprint: Fingerprint) -> str:
    shown = [f"{key} {_shorten(fingerprint.get(key, 'none'))}" for key in keys[:_DIFFERENCES]]
    more = len(keys) - _DIFFERENCES
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _shorten(value: str) -> str:
    return value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
