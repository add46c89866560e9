"""Families of engines: loading, versions, platforms, and what the library says while it works."""

from __future__ import annotations

import logging
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autosam_deploy.errors import BackendUnavailableError
from autosam_deploy.runtime.nvidia.families import (
    FAMILIES,
    library_version,
    load_family,
    make_logger,
    rebuild,
    this_platform,
)

SEVERITIES = {name: SimpleNamespace(name=name) for name in ("ERROR", "WARNING", "INFO", "VERBOSE")}


def fake_library() -> SimpleNamespace:
    return SimpleNamespace(__name__="fake_trt", ILogger=type("ILogger", (), {}))


def test_unknown_family() -> None:
    with pytest.raises(
        BackendUnavailableError, match=r"got 'trt'; expected tensorrt \| tensorrt_rtx"
    ):
        load_family("trt")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_extra_installs_the_package_that_is_imported(name: str) -> None:
    family = FAMILIES[name]
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8")
    extra = tomllib.loads(text)["project"]["optional-dependencies"][family.extra]
    assert {one.partition(">=")[0] for one in extra} == {family.package, "cuda-bindings"}
    assert family.module.replace("_", "-") == family.package


@pytest.mark.parametrize(
    "error", [ImportError("no"), OSError("libnvinfer.so.10"), RuntimeError("x")]
)
def test_broken_library_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(name: str) -> Any:
        raise error

    monkeypatch.setattr("autosam_deploy.runtime.nvidia.families.import_module", broken)
    with pytest.raises(
        BackendUnavailableError,
        match=rf"TensorRT cannot be loaded; got {type(error).__name__}: .*deploy\[tensorrt\]'$",
    ):
        load_family("tensorrt")


@pytest.mark.parametrize(
    ("text", "expected"), [("1.7.1.116", "1.7.1.116"), ("10.13.3.9.post1", "10.13.3.9")]
)
def test_version(text: str, expected: str) -> None:
    assert library_version(SimpleNamespace(__name__="x", __version__=text)) == expected


def test_version_that_is_none() -> None:
    with pytest.raises(BackendUnavailableError, match="'x' has no version; got 'unknown'"):
        library_version(SimpleNamespace(__name__="x", __version__="unknown"))


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("linux", "x86_64", "linux-x86_64"),
        ("win32", "AMD64", "windows-x86_64"),
        ("linux", "aarch64", "linux-aarch64"),
        ("darwin", "arm64", "darwin-aarch64"),
    ],
)
def test_platform(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, expected: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert this_platform() == expected


@pytest.mark.parametrize(
    ("family", "sm", "options"),
    [
        ("tensorrt_rtx", 89, "rtx --sm 89"),
        ("tensorrt_rtx", None, "rtx"),
        # RTX builds nothing for H100; TensorRT builds for the device it is on.
        ("tensorrt_rtx", 90, "tensorrt --sm 90"),
        ("tensorrt", 89, "tensorrt --sm 89"),
        ("tensorrt", None, "tensorrt"),
    ],
)
def test_rebuilding(family: str, sm: int | None, options: str) -> None:
    command = f"run: autosam-export engine BUNDLE --engine {options}"
    assert rebuild(family, sm=sm) == command


def test_logger_keeps_everything_and_forwards_warnings_once(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = make_logger(fake_library())
    with caplog.at_level(logging.WARNING):
        for severity, text in (("INFO", "a"), ("WARNING", "b\nc"), ("WARNING", "b\nc")):
            logger.log(SEVERITIES[severity], text)
        logger.log(SEVERITIES["ERROR"], "first")
        mark = logger.mark()
        logger.log(SEVERITIES["ERROR"], "second")
    assert logger.since() == [
        *(("INFO", "a"), ("WARNING", "b\nc"), ("WARNING", "b\nc")),
        *(("ERROR", "first"), ("ERROR", "second")),
    ]
    assert logger.errors() == "first; second"
    assert logger.errors(mark) == "second"
    assert logger.errors(logger.mark()) == ""
    assert logger.since(mark) == [("ERROR", "second")]
    assert logger.since(logger.mark()) == []
    assert caplog.messages == ["fake_trt: b c"]
    assert capfd.readouterr() == ("", "")


def test_errors_outlive_a_flood_of_lines() -> None:
    logger = make_logger(fake_library())
    logger.log(SEVERITIES["ERROR"], "why")
    for number in range(60_000):
        logger.log(SEVERITIES["VERBOSE"], str(number))
    assert logger.errors() == "why"
    assert len(logger.since()) == 50_000
    assert logger.since(60_000) == [("VERBOSE", "59999")]


def test_a_library_has_one_logger() -> None:
    other = fake_library()
    assert make_logger(other) is make_logger(other)
    assert make_logger(other) is not make_logger(fake_library())


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, autosam_deploy.runtime.trt\n"
        "print([n for n in ('tensorrt', 'tensorrt_rtx', 'cuda', 'torch') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_capabilities_that_are_suggested_are_those_of_the_library() -> None:
    module = pytest.importorskip("tensorrt_rtx")
    found = {int(n[2:]) for n in module.ComputeCapability.__members__ if n.startswith("SM")}
    for sm in found:
        assert rebuild("tensorrt_rtx", sm=sm).endswith(f"--engine rtx --sm {sm}")
