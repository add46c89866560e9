from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autosam_deploy.errors import ParityError
from autosam_deploy.metrics import dice, label_agreement, mean_foreground
from autosam_deploy.parity import (
    Array,
    Comparison,
    Reference,
    compare,
    gate_of,
    reference_of,
    require_passed,
)


@pytest.fixture
def truth() -> list[Array]:
    random = np.random.default_rng(0)
    return [random.normal(0, 3, (b, 3, 20, 24)).astype(np.float32) for b in (2, 1)]


@pytest.fixture
def reference() -> Reference:
    return Reference(method="rounded", max_error=0.01, rms_error=0.002, slices=3)


def outputs_of(logits: list[Array]) -> list[dict[str, Array]]:
    return [{"labels": a.argmax(axis=1).astype(np.uint8), "logits": a} for a in logits]


def judge(outputs: list[dict[str, Array]], truth: list[Array], reference: Reference) -> Comparison:
    return compare(outputs, truth, artefact="m.onnx", precision="fp16", reference=reference)


def test_equal_outputs_pass(truth: list[Array], reference: Reference) -> None:
    found = judge(outputs_of(truth), truth, reference)
    assert found.passed
    assert found.required_tolerance == 0
    assert found.agreement == 1
    assert found.dice == (1, 1, 1)


def test_required_tolerance_is_the_worst_difference(
    truth: list[Array], reference: Reference
) -> None:
    moved = [a.copy() for a in truth]
    moved[1][0, 2, 3, 4] += np.float32(0.015)
    found = judge(outputs_of(moved), truth, reference)
    assert found.passed
    assert found.required_tolerance == pytest.approx(0.015, rel=1e-4)


def test_values_beyond_the_gate_fail(truth: list[Array], reference: Reference) -> None:
    moved = [a.copy() for a in truth]
    moved[0][0, 0, 0, 0] += np.float32(0.03)
    found = judge(outputs_of(moved), truth, reference)
    assert found.failures == ("values",)
    with pytest.raises(ParityError, match=r"m.onnx \(fp16\) does not agree .*\(values\)"):
        require_passed(found)


def test_gate_is_twice_the_reference_and_a_floor(truth: list[Array], reference: Reference) -> None:
    exact = reference.model_copy(update={"max_error": 0.0})
    assert 0 < gate_of(exact, truth) < 1e-4
    assert gate_of(reference, truth) == pytest.approx(0.02, rel=1e-2)


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        (lambda o: o.pop("labels"), "names"),
        (lambda o: o.update(masks=o["labels"]), "names"),
        (lambda o: o.update(labels=o["labels"][:, :-1]), "shapes"),
        (lambda o: o.update(logits=o["logits"][:, :-1]), "shapes"),
        (lambda o: o.update(labels=o["labels"].astype(np.int64)), "dtypes"),
        (lambda o: o.update(logits=o["logits"].astype(np.float16)), "dtypes"),
        (lambda o: o["logits"].__setitem__((0, 0, 0, 0), np.nan), "finite"),
        (lambda o: o["logits"].__setitem__((0, 0, 0, 0), np.inf), "finite"),
    ],
)
def test_each_failure_is_its_own_kind(
    truth: list[Array], reference: Reference, change: Any, failure: str
) -> None:
    outputs = outputs_of([a.copy() for a in truth])
    change(outputs[1])
    assert judge(outputs, truth, reference).failures == (failure,)


@pytest.mark.parametrize("count", [0, 1])
def test_empty_comparison_fails(truth: list[Array], reference: Reference, count: int) -> None:
    outputs = outputs_of(truth)[:count]
    assert judge(outputs, truth, reference).failures == ("empty",)
    assert judge([], [], reference).failures == ("empty",)


def test_wrong_labels_fail_though_logits_agree(truth: list[Array], reference: Reference) -> None:
    outputs = outputs_of(truth)
    outputs[0]["labels"] = (outputs[0]["labels"] + 1) % np.uint8(3)
    found = judge(outputs, truth, reference)
    assert found.failures == ("labels",)
    assert "label agreement" in found.detail
    assert "Dice of class 0" in found.detail


def test_near_ties_are_counted_apart(reference: Reference) -> None:
    logits = np.zeros((1, 2, 10, 10), np.float32)
    logits[0, 1] = 5
    logits[0, 1, 0] = 0.015  # ten pixels within 2 x 0.01 of a tie
    flipped = logits.copy()
    flipped[0, 0, 0], flipped[0, 1, 0] = 0.015, 0
    found = judge(outputs_of([flipped]), [logits], reference)
    assert found.passed
    assert found.ties == pytest.approx(0.1)
    assert found.agreement == 1
    assert found.dice == (None, 1)


def test_labels_alone_can_be_compared(truth: list[Array], reference: Reference) -> None:
    outputs = [{"labels": o["labels"]} for o in outputs_of(truth)]
    found = compare(
        outputs, truth, artefact="m", precision="fp32", reference=reference, names=("labels",)
    )
    assert found.passed
    assert found.required_tolerance is None


def test_reference_measures_all_slices(truth: list[Array]) -> None:
    moved = [a.copy() for a in truth]
    moved[1][0, 0, 0, 0] += np.float32(0.25)
    found = reference_of("float64", moved, truth)
    assert found.max_error == pytest.approx(0.25, rel=1e-5)
    assert found.slices == 3


def test_reference_that_is_not_finite_is_refused(truth: list[Array]) -> None:
    broken = [a.copy() for a in truth]
    broken[0][0, 0, 0, 0] = np.inf
    with pytest.raises(ParityError, match="'rounded' reference is not finite; got 1 of 4320"):
        reference_of("rounded", broken, truth)
    with pytest.raises(ParityError, match="an empty set of slices proves nothing"):
        reference_of("float64", [], [])


def test_dice_of_hand_counted_labels() -> None:
    truth = np.array([0, 0, 1, 1, 1, 2])
    found = np.array([0, 1, 1, 1, 0, 3])
    scores = dice(found, truth, num_classes=5)
    np.testing.assert_allclose(scores[:4], [2 * 1 / 4, 2 * 2 / 6, 0, 0])
    assert np.isnan(scores[4])
    assert mean_foreground(scores) == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert np.isnan(mean_foreground(np.array([1.0, np.nan])))


def test_agreement_without_decided_pixels() -> None:
    found = label_agreement(
        np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 2, 2), np.float32), tie_margin=0.0
    )
    assert (found.share, found.ties) == (1, 1)
