from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from autosam_deploy.errors import ExportError, UsageError
from autosam_deploy.export.engines.request import (
    DEFAULT_RTX,
    EngineRequest,
    make_profile,
    parse_capabilities,
    parse_family,
    parse_triple,
    resolve_capabilities,
)


def library(*numbers: int) -> Any:
    members = {f"SM{number}": object() for number in numbers}
    return SimpleNamespace(
        ComputeCapability=SimpleNamespace(__members__={**members, "NONE": 0, "CURRENT": 1})
    )


def test_words_of_families() -> None:
    assert parse_family("rtx").name == "tensorrt_rtx"
    assert parse_family("tensorrt").name == "tensorrt"
    with pytest.raises(UsageError, match="--engine; got 'trt'; expected rtx or tensorrt"):
        parse_family("trt")


@pytest.mark.parametrize(("text", "wanted"), [("1:4:8", (1, 4, 8)), ("6", (6, 6, 6))])
def test_triples(text: str, wanted: tuple[int, int, int]) -> None:
    assert parse_triple(text, "--batch") == wanted


@pytest.mark.parametrize("text", ["", "1:2", "8:4:1", "0:1:2", "a:b:c", "1:2:3:4", "-1", "9999999"])
def test_bad_triples(text: str) -> None:
    with pytest.raises(UsageError, match="--batch; got"):
        parse_triple(text, "--batch")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [(None, ()), ("89", (89,)), ("sm86, SM_89,12.0", (86, 89, 120)), ("89,8.9", (89,))],
)
def test_capabilities(text: str | None, wanted: tuple[int, ...]) -> None:
    assert parse_capabilities(text) == wanted


@pytest.mark.parametrize("text", ["", "ada", "8", "8999", "86,"])
def test_bad_capabilities(text: str) -> None:
    with pytest.raises(UsageError, match="--sm; got"):
        parse_capabilities(text)


def test_rtx_builds_for_what_it_knows() -> None:
    module = library(80, 86, 89, 120)
    assert resolve_capabilities(EngineRequest(), module, device=None) == DEFAULT_RTX
    # An older library does not know the newest cards; the default is what it can do.
    assert resolve_capabilities(EngineRequest(), library(86, 89), device=None) == (86, 89)
    with pytest.raises(UsageError, match=r"sm90.*sm80, sm86, sm89, sm120.*--engine tensorrt"):
        resolve_capabilities(EngineRequest(capabilities=(89, 90)), module, device=None)


def test_tensorrt_builds_for_the_device_that_is_here() -> None:
    request = EngineRequest(family="tensorrt")
    assert resolve_capabilities(request, library(), device=90) == (90,)
    with pytest.raises(ExportError, match="no usable device here; run the same command on the"):
        resolve_capabilities(request, library(), device=None)
    other = EngineRequest(family="tensorrt", capabilities=(86,))
    with pytest.raises(UsageError, match="--sm; got sm86; expected sm90"):
        resolve_capabilities(other, library(), device=90)


def manifest(model: Any) -> Any:
    return SimpleNamespace(model=model)


def test_profile_follows_the_golden_slices(model_spec: Any) -> None:
    shapes = [(3, 1, 47, 96), (1, 1, 64, 64)]
    profile = make_profile(EngineRequest(), manifest(model_spec("linear")), shapes)
    assert profile == {"B": (1, 4, 8), "H": (16, 64, 1024), "W": (16, 64, 1024)}
    wide = make_profile(EngineRequest(), manifest(model_spec("linear")), [(1, 1, 8, 2000)])
    assert wide["H"] == (8, 1004, 2000)


@pytest.mark.parametrize(
    ("fields", "option"),
    [
        ({"size": (50, 64, 128)}, "--size"),
        ({"size": (16, 64, 80)}, "--size"),
        ({"batch": (2, 2, 2)}, "--batch"),
    ],
)
def test_profile_must_hold_the_golden_slices(
    model_spec: Any, fields: dict[str, Any], option: str
) -> None:
    shapes = [(3, 1, 47, 96), (1, 1, 64, 64)]
    with pytest.raises(ExportError, match=f"profile of {option} leaves out the golden slices"):
        make_profile(EngineRequest(**fields), manifest(model_spec("linear")), shapes)


def test_large_golden_batches_are_cut(model_spec: Any) -> None:
    request = EngineRequest(batch=(1, 1, 2))
    assert make_profile(request, manifest(model_spec("linear")), [(9, 1, 32, 32)])["B"] == (1, 1, 2)
