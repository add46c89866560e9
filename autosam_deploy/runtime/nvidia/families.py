"""The two libraries of the TensorRT family: loading, versions, what an engine may run on, logs.

TensorRT and TensorRT-RTX share one Python interface; nothing here needs a GPU or a driver. Whoever
builds engines and whoever runs them asks this module, so that both speak of the same thing.
"""

from __future__ import annotations

import logging
import platform
import re
import sys
import threading
from collections import deque
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from autosam_deploy.bundle.manifest import EngineInfo
from autosam_deploy.errors import BackendError, BackendUnavailableError

_LOG = logging.getLogger(__name__)

#: Builders of a large model say tens of thousands of lines. Errors are kept apart from them.
_MOST_LINES, _MOST_ERRORS = 50_000, 1_000
#: Severity of the library -> level of `logging`. What goes wrong is also raised, with the library's
#: own words in it: at its own level a user would read it twice.
_LEVELS = {"INTERNAL_ERROR": logging.INFO, "ERROR": logging.INFO, "WARNING": logging.WARNING}


@dataclass(frozen=True)
class Family:
    """One library.

    name: as the manifest has it. word: on the command line (`--engine rtx`). module: to import.
    package: to install by hand. extra: of autosam-deploy that installs it. any_system: engines run
    on every operating system of the same processor kind.
    """

    name: str
    word: str
    title: str
    module: str
    package: str
    extra: str
    any_system: bool


#: Engines of both run with exactly the version that built them. RTX says so for all its releases
#: (TensorRT-RTX documentation, "Engine Compatibility"); TensorRT for plans without its slower
#: version-compatible mode (TensorRT documentation, same title). RTX engines move between Linux
#: and Windows (TensorRT-RTX documentation, "CPU-Only AOT and TensorRT-RTX Engines").
FAMILIES: dict[str, Family] = {
    "tensorrt": Family(
        name="tensorrt",
        word="tensorrt",
        title="TensorRT",
        module="tensorrt",
        package="tensorrt",
        extra="tensorrt",
        any_system=False,
    ),
    "tensorrt_rtx": Family(
        name="tensorrt_rtx",
        word="rtx",
        title="TensorRT-RTX",
        module="tensorrt_rtx",
        package="tensorrt-rtx",
        extra="tensorrt-rtx",
        any_system=True,
    ),
}


#: Compute capabilities that TensorRT-RTX builds for (`ComputeCapability` of 1.7).
_RTX_CAPABILITIES = frozenset({75, 80, 86, 89, 120, 121})


def load_family(name: str) -> Any:
    """Import a family's library.

    Args:
        name: a key of `FAMILIES`.

    Returns:
        The module, with the interface of `tensorrt`.

    Raises:
        BackendUnavailableError: unknown name, or the library is missing or broken.
    """
    if name not in FAMILIES:
        raise BackendUnavailableError(
            "unknown family of engines", got=repr(name), expected=" | ".join(FAMILIES)
        )
    family = FAMILIES[name]
    try:
        return import_module(family.module)
    # The package loads NVIDIA's libraries itself and raises whatever that gives.
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendUnavailableError(
            f"{family.title} cannot be loaded",
            got=f"{type(error).__name__}: {str(error)[:300]}",
            todo=f"run: pip install 'autosam-deploy[{family.extra}]'",
        ) from error


def library_version(module: Any) -> str:
    """Return all parts of a family's version ("1.7.1.116").

    Raises:
        BackendUnavailableError: the module does not say.
    """
    text = str(getattr(module, "__version__", ""))
    found = re.match(r"[0-9]+(\.[0-9]+)+", text)
    if found is None:
        raise BackendUnavailableError(
            f"'{module.__name__}' has no version", got=repr(text), expected="numbers with dots"
        )
    return found[0]


def this_platform() -> str:
    """Return operating system and processor, as `EngineInfo.platform` has them."""
    system = {"win32": "windows"}.get(sys.platform, sys.platform)
    return f"{system}-{_processor(platform.machine())}"


def _processor(machine: str) -> str:
    lowered = machine.lower().replace("-", "_")
    # Windows and macOS have names of their own for the same instructions.
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(lowered, lowered)


def check_engine(
    info: EngineInfo,
    *,
    version: str,
    platform: str,
    sm: int,
    graph_sha256: str | None = None,
    bundle: str = "BUNDLE",
) -> None:
    """Refuse an engine that was not built for what is here.

    Args:
        info: the engine's record.
        version: of the family's library that is here (`library_version`).
        platform: of this process (`this_platform`).
        sm: compute capability of the device; 89 is sm89.
        graph_sha256: of the graph that the engine must stem from; None skips that.
        bundle: how the message calls the bundle.

    Raises:
        BackendError: naming both sides and the command that builds the engine anew.
    """
    family = FAMILIES[info.family]
    built, here = info.platform, platform
    if family.any_system:
        built, here = built.partition("-")[2], here.partition("-")[2]
    if info.version != version or built != here or sm not in info.compute_capabilities:
        raise BackendError(
            "the engine was built for something else",
            got=f"one built with {info.family} {info.version} for "
            f"{_capabilities(info)} on {info.platform}",
            expected=f"here is {info.family} {version} with sm{sm} on {platform}",
            todo=rebuild(info.family, sm=sm, bundle=bundle),
        )
    if graph_sha256 is not None and info.graph_sha256 != graph_sha256:
        raise BackendError(
            "the engine was built from another graph than the bundle's",
            got=f"sha256 {info.graph_sha256[:16]}...",
            expected=f"{graph_sha256[:16]}...",
            todo=rebuild(info.family, sm=sm, bundle=bundle),
        )


def rebuild(family: str, *, sm: int | None, bundle: str = "BUNDLE") -> str:
    """Return the imperative that ends a message: the command which builds an engine.

    For a device that RTX does not serve that is TensorRT's, which builds for the device it is on.
    """
    served = family != "tensorrt_rtx" or sm is None or sm in _RTX_CAPABILITIES
    word = FAMILIES[family if served else "tensorrt"].word
    target = "" if sm is None else f" --sm {sm}"
    return f"run: autosam-export engine {bundle} --engine {word}{target}"


def _capabilities(info: EngineInfo) -> str:
    return ", ".join(f"sm{one}" for one in info.compute_capabilities)


#: Module -> its logger, keyed by identity; the module is kept so that the identity stays its own.
_LOGGERS: dict[int, tuple[Any, Any]] = {}
_LOGGERS_LOCK = threading.Lock()


def make_logger(module: Any) -> Any:
    """Return this process's logger for a family's library; it keeps lines and never prints.

    There is one, since the library takes one: it ignores the logger of a second builder or runtime
    while a first is alive, and what it says of the second goes to the logger of the first.

    Args:
        module: what `load_family` returned.

    Returns:
        An `ILogger` with `mark()`, the number of lines so far; `since(mark)`, the (severity, text)
        pairs from then on; `errors(mark)`, the texts of errors from then on joined by "; ";
        `lines`, the pairs of this process so far. Warnings go to `logging`, each text once.
    """
    with _LOGGERS_LOCK:
        if id(module) not in _LOGGERS:
            _LOGGERS[id(module)] = (module, _new_logger(module))
        return _LOGGERS[id(module)][1]


def _new_logger(module: Any) -> Any:
    class KeepingLogger(module.ILogger):  # type: ignore[misc]
        """Keeps what the library says, from any of its threads."""

        def __init__(self) -> None:
            super().__init__()
            self._lines: deque[tuple[str, str]] = deque(maxlen=_MOST_LINES)
            self._errors: deque[tuple[int, str]] = deque(maxlen=_MOST_ERRORS)
            self._total = 0
            self._said: set[str] = set()
            self._lock = threading.Lock()

        def log(self, severity: Any, message: str) -> None:
            """Take one line."""
            level = _LEVELS.get(severity.name)
            with self._lock:
                self._lines.append((severity.name, message))
                if "ERROR" in severity.name:
                    self._errors.append((self._total, message))
                self._total += 1
                new = level is not None and message not in self._said
                if new and len(self._said) < _MOST_ERRORS:
                    self._said.add(message)
            if new and level is not None:
                _LOG.log(level, "%s: %s", module.__name__, " ".join(message.split()))

        def mark(self) -> int:
            """Return how many lines were taken so far."""
            return self._total

        def since(self, mark: int = 0) -> list[tuple[str, str]]:
            """Return (severity, text) of the lines since a mark, as far as they are kept."""
            with self._lock:
                wanted = min(len(self._lines), self._total - mark)
                return list(self._lines)[len(self._lines) - wanted :]

        @property
        def lines(self) -> list[tuple[str, str]]:
            """(severity, text) of all lines that are kept."""
            return self.since()

        def errors(self, mark: int = 0) -> str:
            """Return what went wrong since a mark, "" if nothing did."""
            with self._lock:
                found = list(self._errors)
            return "; ".join(text for number, text in found if number >= mark)

    return KeepingLogger()
