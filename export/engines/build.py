"""One engine from one graph: the only calls of TensorRT's builder that this project makes."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from autosam_deploy.bundle.manifest import Artefact, EngineInfo
from autosam_deploy.errors import ExportError
from autosam_deploy.export.engines.network import (
    NetworkFacts,
    check_network,
    inspect_network,
    parse_graph,
)
from autosam_deploy.export.engines.progress import make_monitor, stopped_by_user
from autosam_deploy.export.engines.request import Triple, known_capabilities
from autosam_deploy.fused.encoders import score_shapes
from autosam_deploy.runtime.nvidia.families import (
    FAMILIES,
    library_version,
    make_logger,
    this_platform,
)
from autosam_deploy.spec import ModelSpec, TensorSpec

#: What may help where the builder gives up.
_SMALLER = "try a smaller --batch or --size, or a larger --workspace"
_FLOAT_ATTENTION = (
    "TensorRT may have no fused attention in float32: export with --fp16, or with --lowering "
    "explicit for an engine in fp32"
)

Lines = Sequence[tuple[str, str]]

_ACTIVATIONS = re.compile(r"^Total Activation Memory: (\d+) bytes")
#: Lines of the log that are kept: all but the parser's and optimiser's account of every tensor.
_KEPT = ("INFO", "WARNING", "ERROR", "INTERNAL_ERROR")


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized plan, its record, what the network said, and the builder's log."""

    plan: bytes
    info: EngineInfo
    facts: NetworkFacts
    log: str


def build_engine(
    module: Any,
    *,
    family: str,
    graph: Path,
    artefact: Artefact,
    model: ModelSpec,
    capability: int,
    profile: dict[str, Triple],
    workspace_bytes: int | None,
    progress: Progress,
) -> BuiltEngine:
    """Build an engine for one kind of GPU.

    Args:
        module: the family's library.
        family: a key of `FAMILIES`.
        graph: the ONNX file of `artefact`.
        artefact: graph of the bundle that the engine stems from.
        model: of the manifest; its tensors are the engine's.
        capability: compute capability; 89 is sm89.
        profile: axis symbol -> (smallest, best, largest).
        workspace_bytes: most scratch memory of a kernel; None leaves the library's own limit.
        progress: display for the builder's phases.

    Raises:
        ExportError: the graph cannot be read, is not typed as promised, or no engine came out.
    """
    logger = make_logger(module)
    mark = logger.mark()
    builder = module.Builder(logger)
    network, parser = parse_graph(module, builder=builder, logger=logger, path=graph)
    _check_tensors(network, model)
    encoder = model.encoder
    facts = inspect_network(network, scores=score_shapes(encoder, artefact.lowering))
    check_network(facts, artefact, attentions=encoder.attentions)
    start = time.perf_counter()
    plan = _serialize(
        module,
        builder,
        network,
        logger=logger,
        family=family,
        source=model.input_tensor,
        capability=capability,
        profile=profile,
        workspace_bytes=workspace_bytes,
        progress=progress,
        todo=_FLOAT_ATTENTION if facts.attentions and artefact.precision == "fp32" else _SMALLER,
    )
    seconds = time.perf_counter() - start
    del parser
    lines = logger.since(mark)
    info = _record(
        module,
        lines,
        family=family,
        artefact=artefact,
        capability=capability,
        profile=profile,
        workspace_bytes=workspace_bytes,
        facts=facts,
        seconds=seconds,
    )
    log = "\n".join(f"{kind}: {text}" for kind, text in lines if kind in _KEPT)
    return BuiltEngine(plan, info, facts, log + "\n")


def build_tapped(
    module: Any,
    *,
    family: str,
    graph: Path,
    source: TensorSpec,
    capability: int,
    profile: dict[str, Triple],
    workspace_bytes: int | None,
) -> tuple[bytes, tuple[str, ...]]:
    """Build an engine from a graph that was given more outputs (see `export.checks.taps`).

    Args:
        module: the family's library.
        family: a key of `FAMILIES`.
        graph: the ONNX file.
        source: its input.
        capability: compute capability; 89 is sm89.
        profile: axis symbol -> (smallest, best, largest).
        workspace_bytes: most scratch memory of a kernel; None leaves the library's own limit.

    Returns:
        The plan and the names of its outputs.

    Raises:
        ExportError: the graph cannot be read, or no engine came out.
    """
    logger = make_logger(module)
    builder = module.Builder(logger)
    network, parser = parse_graph(module, builder=builder, logger=logger, path=graph)
    names = tuple(network.get_output(index).name for index in range(network.num_outputs))
    plan = _serialize(
        module,
        builder,
        network,
        logger=logger,
        family=family,
        source=source,
        capability=capability,
        profile=profile,
        workspace_bytes=workspace_bytes,
        progress=Progress(disable=True),
        todo="look between the blocks on backend onnxruntime, which builds nothing",
    )
    del parser
    return plan, names


def _serialize(
    module: Any,
    builder: Any,
    network: Any,
    *,
    logger: Any,
    family: str,
    source: TensorSpec,
    capability: int,
    profile: dict[str, Triple],
    workspace_bytes: int | None,
    progress: Progress,
    todo: str,
) -> bytes:
    """Run the builder; the network's parser must be alive."""
    mark = logger.mark()
    config = configure(
        module,
        builder,
        source=source,
        profile=profile,
        # RTX compiles for named GPUs without one; TensorRT for the device that is current.
        capability=capability if family == "tensorrt_rtx" else None,
    )
    if workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace_bytes)
    config.progress_monitor = monitor = make_monitor(module, progress)
    with stopped_by_user(monitor):
        serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ExportError(
            f"{FAMILIES[family].title} built no engine for sm{capability}",
            got=logger.errors(mark)[:400] or "no reason",
            todo=todo,
        )
    return bytes(serialized)


def _record(
    module: Any,
    lines: Lines,
    *,
    family: str,
    artefact: Artefact,
    capability: int,
    profile: dict[str, Triple],
    workspace_bytes: int | None,
    facts: NetworkFacts,
    seconds: float,
) -> EngineInfo:
    return EngineInfo.made_of(
        family=family,
        version=library_version(module),
        platform=this_platform(),
        compute_capabilities=(capability,),
        graph_sha256=artefact.file.sha256,
        profile=profile,
        workspace_bytes=workspace_bytes,
        activation_bytes=activation_bytes(lines),
        layers=facts.layers,
        low_share=round(facts.low_share, 4),
        build_seconds=round(seconds, 2),
    )


def activation_bytes(lines: Lines) -> int | None:
    """Return the activation memory that the builder's log states, None if it does not.

    Args:
        lines: (severity, text) pairs.
    """
    found = [int(match[1]) for _, text in lines if (match := _ACTIVATIONS.match(text))]
    return found[-1] if found else None


def configure(
    module: Any,
    builder: Any,
    *,
    source: TensorSpec,
    profile: dict[str, Triple],
    capability: int | None,
) -> Any:
    """Return a builder's configuration.

    Args:
        module: the family's library.
        builder: its builder.
        source: the network's input.
        profile: axis symbol -> (smallest, best, largest).
        capability: GPU to build for, 89 is sm89; None is the device that is current.

    Raises:
        ExportError: the builder refuses the profile.
    """
    config = builder.create_builder_config()
    # fp32 means float32: TF32 rounds products to 10 bits of mantissa.
    config.clear_flag(module.BuilderFlag.TF32)
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    corners = [
        source.sized({axis: sizes[at] for axis, sizes in profile.items()}) for at in range(3)
    ]
    shapes = builder.create_optimization_profile()
    shapes.set_shape(source.name, *corners)
    if config.add_optimization_profile(shapes) < 0:
        raise ExportError("the builder refuses the profile", got=str(corners))
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(known_capabilities(module)[capability], 0)
    return config


def _check_tensors(network: Any, model: ModelSpec) -> None:
    """Names, order and dtypes must be those of the manifest; labels leave the device as uint8."""
    words = {"FLOAT": "float32", "UINT8": "uint8", "HALF": "float16"}
    sides = (
        (network.num_inputs, network.get_input, (model.input_tensor,)),
        (network.num_outputs, network.get_output, model.output_tensors),
    )
    for count, get, tensors in sides:
        found = [(t.name, words.get(t.dtype.name, t.dtype.name)) for t in map(get, range(count))]
        wanted = [(tensor.name, tensor.dtype) for tensor in tensors]
        if found != wanted:
            raise ExportError(
                "the network contradicts the manifest", got=str(found), expected=str(wanted)
            )
