"""Judge what a row gave for one set of inputs: every kind of failure by its own name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autosam_deploy.benchmarks.harness.collect import Repeats
from autosam_deploy.benchmarks.harness.heatmap import heat_map
from autosam_deploy.benchmarks.harness.inputs import InputSet
from autosam_deploy.benchmarks.harness.record import Failure, GroundTruth, Parity
from autosam_deploy.benchmarks.harness.runners import Outputs
from autosam_deploy.errors import AutosamError
from autosam_deploy.metrics import dice, mean_foreground
from autosam_deploy.parity import MIN_AGREEMENT, Array, Comparison, Reference, compare, gate_of

#: What leaves nothing to compare further.
_STRUCTURE = ("empty", "names", "shapes", "dtypes", "finite")


@dataclass(frozen=True)
class Standard:
    """What a set of inputs is judged by.

    logits: the truth, per batch (B, K, H, W) float32. truth: where it is from. reference: error of
    plain PyTorch in the row's dtype. same_dtype: its logits, where they were computed.
    """

    inputs: InputSet
    logits: tuple[Array, ...]
    truth: str
    reference: Reference
    same_dtype: tuple[Array, ...] | None = None

    @property
    def gate(self) -> float:
        """Largest difference of logits that passes."""
        return gate_of(self.reference, list(self.logits)) if self.logits else 0.0


def judge(
    outputs: Sequence[Outputs],
    standard: Standard,
    *,
    names: tuple[str, ...],
    precision: str,
    repeats: Repeats | None = None,
    colours: Sequence[str] = (),
) -> Parity:
    """Judge one set.

    Args:
        outputs: of the row, a batch each.
        standard: the inputs and the truth.
        names: the outputs that the row must have.
        precision: of the row.
        repeats: what repeating an input gave, for the first set.
        colours: of the classes, for the heat map.

    Returns:
        The verdict, with every failure that was found and no exception for any of them.
    """
    inputs, reference = standard.inputs, standard.reference
    base = Parity(
        inputs=inputs.name,
        slices=inputs.slices,
        truth=standard.truth,
        reference=reference.method,
        reference_error=reference.max_error,
        gate=standard.gate,
    )
    found, problem = _compare(outputs, standard, names, precision)
    if found is None:
        return base.model_copy(update={"failures": ["labels"], "detail": problem})
    failures: list[Failure] = list(found.failures)
    details = [found.detail] if found.detail else []
    if not set(failures) & set(_STRUCTURE):
        for kind, detail in _behaviour(outputs, standard, repeats):
            failures.insert(0, kind)
            details.insert(0, detail)
    update: dict[str, object] = {
        "required_tolerance": found.required_tolerance,
        "agreement": found.agreement,
        "ties": found.ties,
        "dice": list(found.dice),
        "failures": failures,
        "detail": "; ".join(details),
    }
    if not set(failures) & set(_STRUCTURE):
        update["same_dtype"] = _same_dtype(outputs, standard)
        update["ground_truth"] = _ground_truth(outputs, standard)
        update["heat_map"] = heat_map(outputs, standard, colours)
    return base.model_copy(update=update)


def _compare(
    outputs: Sequence[Outputs], standard: Standard, names: tuple[str, ...], precision: str
) -> tuple[Comparison | None, str]:
    try:
        found = compare(
            list(outputs),
            list(standard.logits),
            artefact=standard.inputs.name,
            precision=precision,
            reference=standard.reference,
            names=names,
        )
    except AutosamError as error:
        # Values that are no class at all.
        return None, str(error)
    return found, ""


def _behaviour(
    outputs: Sequence[Outputs], standard: Standard, repeats: Repeats | None
) -> list[tuple[Failure, str]]:
    """Return failures that have a cause of their own, the most telling last."""
    found: list[tuple[Failure, str]] = []
    if detail := class_order([o["logits"] for o in outputs if "logits" in o], standard):
        found.append(("classes", detail))
    if repeats is not None:
        if detail := constant_output(repeats, standard):
            found.append(("constant", detail))
        elif detail := stale_output(repeats, standard):
            found.append(("stale", detail))
    return found


def class_order(logits: Sequence[Array], standard: Standard) -> str:
    """Say in which order the classes are, when every one is right but in another's place."""
    if len(logits) != len(standard.logits) or not logits:
        return ""
    classes = standard.logits[0].shape[1]
    worst = np.zeros((classes, classes))
    for mine, theirs in zip(logits, standard.logits, strict=True):
        difference = np.abs(mine[:, :, None].astype(np.float64) - theirs[:, None])
        worst = np.maximum(worst, difference.max(axis=(0, 3, 4)))
    order = worst.argmin(axis=1)
    if (order == np.arange(classes)).all() or len(set(order.tolist())) < classes:
        return ""
    if worst[np.arange(classes), order].max() > standard.gate:
        return ""
    return f"logits of classes 0..{classes - 1} are those of {', '.join(map(str, order))}"


def constant_output(repeats: Repeats, standard: Standard) -> str:
    """Say how the output does not depend on the input, if so."""
    if "logits" in repeats.first:
        flat = repeats.first["logits"]
        if float(np.ptp(flat)) == 0:
            return f"every logit is {flat.flat[0]:g}"
        # Not the second alone: an answer that comes one call late looks like that too.
        if _equal(repeats.first, repeats.other, "logits") and _equal(
            repeats.first, repeats.again, "logits"
        ):
            return "two different inputs gave the same logits"
        return ""
    labels = repeats.first.get("labels")
    truth = standard.logits[0].argmax(axis=1)
    if labels is not None and np.ptp(labels) == 0 and np.ptp(truth) > 0:
        return f"every label is {labels.flat[0]}"
    return ""


def _equal(first: Outputs, second: Outputs, name: str) -> bool:
    return name in second and bool(np.array_equal(first[name], second[name]))


def stale_output(repeats: Repeats, standard: Standard) -> str:
    """Say how an output belongs to another call than its own, if so."""
    for name in repeats.first:
        if not _equal(repeats.first, repeats.later, name):
            return f"'{name}' changed after it was returned: the next call wrote into it"
    for name, array in repeats.first.items():
        again = repeats.again.get(name)
        if again is None or again.shape != array.shape:
            return f"'{name}' of the same input has another shape the second time"
        if name == "logits":
            same = float(np.abs(array - again).max()) <= standard.gate
        else:
            same = float((array == again).mean()) >= MIN_AGREEMENT
        if not same:
            late = _equal(repeats.first, repeats.other, name)
            if late or _equal(repeats.again, repeats.other, name):
                return f"'{name}' of a call is that of the call before"
            return f"'{name}' of the same input differs from one call to the next"
    return ""


def _same_dtype(outputs: Sequence[Outputs], standard: Standard) -> float | None:
    if standard.same_dtype is None or any("logits" not in one for one in outputs):
        return None
    return max(
        float(np.abs(one["logits"].astype(np.float64) - same).max())
        for one, same in zip(outputs, standard.same_dtype, strict=True)
    )


def _ground_truth(outputs: Sequence[Outputs], standard: Standard) -> GroundTruth | None:
    drawn = standard.inputs.drawn
    if not drawn:
        return None
    classes = standard.logits[0].shape[1]
    people = np.concatenate([one.ravel() for one in drawn])
    truth = np.concatenate([one.argmax(axis=1).ravel() for one in standard.logits])
    row = np.concatenate([_labels(one).ravel() for one in outputs])
    scores = [dice(labels, people, num_classes=classes) for labels in (truth, row)]
    means = [mean_foreground(one) for one in scores]
    listed = [[None if np.isnan(s) else float(s) for s in one] for one in scores]
    loss = means[0] - means[1]
    return GroundTruth(
        truth_dice=listed[0], row_dice=listed[1], loss=None if np.isnan(loss) else loss
    )


def _labels(outputs: Outputs) -> Array:
    return outputs["labels"] if "labels" in outputs else outputs["logits"].argmax(axis=1)
