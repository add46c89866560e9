"""Engines in bundles, for the libraries of `tensorrt.py`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from autosam_deploy.bundle.manifest import MANIFEST, Artefact, EngineInfo, FileRef, Precision
from autosam_deploy.bundle.reader import Bundle

PROFILE = {"B": (1, 2, 4), "H": (4, 8, 64), "W": (4, 8, 64)}


def plan_of(inputs: Any, outputs: Any, **fields: Any) -> bytes:
    """A plan that computes the manifest's outputs from its inputs; `fields` may break it."""
    tensors = {
        tensor.name: (way, tensor.dtype, tensor.shape)
        for way, tensors in (("INPUT", inputs), ("OUTPUT", outputs))
        for tensor in tensors
    }
    facts = {"tensors": tensors, "profiles": 1, "weights": 1000, **fields}
    return json.dumps(facts).encode()


def engine_info(**changes: Any) -> EngineInfo:
    """A record with the key that belongs to it."""
    fields = {
        "family": "tensorrt_rtx",
        "version": "1.7.1.116",
        "platform": "linux-x86_64",
        "compute_capabilities": (89,),
        "graph_sha256": "0" * 64,
        "profile": PROFILE,
        "activation_bytes": 5 << 20,
        "layers": 3,
        "low_share": 0.5,
        "build_seconds": 1.0,
        **changes,
    }
    return EngineInfo.made_of(**fields)


def add_engine(
    folder: Path, precision: Precision = "fp16", *, plan: bytes | None = None, **fields: Any
) -> Path:
    """Add an engine to a bundle; `fields` are those of its record, or `broken` for its plan."""
    manifest = Bundle.open(folder).manifest
    (graph,) = [a.file for a in manifest.artefacts if (a.kind, a.precision) == ("onnx", precision)]
    broken = fields.pop("broken", {})
    info = engine_info(**{"graph_sha256": graph.sha256, **fields})
    if plan is None:
        profile = {axis: list(sizes) for axis, sizes in info.profile.items()}
        plan = plan_of(manifest.inputs, manifest.outputs, **{"profile": profile, **broken})
    (folder / "engines").mkdir(exist_ok=True)
    number = len(list((folder / "engines").iterdir()))
    name = f"engines/{number}-{info.family}.{precision}.engine"
    (folder / name).write_bytes(plan)
    ref = FileRef(path=name, sha256=hashlib.sha256(plan).hexdigest(), bytes=len(plan))
    artefact = Artefact(kind="engine", precision=precision, file=ref, engine=info)
    content = json.loads((folder / MANIFEST).read_text("utf-8"))
    content["artefacts"].append(artefact.model_dump(mode="json", exclude_none=True))
    (folder / MANIFEST).write_text(json.dumps(content), "utf-8")
    return folder / name
