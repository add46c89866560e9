"""Adding engines to a bundle that is there, one by one, so that a stop loses one at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from autosam_deploy.bundle.manifest import Artefact, Manifest
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.bundle.writer import add_member, amend_bundle
from autosam_deploy.errors import ExportError
from autosam_deploy.export.engines.build import BuiltEngine, build_engine
from autosam_deploy.export.engines.request import (
    EngineRequest,
    Triple,
    make_profile,
    resolve_capabilities,
)
from autosam_deploy.runtime.nvidia.cudart import open_device, probe_driver
from autosam_deploy.runtime.nvidia.families import (
    FAMILIES,
    library_version,
    load_family,
    this_platform,
)
from autosam_deploy.runtime.selftest import read_golden

FOLDER = "engines"
#: Called with each engine as soon as it is in the bundle.
Added = Callable[["AddedEngine"], None]


@dataclass(frozen=True)
class AddedEngine:
    """An engine of the bundle; `built` is None where one with the same key was there already."""

    artefact: Artefact
    built: BuiltEngine | None


def add_engines(
    path: Path, request: EngineRequest, *, progress: Progress, added: Added
) -> list[AddedEngine]:
    """Build engines from a bundle's own graph and record them in its manifest.

    Each engine is written beside the old ones under a name that holds its key, then the manifest
    is replaced, then the engine that it takes the place of is removed: a stop at any moment leaves
    a sound bundle. An engine is recorded as built; only a run on its GPU proves it.

    Args:
        path: the bundle.
        request: what to build.
        progress: display for the builder.
        added: called after each engine.

    Raises:
        BundleError: the bundle is not sound.
        BackendUnavailableError: the family's library is not installed.
        UsageError: the family cannot build for one of the GPUs.
        ExportError: the graph cannot be built as asked.
        OutputError: the bundle's folder cannot be written.
    """
    module, capabilities = check_request(request)
    bundle = Bundle.open(path)
    graph = choose_graph(bundle, request.precision)
    golden = [read_golden(bundle, case).slices.shape for case in bundle.manifest.golden]
    profile = make_profile(request, bundle.manifest, golden)
    results = []
    for capability in capabilities:
        found = _same(bundle, graph, request, capability=capability, profile=profile, module=module)
        if found is None:
            built = build_engine(
                module,
                family=request.family,
                graph=bundle.file(graph.file),
                artefact=graph,
                model=bundle.manifest.model,
                capability=capability,
                profile=profile,
                workspace_bytes=request.workspace_bytes,
                progress=progress,
            )
            bundle, artefact = _insert(bundle, graph, built)
            result = AddedEngine(artefact, built)
        else:
            result = AddedEngine(found, None)
        results.append(result)
        added(result)
    return results


def check_request(request: EngineRequest) -> tuple[Any, tuple[int, ...]]:
    """Return the family's library and the GPUs to build for, before any long work.

    Raises:
        BackendUnavailableError: the library is not installed.
        UsageError: it cannot build for one of the GPUs.
        ExportError: `tensorrt` without a device.
    """
    # Without a driver, TensorRT's builder ends the process instead of raising.
    device = _device() if request.family == "tensorrt" else None
    module = load_family(request.family)
    return module, resolve_capabilities(request, module, device=device)


def choose_graph(bundle: Bundle, precision: str) -> Artefact:
    """Return the graph to build from: fp16 under "auto" if the bundle has it, else fp32.

    Raises:
        ExportError: the bundle has no such graph.
    """
    order = ("fp16", "fp32") if precision == "auto" else (precision,)
    for one in order:
        for artefact in bundle.manifest.artefacts:
            if artefact.kind == "onnx" and artefact.precision == one:
                return artefact
    raise ExportError(
        f"the bundle has no {' or '.join(order)} graph",
        got=", ".join(bundle.precisions("onnx")),
        todo="export it again with --fp16" if "fp16" in order else "choose another --precision",
    )


def _device() -> int | None:
    """Return the compute capability of the first device, None without one."""
    if not probe_driver().devices:
        return None
    return open_device(0).device.sm


def _same(
    bundle: Bundle,
    graph: Artefact,
    request: EngineRequest,
    *,
    capability: int,
    profile: dict[str, Triple],
    module: Any,
) -> Artefact | None:
    """Return the engine of the bundle that the builder would make once more, if there is one."""
    for artefact in bundle.manifest.artefacts:
        info = artefact.engine
        if info is None or artefact.precision != graph.precision:
            continue
        asked = info.model_copy(
            update={
                "family": request.family,
                "version": library_version(module),
                "platform": this_platform(),
                "compute_capabilities": (capability,),
                "graph_sha256": graph.file.sha256,
                "profile": profile,
                "workspace_bytes": request.workspace_bytes,
            }
        )
        if asked.engine_key() == info.key:
            return artefact
    return None


def _insert(bundle: Bundle, graph: Artefact, built: BuiltEngine) -> tuple[Bundle, Artefact]:
    """Put an engine into the bundle, in the place of one for the same library and GPU."""
    info = built.info
    stem = "-".join(
        (
            FAMILIES[info.family].word,
            info.version,
            *(f"sm{sm}" for sm in info.compute_capabilities),
            info.key[:8],
        )
    )
    name = f"{FOLDER}/{stem}.{graph.precision}"
    log = add_member(bundle, f"{name}.log", built.log.encode())
    artefact = Artefact(
        kind="engine",
        precision=graph.precision,
        file=add_member(bundle, f"{name}.engine", built.plan),
        engine=info.model_copy(update={"log": log}),
    )
    kept = [a for a in bundle.manifest.artefacts if not _takes_place(artefact, a)]
    manifest = Manifest.model_validate(
        {**bundle.manifest.model_dump(), "artefacts": [a.model_dump() for a in (*kept, artefact)]}
    )
    return amend_bundle(bundle, manifest), artefact


def _takes_place(new: Artefact, old: Artefact) -> bool:
    if new.engine is None or old.engine is None or new.precision != old.precision:
        return False
    return all(
        getattr(new.engine, name) == getattr(old.engine, name)
        for name in ("family", "version", "platform", "compute_capabilities")
    )
