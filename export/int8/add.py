"""Adding an int8 graph to a bundle that is there: all of it and its record, or nothing."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from autosam_deploy.bundle.manifest import Artefact, Manifest
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.bundle.writer import add_member, amend_bundle
from autosam_deploy.cores import usable_cores
from autosam_deploy.errors import ExportError, OutputError
from autosam_deploy.export.int8.graph import quantize
from autosam_deploy.export.int8.judge import Judgement, judge, open_run, require_good
from autosam_deploy.export.int8.request import Int8Request
from autosam_deploy.export.int8.slices import read_material
from autosam_deploy.parity import (
    Comparison,
    ParityRecord,
    Reference,
    compare,
    reference_of,
    require_passed,
)
from autosam_deploy.runtime.selftest import read_golden, read_parity


@dataclass(frozen=True)
class AddedInt8:
    """The graph as the bundle names it, how many layers multiply integers, and the judgement."""

    artefact: Artefact
    layers: int
    judgement: Judgement
    plain_bytes: int


def add_int8(path: Path, request: Int8Request, *, progress: Progress) -> AddedInt8:
    """Quantize a bundle's float32 graph, judge the result, and record both in the bundle.

    Args:
        path: the bundle; an int8 graph that it has is replaced.
        request: slices.
        progress: display.

    Raises:
        ParityError: int8 costs too much; the bundle is as it was. Random weights are not held to
            the gates: they are for latency work.
        ExportError: the bundle has no float32 graph with logits, or it cannot be quantized.
        UsageError: the volumes do not do.
        OutputError: the bundle's folder cannot be written.
    """
    bundle = Bundle.open(path)
    plain = _plain_graph(bundle)
    model = bundle.manifest.model
    material = read_material(
        request.images,
        request.labels,
        model,
        calibration=request.calibration,
        judged=request.judged,
    )
    graph, threads = bundle.file(plain.file), request.threads or usable_cores()
    try:
        scratch = tempfile.TemporaryDirectory(prefix="autosam-int8-", ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError("no temporary folder", got=str(error)) from error
    with scratch as folder:
        target = Path(folder) / "model.int8.onnx"
        task = progress.add_task(f"ranges of {len(material.calibration)} slices", total=None)
        layers = quantize(graph, target, material.calibration)
        progress.update(
            task,
            description=f"judging on {material.judged_slices} slices",
            total=material.judged_slices,
        )
        runs = open_run(graph, threads=threads), open_run(target, threads=threads)
        judgement = judge(
            *runs,
            material,
            classes=len(model.classes),
            step=lambda: progress.advance(task),
        )
        if bundle.manifest.trained:
            require_good(judgement)
        comparison = _against_golden(bundle, runs[1], judgement)
        artefact = _insert(bundle, plain, target.read_bytes(), comparison, judgement)
    return AddedInt8(artefact, layers, judgement, graph.stat().st_size)


def _plain_graph(bundle: Bundle) -> Artefact:
    plain = bundle.find("onnx", "fp32")
    if plain is None:
        raise ExportError(
            "the bundle has no fp32 graph to quantize",
            got=", ".join(bundle.precisions("onnx")) or "no graph",
            todo="export it again",
        )
    if "logits" not in bundle.manifest.model.outputs:
        raise ExportError(
            "int8 is judged by logits too, and the graph gives none",
            got="--outputs labels",
            todo="export it again with --outputs labels,logits",
        )
    return plain


def _against_golden(bundle: Bundle, run: Any, judgement: Judgement) -> Comparison:
    """Return the record that other machines are held to: what int8 gives here, twice at most."""
    golden = [read_golden(bundle, case) for case in bundle.manifest.golden]
    outputs = [run(case.slices) for case in golden]
    here = reference_of(
        "quantized", [one["logits"] for one in outputs], [one.logits for one in golden]
    )
    comparison = compare(
        outputs,
        [one.logits for one in golden],
        artefact="model.int8.onnx",
        precision="int8",
        reference=Reference(
            method="quantized",
            max_error=max(here.max_error, judgement.largest),
            rms_error=max(here.rms_error, judgement.rms),
            slices=here.slices + judgement.quantized.slices,
        ),
    )
    require_passed(comparison)
    return comparison


def _insert(
    bundle: Bundle,
    plain: Artefact,
    content: bytes,
    comparison: Comparison,
    judgement: Judgement,
) -> Artefact:
    """Write graph and record beside the old ones, then the manifest that names them."""
    name = _free(bundle, "model.int8", ".onnx")
    artefact = Artefact(
        kind="onnx",
        precision="int8",
        file=add_member(bundle, name, content),
        lowering=plain.lowering,
        opset=plain.opset,
    )
    record = read_parity(bundle)
    others = tuple(one for one in record.comparisons if one.precision != "int8")
    record = record.model_copy(
        update={
            "comparisons": (*others, comparison.model_copy(update={"artefact": name})),
            "quantized": judgement.quantized,
        }
    )
    parity = add_member(bundle, _free(bundle, "parity-int8", ".json"), _as_json(record))
    kept = [
        one for one in bundle.manifest.artefacts if (one.kind, one.precision) != ("onnx", "int8")
    ]
    manifest = Manifest.model_validate(
        {
            **bundle.manifest.model_dump(),
            "artefacts": [one.model_dump() for one in (*kept, artefact)],
            "parity": parity.model_dump(),
        }
    )
    amend_bundle(bundle, manifest)
    return artefact


def _as_json(record: ParityRecord) -> bytes:
    return json.dumps(record.model_dump(mode="json"), indent=2).encode()


def _free(bundle: Bundle, stem: str, suffix: str) -> str:
    """Return a name that no file of the bundle has."""
    name, number = f"{stem}{suffix}", 1
    while (bundle.path / name).exists():
        number += 1
        name = f"{stem}-{number}{suffix}"
    return name
