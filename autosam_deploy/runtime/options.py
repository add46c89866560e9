"""Options of a backend: fields of a frozen dataclass, set by a host or as words on a command line.

A field with the metadata of `in_words` can be given as text (`arena=off`). Any other field, such as
a handle of a CUDA stream, is for hosts that run in the same process.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from autosam_deploy.errors import UsageError

_T = TypeVar("_T")

_SWITCHES = {"on": True, "off": False, "true": True, "false": False, "1": True, "0": False}


def in_words(text: str, *, none: str = "none") -> dict[str, str]:
    """Return the metadata of a dataclass field that can be given as text.

    Args:
        text: one line for the table of options.
        none: the word that stands for None, where the field takes that.
    """
    return {"text": text, "none": none}


@dataclass(frozen=True)
class NoOptions:
    """What a backend without any takes."""


@dataclass(frozen=True)
class Option:
    """One field as a command line sees it.

    expected: what may be given ("on | off"). default: as it would be given. text: what it does.
    """

    name: str
    expected: str
    default: str
    text: str


def describe(kind: type[Any]) -> tuple[Option, ...]:
    """Return the fields of a dataclass that can be set by words, in their order."""
    hints = typing.get_type_hints(kind)
    return tuple(
        Option(
            name=one.name,
            expected=_expected(hints[one.name], one),
            default=_shown(_default(one), one),
            text=one.metadata["text"],
        )
        for one in fields(kind)
        if "text" in one.metadata
    )


def make_options(kind: type[_T], values: Mapping[str, Any], *, backend: str) -> _T:
    """Return a dataclass of options.

    Args:
        kind: the dataclass.
        values: by field name: values of the field's type, or texts.
        backend: whose options they are, for messages.

    Raises:
        UsageError: an unknown name, a value of another kind, a text for a field that takes none.
    """
    known = {one.name: one for one in fields(typing.cast("Any", kind))}
    hints = typing.get_type_hints(kind)
    found = {}
    for name, value in values.items():
        if name not in known:
            raise UsageError(
                f"unknown option of backend '{backend}'",
                got=repr(name),
                expected=_listed(describe(kind)) or "none, since it has no options",
            )
        found[name] = _value(value, known[name], hints[name], backend)
    return kind(**found)


def changed(options: Any) -> dict[str, str]:
    """Return the fields that are not at their default, as texts; host-only ones by their value."""
    return {
        one.name: _shown(value, one)
        for one in fields(options)
        if (value := getattr(options, one.name)) != _default(one)
    }


def parse_pairs(texts: Iterable[str], *, what: str = "--option") -> dict[str, str]:
    """Split NAME=VALUE texts.

    Args:
        texts: what was given.
        what: how the message calls it.

    Raises:
        UsageError: no `=`, no name, or a name that comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise UsageError(
                what, got=repr(text), expected="NAME=VALUE", todo=f"{what} help lists the names"
            )
        if name in found:
            raise UsageError(f"{what} '{name}' is given twice", got=f"{found[name]} and {value}")
        found[name] = value
    return found


def _value(value: Any, one: Field[Any], hint: Any, backend: str) -> Any:
    """Return a value of the field's type."""
    if isinstance(value, str) and "text" not in one.metadata:
        raise UsageError(
            f"option '{one.name}' of backend '{backend}' cannot be given as text",
            got=repr(value),
            expected="a value from the program that hosts the engine",
        )
    kind, optional = _without_none(hint)
    try:
        if isinstance(value, str):
            return _parsed(value, one, kind, optional=optional)
        return _checked(value, kind, optional=optional)
    except ValueError as error:
        shown = value if isinstance(value, str) else repr(value)
        raise UsageError(
            f"option '{one.name}' of backend '{backend}'",
            got=shown or "nothing",
            expected=_expected(hint, one),
            todo=one.metadata.get("text"),
        ) from error


def _parsed(text: str, one: Field[Any], kind: Any, *, optional: bool) -> Any:
    if optional and text.lower() == one.metadata["none"]:
        return None
    if kind is bool and text.lower() in _SWITCHES:
        return _SWITCHES[text.lower()]
    if kind is int:
        return int(text)
    if kind is Path and text:
        return Path(text).expanduser()
    if typing.get_origin(kind) is Literal and text in typing.get_args(kind):
        return text
    raise ValueError(text)


def _checked(value: Any, kind: Any, *, optional: bool) -> Any:
    if value is None and optional:
        return value
    # Words are texts, which `_parsed` takes. A bool is an int to Python, and no number of streams.
    if typing.get_origin(kind) is Literal or not isinstance(value, kind):
        raise ValueError(value)
    if isinstance(value, bool) and kind is not bool:
        raise ValueError(value)
    return value


def _without_none(hint: Any) -> tuple[Any, bool]:
    """Return a type, and whether None is allowed beside it."""
    if typing.get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    (kind,) = [one for one in typing.get_args(hint) if one is not type(None)]
    return kind, True


def _expected(hint: Any, one: Field[Any]) -> str:
    kind, optional = _without_none(hint)
    if typing.get_origin(kind) is Literal:
        words = [str(word) for word in typing.get_args(kind)]
    else:
        words = {bool: ["on", "off"], int: ["a whole number"], Path: ["a folder"]}[kind]
    # A field for hosts alone has no word for None.
    return " | ".join([*words, *([one.metadata.get("none", "None")] if optional else [])])


def _default(one: Field[Any]) -> Any:
    if one.default_factory is not MISSING:
        return one.default_factory()
    return one.default


def _shown(value: Any, one: Field[Any]) -> str:
    if value is None:
        return str(one.metadata.get("none", "None"))
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _listed(options: Iterable[Option]) -> str:
    return ", ".join(f"{one.name} ({one.expected}: {one.text})" for one in options)
