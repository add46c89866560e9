"""Export: a segmenter becomes a bundle whose every graph was compared with it, or nothing."""

from __future__ import annotations

import logging
import platform
import shlex
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from autosam_deploy.bundle.manifest import (
    SCHEMA_VERSION,
    UNTRAINED_USE,
    Artefact,
    FileRef,
    GoldenCase,
    Island,
    Manifest,
    Precision,
    Provenance,
    Typing,
)
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.bundle.writer import BundleWriter, create_bundle
from autosam_deploy.errors import ParityError
from autosam_deploy.export.graph import default_opset, export_onnx
from autosam_deploy.export.lowering import FLOAT_LOWERING, LOW_PRECISION_LOWERING
from autosam_deploy.export.samples import Samples
from autosam_deploy.export.steps import Steps
from autosam_deploy.export.truth import Truth, compute_truth, float32_reference, low_reference
from autosam_deploy.files import write_json
from autosam_deploy.fused.precision import (
    LowPrecision,
    PrecisionPlan,
    apply_precision,
    measure_ranges,
    plan_precision,
)
from autosam_deploy.fused.segmenter import FusedSegmenter, fuse
from autosam_deploy.models.assemble import Assembled
from autosam_deploy.models.checkpoints import write_segmenter
from autosam_deploy.parity import (
    Array,
    Comparison,
    ParityRecord,
    Reference,
    compare,
    require_passed,
)
from autosam_deploy.runtime.engine import Engine

DEFAULT_USE = "Research use only. Not a medical device; outputs need review by a qualified reader."


@dataclass(frozen=True)
class Plan:
    """What to export.

    precisions: graphs to write; fp32 is always among them. ladder: fall back from fp16 to fp32
    alone when fp16 misses its gate, and record it. opset: None takes the lowering's default.
    """

    precisions: tuple[Literal["fp32"] | LowPrecision, ...] = ("fp32",)
    ladder: bool = False
    lowering: str = FLOAT_LOWERING
    opset: int | None = None
    slim: bool = False
    intended_use: str | None = None


@dataclass
class Result:
    """What was exported, for the report."""

    path: Path
    manifest: Manifest
    record: ParityRecord
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)


def export_bundle(
    assembled: Assembled, samples: Samples, output: Path, *, plan: Plan, steps: Steps
) -> Result:
    """Write a bundle, compare every graph of it with the segmenter, and put it in place.

    Args:
        assembled: the segmenter and where it comes from.
        samples: slices to calibrate and compare on; they become the golden cases.
        output: the bundle's folder; an older bundle there is replaced at the very end.
        plan: what to export.
        steps: shows progress.

    Raises:
        ParityError: a graph misses its gate; nothing is left behind.
        ExportError: the model cannot be written as asked.
        OutputError: the folder cannot be written.
    """
    run = _Run(assembled, samples, plan, steps)
    with create_bundle(output) as writer:
        manifest = run.write(writer, output.name.removesuffix(".autosam"))
        with steps.step("hash and write"):
            writer.finish(manifest)
    record = ParityRecord.model_validate_json((output / "parity.json").read_text("utf-8"))
    return Result(output, manifest, record, steps.seconds, run.notes)


class _Run:
    """One export; fields are what later steps need of earlier ones."""

    def __init__(self, assembled: Assembled, samples: Samples, plan: Plan, steps: Steps) -> None:
        self.assembled = assembled
        self.samples = samples
        self.plan = plan
        self.steps = steps
        self.artefacts: list[Artefact] = []
        self.comparisons: list[Comparison] = []
        self.notes: list[str] = []

    def write(self, writer: BundleWriter, name: str) -> Manifest:
        segmenter = self.assembled.segmenter
        with self.steps.step("reference segmenter (torch fp32)"):
            truth = compute_truth(segmenter, self.samples)
        golden = _write_golden(writer, truth)
        if not self.plan.slim:
            with self.steps.step("weights"):
                write_segmenter(
                    writer.folder / "weights.safetensors",
                    segmenter.state_dict(),
                    self.assembled.info(),
                )
            ref = writer.ref("weights.safetensors")
            self.artefacts.append(Artefact(kind="weights", precision="fp32", file=ref))
        with self.steps.step("reference error (torch fp32 against float64)"):
            reference = float32_reference(segmenter, truth)
        fused = fuse(segmenter, lowering=self.plan.lowering)
        self._graph(writer, fused, name, golden, truth, precision="fp32", reference=reference)
        for precision in self.plan.precisions:
            if precision != "fp32":
                self._low(writer, name, golden, truth, precision)
        return self._finish(writer, name, golden)

    def _low(
        self,
        writer: BundleWriter,
        name: str,
        golden: tuple[GoldenCase, ...],
        truth: Truth,
        precision: LowPrecision,
    ) -> None:
        segmenter = self.assembled.segmenter
        fused = fuse(segmenter, lowering=LOW_PRECISION_LOWERING)
        with self.steps.step(f"activation ranges for {precision}"):
            batches = [torch.from_numpy(batch) for batch in self.samples.batches]
            plan = plan_precision(fused, measure_ranges(fused, batches), precision=precision)
        try:
            with self.steps.step(f"reference error (torch {precision})"):
                reference = low_reference(segmenter, fused, plan, truth)
            self._graph(
                writer,
                apply_precision(fused, plan),
                name,
                golden,
                truth,
                precision=precision,
                reference=reference,
                typing=_typing(plan),
            )
        except ParityError as error:
            if not self.plan.ladder:
                raise
            (writer.folder / f"model.{precision}.onnx").unlink(missing_ok=True)
            self.notes.append(f"{precision} was left out: {error}")

    def _graph(
        self,
        writer: BundleWriter,
        fused: FusedSegmenter,
        name: str,
        golden: tuple[GoldenCase, ...],
        truth: Truth,
        *,
        precision: Precision,
        reference: Reference,
        typing: Typing | None = None,
    ) -> None:
        """Write one graph, run it through the runtime, and judge it."""
        file = f"model.{precision}.onnx"
        opset = self.plan.opset if precision == "fp32" else None
        opset = opset or default_opset(fused.lowering)
        with self.steps.step(f"{precision} graph ({fused.lowering}, opset {opset})"):
            export_onnx(fused, writer.folder / file, opset=opset)
        data = writer.folder / f"{file}.data"
        artefact = Artefact(
            kind="onnx",
            precision=precision,
            file=writer.ref(file),
            external_data=writer.ref(data.name) if data.exists() else None,
            lowering=fused.lowering,
            opset=opset,
            typing=typing,
        )
        with self.steps.step(f"parity {precision} (ONNX Runtime, CPU)"):
            manifest = self._manifest(
                name, golden, (artefact,), FileRef(path="parity.json", sha256="0" * 64, bytes=0)
            )
            outputs = _run_graph(Bundle(writer.folder, manifest, ""), truth, precision)
        comparison = compare(
            outputs,
            list(truth.logits),
            artefact=file,
            precision=precision,
            reference=reference,
            names=self.assembled.spec.outputs,
        )
        require_passed(comparison)
        self.artefacts.append(artefact)
        self.comparisons.append(comparison)

    def _finish(self, writer: BundleWriter, name: str, golden: tuple[GoldenCase, ...]) -> Manifest:
        trained = self.assembled.trained and not self.assembled.position_missing
        record = ParityRecord(
            verdict="passed" if trained else "latency-only",
            inputs=self.samples.origin,
            shapes=tuple(batch.shape for batch in self.samples.batches),
            comparisons=tuple(self.comparisons),
            versions=_versions(),
        )
        write_json(writer.folder / "parity.json", record.model_dump(mode="json"))
        return self._manifest(name, golden, tuple(self.artefacts), writer.ref("parity.json"))

    def _manifest(
        self,
        name: str,
        golden: tuple[GoldenCase, ...],
        artefacts: tuple[Artefact, ...],
        parity: FileRef,
    ) -> Manifest:
        assembled = self.assembled
        trained = assembled.trained and not assembled.position_missing
        return Manifest(
            schema_version=SCHEMA_VERSION,
            name=name,
            trained=trained,
            intended_use=self.plan.intended_use or (DEFAULT_USE if trained else UNTRAINED_USE),
            model=assembled.spec,
            inputs=(assembled.spec.input_tensor,),
            outputs=assembled.spec.output_tensors,
            artefacts=artefacts,
            golden=golden,
            parity=parity,
            provenance=Provenance(
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
                versions=_versions(),
                sources=dict(assembled.sources),
                encoder_sha256=assembled.encoder_sha256,
                encoder_weights=assembled.encoder_weights,
            ),
        )


def _typing(plan: PrecisionPlan) -> Typing:
    return Typing(
        range_limit=plan.range_limit,
        share=plan.share,
        islands=tuple(
            Island(node=i.node, reason=i.reason, largest=i.largest) for i in plan.islands
        ),
    )


def _write_golden(writer: BundleWriter, truth: Truth) -> tuple[GoldenCase, ...]:
    samples = truth.samples
    return tuple(
        writer.golden(name, slices=slices, labels=labels, logits=logits)
        for name, slices, labels, logits in zip(
            samples.names, samples.batches, truth.labels, truth.logits, strict=True
        )
    )


def _run_graph(bundle: Bundle, truth: Truth, precision: Precision) -> list[dict[str, Array]]:
    """Run every sample through the same Engine that users have."""
    logger = logging.getLogger("autosam_deploy.runtime")
    level = logger.level
    # Half precision is slow on a CPU; here it is run to be compared, not to be fast.
    logger.setLevel(logging.ERROR)
    try:
        with Engine.open(
            bundle, backend="onnxruntime", device="cpu", precision=precision, verify=False
        ) as engine:
            return [engine.outputs(batch) for batch in truth.samples.batches]
    finally:
        logger.setLevel(level)


def _versions() -> dict[str, str]:
    packages = ("autosam-deploy", "torch", "segment-anything", "onnx", "onnxscript", "numpy")
    found = {package: version(package) for package in packages}
    import onnxruntime

    return {"python": platform.python_version(), **found, "onnxruntime": onnxruntime.__version__}
