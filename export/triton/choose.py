"""Which graph or engine of a bundle Triton gets, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from autosam_deploy.bundle.manifest import Artefact, EngineInfo, Precision
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import ExportError, UsageError
from autosam_deploy.runtime.nvidia.families import rebuild

Platform = Literal["onnxruntime", "tensorrt"]
Device = Literal["gpu", "cpu"]

#: As in the runtime: half precision pays on GPUs, and bf16 needs newer ones than fp16.
_ON_GPU: tuple[Precision, ...] = ("fp16", "fp32", "bf16")
_ON_CPU: tuple[Precision, ...] = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Want:
    """What is asked for.

    sm: compute capability of the GPU that an engine is for; 89 is sm89. engine_file: member path
    of the engine. Both None: the only engine of the best precision.
    """

    platform: Platform = "onnxruntime"
    device: Device = "gpu"
    precision: Precision | Literal["auto"] = "auto"
    sm: int | None = None
    engine_file: str | None = None


@dataclass(frozen=True)
class Choice:
    """An artefact, why it was taken, and what its user should know."""

    artefact: Artefact
    reason: str
    notes: tuple[str, ...] = ()


def choose_artefact(bundle: Bundle, want: Want) -> Choice:
    """Return what Triton shall run.

    Raises:
        UsageError: wishes that contradict each other.
        ExportError: the bundle lacks it, or Triton could not load it; naming the command that
            makes it.
    """
    if want.platform == "tensorrt":
        if want.device == "cpu":
            raise UsageError(
                "TensorRT engines run on GPUs alone",
                got="--platform tensorrt with --cpu",
                todo="drop --cpu, or use --platform onnxruntime",
            )
        return _choose_engine(bundle, want)
    if want.sm is not None or want.engine_file is not None:
        raise UsageError(
            "--sm and --engine-file choose among engines",
            got="--platform onnxruntime, which runs a graph",
            todo="add --platform tensorrt, or drop them",
        )
    return _choose_graph(bundle, want)


def _choose_graph(bundle: Bundle, want: Want) -> Choice:
    order = _ON_GPU if want.device == "gpu" else _ON_CPU
    wanted = order if want.precision == "auto" else (want.precision,)
    there = bundle.precisions("onnx")
    for precision in wanted:
        artefact = bundle.find("onnx", precision)
        if artefact is not None:
            slow = want.device == "cpu" and precision != "fp32"
            note = f"{precision} on a CPU is slower than fp32 and takes more memory"
            return Choice(artefact, _reason(want, order, precision), (note,) if slow else ())
    if not there:
        raise ExportError(
            "the bundle has no ONNX graph", todo="export again, or use --platform tensorrt"
        )
    raise ExportError(
        f"the bundle has no {want.precision} graph",
        got=f"graphs in {', '.join(there)}",
        # Export writes no bf16 graphs.
        todo="take --precision auto"
        if want.precision == "bf16"
        else f"export again: autosam-export --precision fp32,{want.precision}; "
        "or take --precision auto",
    )


def _reason(want: Want, order: tuple[Precision, ...], taken: Precision) -> str:
    if want.precision != "auto":
        return f"{taken} was asked for"
    if taken == order[0]:
        return f"{taken} is the best for a {want.device.upper()}"
    return f"{taken}, since the bundle has none in {order[0]}"


def _choose_engine(bundle: Bundle, want: Want) -> Choice:
    fitting = _of_family(bundle, want)
    for what, fits in (
        (f"'{want.engine_file}'", lambda one, _: want.engine_file in (None, one.file.path)),
        (f"for sm{want.sm}", lambda _, info: want.sm in (None, *info.compute_capabilities)),
        (f"in {want.precision}", lambda one, _: want.precision in ("auto", one.precision)),
    ):
        kept = [(one, info) for one, info in fitting if fits(one, info)]
        if not kept:
            raise ExportError(
                f"the bundle has no TensorRT engine {what}",
                got=_listed(fitting),
                todo=_rebuild(bundle, want),
            )
        fitting = kept
    precision = next(word for word in _ON_GPU if word in {one.precision for one, _ in fitting})
    fitting = [(one, info) for one, info in fitting if one.precision == precision]
    if len(fitting) > 1:
        raise ExportError(
            "several engines of the bundle fit",
            got=_listed(fitting),
            todo="choose one with --sm or --engine-file",
        )
    artefact, info = fitting[0]
    _check_engine(bundle, artefact, info)
    note = (
        f"the engine runs with TensorRT {info.version} and {_capabilities(info)} alone: take the "
        "Triton release that holds this TensorRT"
    )
    return Choice(artefact, _reason(want, _ON_GPU, precision), (note,))


def _of_family(bundle: Bundle, want: Want) -> list[tuple[Artefact, EngineInfo]]:
    """Return the engines of the family that Triton's backend loads."""
    engines = [(one, one.engine) for one in bundle.manifest.artefacts if one.engine is not None]
    fitting = [(one, info) for one, info in engines if info.family == "tensorrt"]
    if not fitting:
        others = f"{_listed(engines)} of TensorRT-RTX, which Triton does not load"
        raise ExportError(
            "the bundle has no TensorRT engine",
            got=others if engines else None,
            todo=_rebuild(bundle, want),
        )
    return fitting


def _check_engine(bundle: Bundle, artefact: Artefact, info: EngineInfo) -> None:
    """Refuse what would load nowhere, or would serve another model than the bundle's."""
    if not info.platform.startswith("linux-"):
        raise ExportError(
            f"engine '{artefact.file.path}' was built on another system than Triton's",
            got=info.platform,
            expected="linux-*",
            todo=f"on Linux, {_rebuild(bundle)}",
        )
    graph = bundle.find("onnx", artefact.precision)
    if graph is not None and graph.file.sha256 != info.graph_sha256:
        raise ExportError(
            f"engine '{artefact.file.path}' was built from another graph than the bundle's",
            got=f"sha256 {info.graph_sha256[:16]}...",
            expected=f"{graph.file.sha256[:16]}...",
            todo=_rebuild(bundle),
        )


def _rebuild(bundle: Bundle, want: Want | None = None) -> str:
    # TensorRT builds for the GPU that it finds.
    where = "" if want is None or want.sm is None else f"on a machine with an sm{want.sm} GPU, "
    return where + rebuild("tensorrt", sm=None, bundle=str(bundle.path))


def _listed(engines: Iterable[tuple[Artefact, EngineInfo]]) -> str:
    return ", ".join(
        f"'{one.file.path}' ({one.precision}, {_capabilities(info)}, {info.version})"
        for one, info in engines
    )


def _capabilities(info: EngineInfo) -> str:
    return "/".join(f"sm{one}" for one in info.compute_capabilities)
