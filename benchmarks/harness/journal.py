"""Rows on disk the moment they are finished: a run that is killed has lost what it was at."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from autosam_deploy.benchmarks.harness.record import (
    BundleRecord,
    Machine,
    Report,
    Row,
    Settings,
)
from autosam_deploy.errors import OutputError, SpecError, UsageError
from autosam_deploy.strict import Strict, parse_spec


class Header(Strict):
    """The first line: what all rows share."""

    report_version: Literal[1]
    created: str
    command: str
    settings: Settings
    machine: Machine
    bundles: list[BundleRecord]


class Journal:
    """A file of JSON lines: a header, then rows; the last line of a row counts."""

    def __init__(self, path: Path, header: Header) -> None:
        """Begin a file, replacing an older one.

        Raises:
            OutputError: it cannot be written.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _cannot(path, error) from error
        self._append(header.model_dump(mode="json"))

    def write(self, row: Row) -> None:
        """Add a row; when this returns it is on the disk.

        Raises:
            OutputError: it cannot be written.
        """
        self._append(row.model_dump(mode="json"))

    def _append(self, value: dict[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(value, ensure_ascii=False) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise _cannot(self.path, error) from error


def _cannot(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write '{path}'",
        got=error.strerror or str(error),
        todo="free space or choose another --journal",
    )


def read_journal(path: Path) -> Report:
    """Make a report of the rows that a run left behind.

    Raises:
        UsageError: no journal, or not even its header is whole.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"journal '{path}' cannot be read", got=str(error)) from error
    # The last line of a killed run may be cut; whole ones end in a line break.
    lines = text[: text.rfind("\n") + 1].splitlines()
    if not lines:
        raise UsageError(f"journal '{path}' is empty")
    try:
        header = parse_spec(Header, lines[0], what=f"journal '{path}'")
        rows: dict[str, Row] = {}
        for number, line in enumerate(lines[1:], start=2):
            row = parse_spec(Row, line, what=f"line {number} of journal '{path}'")
            rows[row.key] = row
    except SpecError as error:
        raise UsageError(str(error), todo="give a .jsonl file of autosam-bench") from error
    cut = {"status": "failed", "reason": "the run ended before this row was finished"}
    kept = [row.model_copy(update=cut) if row.status == "running" else row for row in rows.values()]
    return Report(
        **header.model_dump(),
        seconds=0.0,
        rows=kept,
        warnings=["this run did not finish: targets, roofline and baseline were not judged"],
        exit_code=4,
        verdict=f"unfinished: {len(kept)} rows are there",
    )
