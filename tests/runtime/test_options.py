from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError, UsageError
from autosam_deploy.runtime.backend import Request
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.options import (
    NoOptions,
    Option,
    changed,
    describe,
    in_words,
    make_options,
    parse_pairs,
)
from autosam_deploy.runtime.ort_options import OrtOptions
from autosam_deploy.runtime.ov import OvOptions
from autosam_deploy.runtime.pyt import TorchBackend
from autosam_deploy.runtime.table import BACKENDS, backend_class, backend_options


@dataclass(frozen=True)
class Knobs:
    """One field of every kind, and one for hosts alone."""

    switch: bool = field(default=True, metadata=in_words("turn"))
    count: int = field(default=2, metadata=in_words("how many"))
    parts: int | None = field(default=None, metadata=in_words("parts", none="auto"))
    place: Path | None = field(default_factory=lambda: Path("here"), metadata=in_words("where"))
    way: Literal["this", "that"] = field(default="this", metadata=in_words("which"))
    handle: int | None = None


def made(**values: Any) -> Knobs:
    return make_options(Knobs, values, backend="toy")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("switch", "off", False),
        ("switch", "On", True),
        ("switch", "0", False),
        ("switch", "true", True),
        ("count", "12", 12),
        ("count", "-1", -1),
        ("parts", "auto", None),
        ("parts", "3", 3),
        ("place", "a/b", Path("a/b")),
        ("place", "None", None),
        ("way", "that", "that"),
    ],
)
def test_texts(name: str, text: str, expected: Any) -> None:
    found = getattr(made(**{name: text}), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "values",
    [{"switch": False, "count": 5}, {"parts": None, "place": Path("x")}, {"handle": 1 << 40}],
)
def test_values_of_the_field_s_type(values: dict[str, Any]) -> None:
    found = made(**values)
    assert {name: getattr(found, name) for name in values} == values


def test_a_home_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert made(place="~/cache").place == Path("/somewhere/cache")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("switch", "maybe", "'switch' of backend 'toy'; got maybe; expected on | off; turn"),
        ("switch", "", "'switch' of backend 'toy'; got nothing; expected on | off"),
        ("switch", 1, "'switch' of backend 'toy'; got 1; expected on | off"),
        ("count", "2.5", "'count' of backend 'toy'; got 2.5; expected a whole number"),
        ("count", "auto", "got auto; expected a whole number; how many"),
        ("count", True, "got True; expected a whole number"),
        ("count", None, "got None; expected a whole number"),
        ("parts", "none", r"got none; expected a whole number \| auto"),
        ("place", "", r"got nothing; expected a folder \| none; where"),
        ("place", 3, r"got 3; expected a folder \| none"),
        ("way", "third", r"got third; expected this \| that; which"),
        ("way", 3, r"got 3; expected this \| that"),
        ("handle", "140737", "'handle' of backend 'toy' cannot be given as text; got '140737'"),
        ("handle", 1.5, r"got 1.5; expected a whole number \| None"),
        ("knob", "1", r"unknown option of backend 'toy'; got 'knob'; expected switch \(on \| off:"),
    ],
)
def test_what_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("on | off", r"on \| off")):
        made(**{name: value})


def test_unknown_name_lists_what_words_can_set() -> None:
    with pytest.raises(UsageError, match=r"place \(a folder \| none: where\)") as caught:
        made(knob=1)
    assert "handle" not in str(caught.value)


def test_what_differs_from_the_defaults() -> None:
    assert changed(made()) == {}
    assert changed(made(place=Path("here"), switch="on")) == {}
    found = changed(made(switch="off", parts=3, place=None, way="that", handle=7))
    assert found == {
        "switch": "off",
        "parts": "3",
        "place": "none",
        "way": "that",
        "handle": "7",
    }
    # What was written can be given again.
    words = {name: text for name, text in found.items() if name != "handle"}
    assert changed(made(**words)) == words


def test_table_of_a_dataclass() -> None:
    assert describe(Knobs) == (
        Option("switch", "on | off", "on", "turn"),
        Option("count", "a whole number", "2", "how many"),
        Option("parts", "a whole number | auto", "auto", "parts"),
        Option("place", "a folder | none", "here", "where"),
        Option("way", "this | that", "this", "which"),
    )
    assert describe(NoOptions) == ()


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_has_sound_options(backend: str) -> None:
    kind = backend_class(backend).options_class
    assert changed(kind()) == {}
    for one in backend_options()[backend]:
        # Defaults can be written, and one line fits a table.
        assert changed(make_options(kind, {one.name: one.default}, backend=backend)) == {}
        assert 10 < len(one.text) < 75
    assert kind.__doc__
    with pytest.raises((FrozenInstanceError, TypeError), match=r"cannot assign|super"):
        kind().new = 1


def test_pairs() -> None:
    assert parse_pairs(["a=1", " b = x=y ", "c="]) == {"a": "1", "b": "x=y", "c": ""}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a"], r"--option; got 'a'; expected NAME=VALUE; --option help lists the names"),
        (["=1"], "--option; got '=1'"),
        (["a=1", "a=2"], "--option 'a' is given twice; got 1 and 2"),
    ],
)
def test_what_is_no_pair(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_pairs(texts)


def test_engine_takes_values_and_texts(toy_bundle: Callable[..., Path]) -> None:
    path = toy_bundle()
    for options in ({"arena": False, "spinning": "on"}, {"arena": "off", "spinning": True}):
        with Engine.open(path, device="cpu", threads=1, options=options) as engine:
            assert engine.info.options == {"arena": "off"}
            assert engine.info.as_dict()["options"] == {"arena": "off"}
    with Engine.open(path, device="cpu", threads=1) as engine:
        assert engine.info.options == {}


def test_options_of_another_backend(toy_bundle: Callable[..., Path]) -> None:
    path = toy_bundle()
    with pytest.raises(UsageError, match="unknown option of backend 'onnxruntime'; got 'streams'"):
        Engine.open(path, options={"streams": 2})
    with pytest.raises(
        BackendError, match=r"options of backend 'torch'; got OvOptions; expected \w+Options"
    ):
        TorchBackend(Bundle.open(path), Request(device="cpu"), options=OvOptions())
    assert OrtOptions() == make_options(OrtOptions, {}, backend="onnxruntime")
