"""Which engine of a bundle runs here: by family installed, version, platform, device, precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from autosam_deploy.bundle.manifest import Artefact, EngineInfo, Precision
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError, BackendUnavailableError
from autosam_deploy.runtime.nvidia.families import (
    check_engine,
    library_version,
    load_family,
    rebuild,
    this_platform,
)

#: On GPUs bf16 needs newer ones than fp16 and rounds more, so `auto` takes it last.
_ORDER: tuple[Precision, ...] = ("fp16", "fp32", "bf16")


@dataclass(frozen=True)
class Choice:
    """An engine that fits, its record and library, and why it was taken."""

    artefact: Artefact
    info: EngineInfo
    module: Any
    version: str
    reason: str


def choose_engine(bundle: Bundle, *, precision: Precision | Literal["auto"], sm: int) -> Choice:
    """Return the best engine of a bundle for the device.

    Args:
        bundle: an opened bundle.
        precision: what is asked for; "auto" takes fp16, else fp32, else bf16.
        sm: compute capability of the device; 89 is sm89.

    Raises:
        BackendUnavailableError: engines are there, but none of their libraries.
        BackendError: no engine is there, or none that fits; naming both sides.
    """
    wanted = _ORDER if precision == "auto" else (precision,)
    there = [
        (artefact, artefact.engine)
        for word in wanted
        for artefact in bundle.manifest.artefacts
        if artefact.precision == word and artefact.kind == "engine" and artefact.engine is not None
    ]
    if not there:
        raise _nothing(bundle, precision, sm)
    refused: list[BackendError] = []
    for artefact, info in there:
        try:
            module = load_family(info.family)
            version = library_version(module)
            check_engine(
                info,
                version=version,
                platform=this_platform(),
                sm=sm,
                graph_sha256=_graph_sha256(bundle, artefact.precision),
                bundle=str(bundle.path),
            )
        except BackendError as error:
            refused.append(error)
            continue
        return Choice(artefact, info, module, version, _reason(precision, artefact.precision))
    raise _none_fits(refused, precision)


def _graph_sha256(bundle: Bundle, precision: Precision) -> str | None:
    graph = bundle.find("onnx", precision)
    return None if graph is None else graph.file.sha256


def _reason(asked: str, taken: Precision) -> str:
    if asked != "auto":
        return f"{taken} was asked for"
    if taken == _ORDER[0]:
        return f"{taken} is the best for a GPU"
    return f"{taken}, since no engine of higher rank fits this device"


def _nothing(bundle: Bundle, precision: str, sm: int) -> BackendError:
    there = sorted(set(bundle.precisions("engine")))
    return BackendError(
        "the bundle has no engine" + (f" in {precision}" if there else ""),
        got=f"engines in {', '.join(there)}" if there else None,
        todo=f"{rebuild('tensorrt_rtx', sm=sm, bundle=str(bundle.path))}, "
        "or use backend onnxruntime, which needs none",
    )


def _none_fits(refused: list[BackendError], precision: str) -> BackendError:
    """Say what is wrong with the only engine, or with each of several."""
    if len(refused) == 1:
        return refused[0]
    missing = all(isinstance(error, BackendUnavailableError) for error in refused)
    kind = BackendUnavailableError if missing else BackendError
    asked = "" if precision == "auto" else f"{precision} "
    reasons = dict.fromkeys(str(error) for error in refused)
    if len(reasons) == 1:
        return kind(next(iter(reasons)))
    listed = " | ".join(f"({number}) {text}" for number, text in enumerate(reasons, 1))
    return kind(f"none of the bundle's {len(refused)} {asked}engines fits: {listed}")
