"""Numbers of bytes as people write and read them."""

from __future__ import annotations

from autosam_deploy.errors import UsageError

_UNITS = (
    *((f"{letter}ib", 1024.0**power) for power, letter in enumerate("kmgt", start=1)),
    *((f"{letter}b", 1000.0**power) for power, letter in enumerate("kmgt", start=1)),
    ("b", 1.0),
)


def show_bytes(count: float) -> str:
    """Return a number of bytes as people read it ("1.2 GB")."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def parse_bytes(text: str, what: str = "a size") -> int:
    """Read a size such as `20GB`, `2GiB`, `500 MB` or a plain number of bytes.

    Args:
        text: what was given.
        what: how the message calls it, for example the option's name.

    Raises:
        UsageError: it is none.
    """
    number, factor = text.strip().lower(), 1.0
    for unit, value in _UNITS:
        if number.endswith(unit):
            number, factor = number[: -len(unit)].strip(), value
            break
    try:
        count = float(number) * factor
    except ValueError:
        count = -1.0
    if not 0 < count < float("inf"):
        raise UsageError(what, got=repr(text), expected="a number of bytes, for example 20GB")
    return int(count)
