"""Parity: does an artefact compute what the segmenter computes?

An artefact may err as much as the same model does in the same precision in plain PyTorch, twice at
most, plus a rounding floor. So gates are derived, not chosen:

    gate = 2 x (largest |logit difference| of the same-dtype reference) + floor
    floor = 8 ulp (in float32) of the largest logit: sums of another order, Resize coordinates

Labels follow the argmax of the truth. A pixel whose two largest truth logits lie within twice the
reference's largest error is a near-tie: rounding in plain PyTorch alone may decide it either way
(the reference's linear head ends in a ReLU, so exact ties at zero are normal). Near-ties are
counted, and left out of the label gates: agreement and Dice of every class at least 0.999.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from autosam_deploy.errors import ParityError
from autosam_deploy.metrics import label_agreement
from autosam_deploy.strict import Strict

Array = NDArray[Any]
Failure = Literal["empty", "names", "shapes", "dtypes", "finite", "values", "labels"]

FACTOR = 2.0
MIN_AGREEMENT = 0.999
MIN_DICE = 0.999
_FLOOR_ULP = 8.0


class Reference(Strict):
    """Error of the same model in the same precision in plain PyTorch, against the truth.

    method: "float64" (float32 judged against float64, the worse of resize coordinates as PyTorch
    and as ONNX round them), "rounded" (plain low precision, every
    result rounded), "typed" (the typed PyTorch model, where plain low precision is not finite), or
    "quantized" (PyTorch has no like of an int8 graph: its own error where it was made, so that a
    gate asks whether a host gives what was judged there; see `Quantized`).
    """

    method: Literal["float64", "rounded", "typed", "quantized"]
    max_error: float = Field(ge=0)
    rms_error: float = Field(ge=0)
    slices: int = Field(gt=0)


class Comparison(Strict):
    """One artefact against the truth on all slices; `failures` is empty when it passed.

    required_tolerance: the smallest absolute tolerance that the logits would pass; None when they
    could not be compared. agreement: share of equal labels outside near-ties. dice: per class,
    outside near-ties, None where a class is in neither.
    """

    artefact: str
    precision: str
    reference: Reference
    gate: float
    required_tolerance: float | None = None
    rms_difference: float | None = None
    agreement: float | None = None
    ties: float | None = None
    dice: Annotated[tuple[float | None, ...], Field(strict=False)] = ()
    failures: Annotated[tuple[Failure, ...], Field(strict=False)] = ()
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether every check held."""
        return not self.failures


class EngineRun(Strict):
    """One engine against the golden slices, on the machine that ran it.

    sha256: of the engine's file, so that a rebuilt engine has no run. device: as the backend names
    it. created: ISO 8601, UTC.
    """

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    device: str
    created: str
    versions: dict[str, str]
    comparison: Comparison


class Quantized(Strict):
    """What int8 costs on real volumes, judged on volumes that set no ranges.

    calibration_slices: that set the ranges. cases, slices: judged. agreement: share (0..1) of all
    pixels that are labelled as the float32 graph does. dice_loss: of the class that loses most,
    the mean over cases. truth: whose Dice, that of people's labels or, without them, of the
    float32 graph's own.
    """

    calibration_slices: int = Field(gt=0)
    cases: int = Field(gt=0)
    slices: int = Field(gt=0)
    agreement: float = Field(ge=0, le=1)
    dice_loss: float
    truth: Literal["labels", "fp32 graph"]


class ParityRecord(Strict):
    """What `parity.json` holds. `verdict` is "latency-only" for weights that were never trained.

    Engines are built where they cannot run; `engines` holds the runs on their GPUs. An engine
    without one is built, not run. `quantized` belongs to the int8 graph, if there is one.
    """

    verdict: Literal["passed", "latency-only"]
    inputs: str
    shapes: Annotated[tuple[tuple[int, ...], ...], Field(strict=False)]
    comparisons: Annotated[tuple[Comparison, ...], Field(strict=False, min_length=1)]
    versions: dict[str, str]
    engines: Annotated[tuple[EngineRun, ...], Field(strict=False)] = ()
    quantized: Quantized | None = None

    def comparison_of(self, precision: str) -> Comparison | None:
        """Return what export found for a precision, None if it never judged one."""
        return next((c for c in self.comparisons if c.precision == precision), None)

    def run_of(self, sha256: str) -> EngineRun | None:
        """Return the last run of an engine by its file's hash, None if it never ran."""
        return next((run for run in reversed(self.engines) if run.sha256 == sha256), None)


def reference_of(
    method: Literal["float64", "rounded", "typed", "quantized"],
    found: list[Array],
    truth: list[Array],
) -> Reference:
    """Measure a reference: largest and root-mean-square difference over all slices.

    Raises:
        ParityError: nothing was given, or values are not finite.
    """
    if not found:
        raise ParityError("an empty set of slices proves nothing")
    parts = [
        a.astype(np.float64).ravel() - b.astype(np.float64).ravel()
        for a, b in zip(found, truth, strict=True)
    ]
    difference = np.concatenate(parts)
    if not np.isfinite(difference).all():
        raise ParityError(
            f"the '{method}' reference is not finite",
            got=f"{int((~np.isfinite(difference)).sum())} of {difference.size} logits",
            todo="use bf16 or fp32",
        )
    return Reference(
        method=method,
        max_error=float(np.abs(difference).max()),
        rms_error=float(np.sqrt(np.mean(np.square(difference)))),
        slices=sum(len(array) for array in found),
    )


def worse_of(first: Reference, second: Reference) -> Reference:
    """Return the larger errors of two references of one method."""
    return first.model_copy(
        update={
            "max_error": max(first.max_error, second.max_error),
            "rms_error": max(first.rms_error, second.rms_error),
        }
    )


def gate_of(reference: Reference, truth: list[Array]) -> float:
    """Return the largest logit difference that passes (see the module's text)."""
    largest = max(float(np.abs(array).max()) for array in truth)
    return FACTOR * reference.max_error + _FLOOR_ULP * float(np.spacing(np.float32(largest)))


def compare(
    outputs: list[dict[str, Array]],
    truth: list[Array],
    *,
    artefact: str,
    precision: str,
    reference: Reference,
    names: tuple[str, ...] = ("labels", "logits"),
) -> Comparison:
    """Compare an artefact's outputs with the truth, in order of names, shapes, dtypes, values.

    Args:
        outputs: per batch, output name -> array: labels (B, H, W) uint8, logits (B, K, H, W).
        truth: per batch, the segmenter's logits (B, K, H, W) float32.
        artefact: file name, for the record.
        precision: of the artefact, for the record.
        reference: error of the same dtype in plain PyTorch on slices of the same kind.
        names: the outputs that the artefact must have.

    Returns:
        The comparison, with every failure that was found; nothing to compare is a failure.
    """
    base = Comparison(
        artefact=artefact,
        precision=precision,
        reference=reference,
        gate=gate_of(reference, truth) if truth else 0.0,
    )
    if not outputs or len(outputs) != len(truth):
        return _fail(base, "empty", f"{len(outputs)} outputs for {len(truth)} batches")
    if problem := _structure(outputs, truth, names):
        return _fail(base, *problem)
    failures: list[Failure] = []
    details = []
    update: dict[str, Any] = {}
    if "logits" in names:
        found = np.concatenate([o["logits"].ravel() for o in outputs]).astype(np.float64)
        wanted = np.concatenate([t.ravel() for t in truth]).astype(np.float64)
        if bad := int((~np.isfinite(found)).sum()):
            return _fail(base, "finite", f"{bad} of {found.size} logits are not finite")
        difference = np.abs(found - wanted)
        worst = float(difference.max())
        update["required_tolerance"] = worst
        update["rms_difference"] = float(np.sqrt(np.mean(np.square(difference))))
        if worst > base.gate:
            failures.append("values")
            details.append(f"|logit difference| {worst:.3g} exceeds the gate {base.gate:.3g}")
    if "labels" in names:
        labels_update, detail = _labels(outputs, truth, reference)
        update.update(labels_update)
        if detail:
            failures.append("labels")
            details.append(detail)
    update.update(failures=tuple(failures), detail="; ".join(details))
    return base.model_copy(update=update)


def _fail(base: Comparison, failure: Failure, detail: str) -> Comparison:
    return base.model_copy(update={"failures": (failure,), "detail": detail})


def _structure(
    outputs: list[dict[str, Array]], truth: list[Array], names: tuple[str, ...]
) -> tuple[Failure, str] | None:
    """Return the first failure of names, shapes or dtypes."""
    dtypes = {"labels": "uint8", "logits": "float32"}
    for found, wanted in zip(outputs, truth, strict=True):
        if tuple(sorted(found)) != tuple(sorted(names)):
            return "names", f"got {', '.join(found) or 'none'}; expected {', '.join(names)}"
        shapes = {"labels": (wanted.shape[0], *wanted.shape[2:]), "logits": wanted.shape}
        for name in names:
            if found[name].shape != shapes[name]:
                return "shapes", f"{name}: got {found[name].shape}; expected {shapes[name]}"
            if str(found[name].dtype) != dtypes[name]:
                return "dtypes", f"{name}: got {found[name].dtype}; expected {dtypes[name]}"
    return None


def _labels(
    outputs: list[dict[str, Array]], truth: list[Array], reference: Reference
) -> tuple[dict[str, Any], str]:
    """Return agreement, ties and Dice over all batches, and what is wrong with them."""
    classes = truth[0].shape[1]
    labels = np.concatenate([o["labels"].ravel() for o in outputs])[None, None]
    logits = np.concatenate([np.moveaxis(t, 1, 0).reshape(classes, -1) for t in truth], axis=1)
    agreement = label_agreement(labels, logits[None, :, None], tie_margin=2 * reference.max_error)
    scores = tuple(None if np.isnan(score) else score for score in agreement.dice)
    update = {"agreement": agreement.share, "ties": agreement.ties, "dice": scores}
    problems = []
    if agreement.share < MIN_AGREEMENT:
        problems.append(f"label agreement {agreement.share:.5f} is below {MIN_AGREEMENT}")
    low = [(i, s) for i, s in enumerate(scores) if s is not None and s < MIN_DICE]
    problems += [f"Dice of class {i} is {s:.5f}, below {MIN_DICE}" for i, s in low]
    return update, "; ".join(problems)


def require_passed(comparison: Comparison) -> None:
    """Raise unless a comparison passed.

    Raises:
        ParityError: with the kind of failure and the numbers.
    """
    if not comparison.passed:
        raise ParityError(
            f"{comparison.artefact} ({comparison.precision}) does not agree with the segmenter "
            f"({', '.join(comparison.failures)})",
            got=comparison.detail,
            expected=f"within 2 x the '{comparison.reference.method}' reference",
            todo="nothing was written; try --precision fp32 or bf16, or --lowering explicit",
        )
