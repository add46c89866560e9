"""Say what a file is: a checkpoint, a bundle or an ONNX graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import UsageError
from autosam_deploy.export.checks.record import state_of
from autosam_deploy.extras import require
from autosam_deploy.models.named import find_weights
from autosam_deploy.parity import ParityRecord
from autosam_deploy.runtime.selftest import read_parity


def inspect_path(path: Path) -> dict[str, Any]:
    """Return what `path` is, a file or the name of published weights, as JSON values.

    Raises:
        UsageError: nothing there.
        CheckpointError: not a known weights file.
        BundleError: a folder that is no sound bundle.
        MissingExtraError: the name of published weights that are not installed.
    """
    path = find_weights(path)
    if path.is_dir():
        return _bundle(path)
    if not path.exists():
        raise UsageError(f"no file at '{path}'", todo="check the path")
    if path.suffix == ".onnx":
        return _graph(path)
    require("torch", extra="export", feature="inspecting a checkpoint")
    from autosam_deploy.models.checkpoints import read_checkpoint

    return read_checkpoint(path).summary()


def _bundle(path: Path) -> dict[str, Any]:
    bundle = Bundle.open(path, verify=False)
    record = read_parity(bundle)
    manifest = bundle.manifest
    model = manifest.model
    return {
        "file": str(path),
        "description": f"bundle '{manifest.name}'" + ("" if manifest.trained else " (untrained)"),
        "encoder": f"{model.encoder.name} at {'x'.join(map(str, model.encoder.image_size))}",
        "head": model.head.kind,
        "classes": [entry.name for entry in model.classes],
        "preprocess": model.preprocess.model_dump(mode="json", exclude_none=True),
        "artefacts": [_artefact(artefact, record) for artefact in manifest.artefacts],
        "golden": len(manifest.golden),
        "created": manifest.provenance.created,
        "intended_use": manifest.intended_use,
    }


def _artefact(artefact: Artefact, record: ParityRecord) -> dict[str, Any]:
    beside = artefact.external_data.bytes if artefact.external_data else 0
    facts: dict[str, Any] = {
        "file": artefact.file.path,
        "precision": artefact.precision,
        "megabytes": round((artefact.file.bytes + beside) / 1e6, 1),
    }
    if artefact.kind == "onnx":
        return {**facts, "lowering": artefact.lowering, "opset": artefact.opset}
    if (info := artefact.engine) is None:
        return facts
    memory = info.activation_bytes
    return {
        **facts,
        "library": f"{info.family} {info.version}",
        "gpu": ", ".join(f"sm{sm}" for sm in info.compute_capabilities),
        **{axis: "..".join(map(str, sizes[::2])) for axis, sizes in info.profile.items()},
        "activation_megabytes": None if memory is None else round(memory / 1e6, 1),
        "low_share": info.low_share,
        "state": state_of(record, artefact),
    }


def _graph(path: Path) -> dict[str, Any]:
    onnx = require("onnx", extra="export", feature="inspecting a graph")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        # protobuf raises a class of its own that changes between releases.
        raise UsageError(f"'{path}' is no ONNX graph", got=str(error)) from error
    if not model.graph.node:
        raise UsageError(f"'{path}' is no ONNX graph", got="no nodes", expected="an .onnx file")

    def describe(value: Any) -> str:
        tensor = value.type.tensor_type
        dims = ", ".join(d.dim_param or str(d.dim_value) for d in tensor.shape.dim)
        return f"{value.name} {onnx.TensorProto.DataType.Name(tensor.elem_type)} ({dims})"

    weights: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        count = 1
        for dim in tensor.dims:
            count *= dim
        weights[onnx.TensorProto.DataType.Name(tensor.data_type)] += count
    return {
        "file": str(path),
        "description": "ONNX graph",
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "inputs": [describe(value) for value in model.graph.input],
        "outputs": [describe(value) for value in model.graph.output],
        "nodes": len(model.graph.node),
        "weights": dict(weights),
        "bytes": path.stat().st_size,
    }
