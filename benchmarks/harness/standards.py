"""The standards that the rows of one bundle are judged by, each computed once and when needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autosam_deploy.benchmarks.harness.child import Child, ChildError
from autosam_deploy.benchmarks.harness.inputs import (
    GOLDEN,
    NOISE,
    TIMED,
    InputSet,
    golden_set,
    noise_set,
    timing_batches,
    volume_set,
)
from autosam_deploy.benchmarks.harness.judge import Standard
from autosam_deploy.benchmarks.harness.plan import Options
from autosam_deploy.benchmarks.harness.truth import logits_file
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BundleError
from autosam_deploy.parity import Array, Reference, gate_of
from autosam_deploy.runtime.selftest import GoldenArrays, read_parity

_TRUTH = "autosam_deploy.benchmarks.harness.truth"
#: What a bundle without weights leaves to compare with.
_STORED, _TORCH = "golden", "torch fp32"


@dataclass
class Standards:
    """Inputs, truth and references of one bundle.

    problems: what is wrong with the bundle itself. warnings: what could not be compared, and why.
    """

    bundle: Bundle
    folder: Path
    options: Options
    sets: list[InputSet] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def read(self) -> None:
        """Read the inputs: whatever is wrong with them is known before anything is measured.

        Raises:
            BundleError: golden files or the parity record are not what the manifest says.
            VolumeError: a volume cannot be read.
            UsageError: labels do not belong to the volumes or the classes.
        """
        golden, self._golden = golden_set(self.bundle)
        self._record = read_parity(self.bundle)
        self._references: dict[str, dict[str, Reference | None]] = {}
        self.problems += golden_problems(self._golden)
        self.sets = [golden]
        model, options = self.bundle.manifest.model, self.options
        if self.bundle.find("weights", "fp32") is None:
            self.warnings.append(
                "the bundle has no weights (--slim): parity is against its golden tensors alone"
            )
            self._truth = _STORED
            return
        self.sets.append(noise_set(model.encoder, seed=options.seed))
        if options.volumes is not None:
            self.sets.append(
                volume_set(options.volumes, options.labels, model, count=options.parity_slices)
            )
        if options.peers:
            batch = timing_batches(
                options.volumes, batch=options.batches[0], side=options.size, seed=options.seed
            )[0]
            self.sets.append(InputSet(TIMED, (batch,)))
        self._truth = _TORCH

    def compute(self) -> None:
        """Compute the truth of all inputs, after `read`."""
        self.files = {one.name: one.save(self.folder) for one in self.sets}
        if self._truth == _STORED:
            return
        try:
            self._references["fp32"] = self._compute("fp32")
        except ChildError as error:
            self.warnings.append(
                f"no truth from the weights ({error}): parity is against golden tensors alone"
            )
            self._truth = _STORED
            self.sets = [one for one in self.sets if one.name == GOLDEN]
            self.files = {GOLDEN: self.files[GOLDEN]}
            return
        self.problems += self._golden_against_weights()

    def _compute(self, precision: str) -> dict[str, Reference | None]:
        """Run the truth's process for one precision.

        What export measured on the golden slices is not measured again, and peers, which are not
        judged, need no reference of their own.
        """
        known = {TIMED} if self._record.comparison_of(precision) is None else {TIMED, GOLDEN}
        files = {n: f for n, f in self.files.items() if precision == "fp32" or n != TIMED}
        job = {
            "bundle": str(self.bundle.path),
            "precision": precision,
            "threads": self.options.threads,
            "device": self.options.device,
            "sets": {name: [str(file) for file in found] for name, found in files.items()},
            "measured": [name for name in files if name not in known],
        }
        child = Child(_TRUTH, job, self.folder / f"truth-{precision}", threads=self.options.threads)
        try:
            found = child.answer(timeout=self.options.timeout_s)["references"]
        finally:
            child.close()
        return {
            name: None if value is None else Reference.model_validate(value)
            for name, value in found.items()
        }

    def standard(self, inputs: InputSet, precision: str, *, judged: bool = True) -> Standard:
        """Return what a row of some precision is judged by on some inputs.

        Args:
            inputs: one of `sets`.
            precision: that the row really runs in.
            judged: peers are not: they are compared by the reference of float32.
        """
        wanted = precision if judged else "fp32"
        self._measure(wanted)
        reference = self._reference(inputs.name, wanted)
        same = None
        if self._truth == _TORCH and wanted != "fp32":
            files = [logits_file(file, wanted) for file in self.files[inputs.name]]
            if all(file.is_file() for file in files):
                same = tuple(np.load(file) for file in files)
        return Standard(inputs, self._logits(inputs.name), self._truth, reference, same)

    def _logits(self, name: str) -> tuple[Array, ...]:
        if self._truth == _STORED:
            return tuple(one.logits for one in self._golden)
        return tuple(np.load(logits_file(file, "fp32")) for file in self.files[name])

    def _measure(self, precision: str) -> None:
        """Measure plain PyTorch in a precision, once, where there are weights to do it with."""
        if self._truth == _STORED or precision in self._references:
            return
        if precision == "int8":
            # PyTorch has no like of it: the record of the bundle is the only reference.
            self._references[precision] = {}
            return
        try:
            self._references[precision] = self._compute(precision)
        except ChildError as error:
            self._references[precision] = {}
            self.warnings.append(f"no {precision} reference was measured: {error}")

    def _reference(self, name: str, precision: str) -> Reference:
        """Return the error of plain PyTorch: measured in this run, else as export recorded it."""
        judged = self._record.comparison_of(precision)
        recorded = None if judged is None else judged.reference
        if name in (GOLDEN, TIMED) and recorded is not None:
            return recorded
        found = self._references.get(precision, {}).get(name)
        if found is not None:
            return found
        if recorded is None:
            raise BundleError(
                f"there is nothing to judge {precision} by on {name} inputs",
                got="no record of export and no measurement",
                todo="export the bundle again in that precision",
            )
        return recorded

    def _golden_against_weights(self) -> list[str]:
        """Compare the stored golden logits with what the stored weights give now."""
        now = self._logits(GOLDEN)
        reference = self._reference(GOLDEN, "fp32")
        # Export computed them elsewhere, by another order of sums: either may be off by the gate.
        gate = 2 * gate_of(reference, list(now))
        worst = max(
            float(np.abs(one.logits - fresh).max())
            for one, fresh in zip(self._golden, now, strict=True)
        )
        if worst <= gate:
            return []
        return [
            f"golden logits are not those of the bundle's weights: they differ by {worst:.3g}, "
            f"gate {gate:.3g}"
        ]


def golden_problems(golden: tuple[GoldenArrays, ...]) -> list[str]:
    """Say where golden labels are not the argmax of golden logits, which export wrote together."""
    found = []
    for number, one in enumerate(golden):
        wrong = int((one.labels != one.logits.argmax(axis=1)).sum())
        if wrong:
            found.append(
                f"golden labels of case {number} are not those of its golden logits: "
                f"{wrong} of {one.labels.size} pixels"
            )
    return found


def sets_for(standards: Standards, *, judged: bool, precision: str | None = None) -> list[InputSet]:
    """Return the sets that a row runs.

    Peers take the slices that they are timed on, and no other: a compiled one would compile again
    for every other shape. An int8 graph has the ranges of images, which noise is not.
    """
    timed = [one for one in standards.sets if one.name == TIMED]
    if not judged:
        return timed or standards.sets[:1]
    left_out = {TIMED, NOISE} if precision == "int8" else {TIMED}
    return [one for one in standards.sets if one.name not in left_out]


def file_lists(standards: Standards, sets: list[InputSet]) -> dict[str, Any]:
    """Return the files of some sets as JSON values."""
    return {one.name: [str(file) for file in standards.files[one.name]] for one in sets}
