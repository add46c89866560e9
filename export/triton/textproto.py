"""Protocol Buffers text format, as far as `config.pbtxt` needs it: written, never read.

The format is that of https://protobuf.dev/reference/protobuf/textformat-spec/. Writing it needs no
package; Triton's own message definitions check it in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias


class Word(str):
    """A name that stands without quotes: a value of an enumeration."""

    __slots__ = ()


Scalar: TypeAlias = Word | str | int | bool
#: Fields in order; a field that repeats stands once for each value, lists hold scalars alone.
Message: TypeAlias = "Sequence[tuple[str, Scalar | Sequence[Scalar] | Message]]"


def render(message: Message, *, indent: int = 0) -> str:
    """Return the text of a message, one field a line."""
    pad = "  " * indent
    lines = []
    for name, value in message:
        if isinstance(value, str | int):
            lines.append(f"{pad}{name}: {_scalar(value)}\n")
        elif value and isinstance(value[0], tuple):
            inner = render(value, indent=indent + 1)  # type: ignore[arg-type]  # a message
            lines.append(f"{pad}{name} {{\n{inner}{pad}}}\n")
        else:
            shown = ", ".join(_scalar(one) for one in value)  # type: ignore[arg-type]  # scalars
            lines.append(f"{pad}{name}: [{shown}]\n")
    return "".join(lines)


def _scalar(value: Scalar) -> str:
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return '"' + "".join(_character(one) for one in value) + '"'


def _character(one: str) -> str:
    if one in '"\\':
        return f"\\{one}"
    # Control characters end a quoted string or hide in editors; other text travels as UTF-8.
    return f"\\{ord(one):03o}" if ord(one) < 32 or ord(one) == 127 else one
