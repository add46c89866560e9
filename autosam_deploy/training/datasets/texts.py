"""Names and JSON from the command line: given as text, or in a file that the text names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autosam_deploy.errors import UsageError

#: How many names a message lists before it counts the rest.
_SHOWN = 3


def names_from(text: str, what: str) -> tuple[str, ...]:
    """Return names separated by commas, or those in a text file with one a line.

    Args:
        text: of an option.
        what: the option's name, for messages.

    Raises:
        UsageError: no such file; no text; no name at all, or none between two commas; a name twice.
    """
    names: tuple[str, ...]
    if is_file(text):
        names = tuple(line.strip() for line in read_text(Path(text)).splitlines() if line.strip())
    elif "/" in text or "\\" in text or text.lower().endswith((".txt", ".json")):
        raise UsageError(f"{what}: no file '{text}'", todo="check the path")
    else:
        names = tuple(name.strip() for name in text.split(","))
    if not names or not all(names):
        raise UsageError(
            f"{what} holds an empty name" if names else f"{what} holds no name",
            got=repr(text),
            expected="names separated by commas, or a text file with one a line",
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{what} names something twice", got=listed(twice), expected="each once")
    return names


def listed(names: Sequence[str]) -> str:
    """Return the first few names in quotes, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def counted(number: int, what: str) -> str:
    """Return a number with its noun: `1 patient`, `2 patients`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def is_file(text: str) -> bool:
    """Tell whether a text is the path of a file; one too long for a path is not."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text, without the mark that Windows puts in front.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"'{path}' is no text", expected="UTF-8") from error
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read", got=error.strerror) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UsageError(f"'{path}' is no JSON", got=str(error)) from error
    if not isinstance(value, dict):
        raise UsageError(
            f"'{path}' holds no JSON object",
            got=f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__,
            expected="{...}",
        )
    return value
