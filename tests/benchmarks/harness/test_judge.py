"""Backends that go wrong, each in its own way, and the name that its failure gets."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autosam_deploy.benchmarks.harness.collect import (
    collect,
    load_collected,
    save_collected,
)
from autosam_deploy.benchmarks.harness.judge import judge
from autosam_deploy.benchmarks.harness.record import Parity
from autosam_deploy.benchmarks.harness.runners import Outputs, Runner
from autosam_deploy.benchmarks.harness.standards import Standards

Judged = Callable[..., list[Parity]]
Right = Callable[[np.ndarray], Outputs]


def runner_of(outputs: Right) -> Runner:
    return Runner(lambda slices: outputs(slices)["labels"], outputs, {})


def kinds(found: list[Parity]) -> set[str]:
    return {failure for one in found for failure in one.failures}


def changed(right: Right, change: Callable[[Outputs], Any]) -> Runner:
    def outputs(slices: np.ndarray) -> Outputs:
        found = right(slices)
        change(found)
        return found

    return runner_of(outputs)


def test_the_right_outputs_pass(judged: Judged, right: Right) -> None:
    golden, noise = judged(runner_of(right))
    assert (golden.inputs, noise.inputs) == ("golden", "noise")
    for one in (golden, noise):
        assert one.failures == []
        assert one.required_tolerance == 0
        assert one.agreement == 1
        assert one.truth == "torch fp32"
        assert one.heat_map is None
        assert one.gate > 0
    assert (golden.slices, noise.slices) == (6, 3)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda o: o.pop("labels"), "names"),
        (lambda o: o.update(logits=o["logits"][:, :2]), "shapes"),
        (lambda o: o.update(labels=o["labels"][..., None]), "shapes"),
        (lambda o: o.update(labels=o["labels"].astype(np.int64)), "dtypes"),
        (lambda o: o.update(logits=o["logits"].astype(np.float16)), "dtypes"),
        (lambda o: o["logits"].fill(np.nan), "finite"),
        (lambda o: o["logits"].__setitem__((0, 0, 0, 0), np.inf), "finite"),
        (lambda o: o["labels"].fill(200), "labels"),  # no class at all
    ],
)
def test_one_kind_alone(judged: Judged, right: Right, change: Any, kind: str) -> None:
    found = judged(changed(right, change))
    assert kinds(found) == {kind}
    assert all(one.detail for one in found)


def test_values_without_labels(judged: Judged, right: Right) -> None:
    """A constant on all logits changes no label."""
    found = judged(changed(right, lambda o: o["logits"].__iadd__(np.float32(0.01))))
    assert kinds(found) == {"values"}
    assert found[0].required_tolerance == pytest.approx(0.01, rel=1e-3)
    assert "exceeds the gate" in found[0].detail


def test_labels_without_values(judged: Judged, right: Right) -> None:
    found = judged(changed(right, lambda o: o.update(labels=(o["labels"] + 1) % np.uint8(3))))
    assert kinds(found) == {"labels"}


def test_constant_output(judged: Judged) -> None:
    def outputs(slices: np.ndarray) -> Outputs:
        shape = (len(slices), 3, *slices.shape[2:])
        labels = np.zeros(slices[:, 0].shape, np.uint8)
        return {"labels": labels, "logits": np.full(shape, 0.5, np.float32)}

    found = judged(runner_of(outputs))
    assert found[0].failures[0] == "constant"
    assert found[0].detail.startswith("every logit is 0.5")
    assert {"values", "labels"} <= kinds(found)


def test_the_same_answer_to_everything(judged: Judged) -> None:
    """Not flat, but the same whatever goes in."""

    def outputs(slices: np.ndarray) -> Outputs:
        shape = (len(slices), 3, *slices.shape[2:])
        logits = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
        return {"labels": logits.argmax(1).astype(np.uint8), "logits": logits}

    found = judged(runner_of(outputs))
    assert found[0].failures[0] == "constant"
    assert "two different inputs gave the same logits" in found[0].detail


def test_constant_labels_alone(tiny_standards: Standards) -> None:
    """A bundle of labels alone has nothing but the truth's own variety to go by."""
    inputs = tiny_standards.sets[0]
    runner = Runner(
        lambda s: np.ones(s[:, 0].shape, np.uint8),
        lambda s: {"labels": np.ones(s[:, 0].shape, np.uint8)},
        {},
    )
    collected = collect(runner, {inputs.name: inputs.batches})
    found = judge(
        collected.outputs[inputs.name],
        tiny_standards.standard(inputs, "fp32"),
        names=("labels",),
        precision="fp32",
        repeats=collected.repeats,
    )
    assert found.failures[0] == "constant"
    assert found.required_tolerance is None


def test_the_answer_of_the_call_before(judged: Judged, right: Right) -> None:
    """A pipeline with one call too much in it."""
    waiting: list[Outputs] = []

    def outputs(slices: np.ndarray) -> Outputs:
        waiting.append(right(slices))
        before = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        now = waiting[-1]
        return before if before["labels"].shape == now["labels"].shape else now

    found = judged(runner_of(outputs))
    assert found[0].failures[0] == "stale"
    assert "of a call is that of the call before" in found[0].detail


def test_a_buffer_that_the_next_call_writes_into(judged: Judged, right: Right) -> None:
    buffers: dict[tuple[int, ...], np.ndarray] = {}

    def outputs(slices: np.ndarray) -> Outputs:
        found = right(slices)
        buffer = buffers.setdefault(found["logits"].shape, np.empty_like(found["logits"]))
        buffer[:] = found["logits"]
        return {**found, "logits": buffer}

    found = judged(runner_of(outputs))
    assert kinds(found) == {"stale"}
    assert found[0].detail == "'logits' changed after it was returned: the next call wrote into it"


def test_swapped_classes_are_named(judged: Judged, right: Right) -> None:
    def swap(found: Outputs) -> None:
        found["logits"] = np.ascontiguousarray(found["logits"][:, [0, 2, 1]])
        found["labels"] = found["logits"].argmax(1).astype(np.uint8)

    found = judged(changed(right, swap))
    assert found[0].failures[0] == "classes"
    assert "logits of classes 0..2 are those of 0, 2, 1" in found[0].detail


def test_nothing_to_compare_fails(tiny_standards: Standards) -> None:
    standard = tiny_standards.standard(tiny_standards.sets[0], "fp32")
    found = judge([], standard, names=("labels", "logits"), precision="fp32")
    assert found.failures == ["empty"]
    nothing = replace(standard, logits=())
    assert judge([], nothing, names=("labels",), precision="fp32").failures == ["empty"]


def test_heat_map_shows_every_wrong_pixel(judged: Judged, right: Right) -> None:
    def change(found: Outputs) -> None:
        found["labels"][:, 3, 5] ^= 1

    golden = judged(changed(right, change))[0]
    assert golden.heat_map is not None
    assert golden.heat_map.differing == 6
    assert "1 of " in golden.heat_map.title
    picture = Image.open(io.BytesIO(base64.b64decode(golden.heat_map.png))).convert("RGB")
    colours = {tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3)}
    assert colours & {(214, 39, 40), (255, 191, 0)}
    assert picture.width > 2 * picture.height


def test_loss_against_drawn_labels(tiny_standards: Standards, right: Right) -> None:
    """People drew what the segmenter found; the row finds one class less."""
    inputs = tiny_standards.sets[0]
    standard = tiny_standards.standard(inputs, "fp32")
    drawn = tuple(logits.argmax(1).astype(np.uint8) for logits in standard.logits)
    standard = replace(standard, inputs=replace(inputs, drawn=drawn))

    def outputs(slices: np.ndarray) -> Outputs:
        found = right(slices)
        found["labels"][found["labels"] == 2] = 0
        return found

    collected = collect(runner_of(outputs), {inputs.name: inputs.batches})
    found = judge(
        collected.outputs[inputs.name], standard, names=("labels", "logits"), precision="fp32"
    )
    truth = found.ground_truth
    assert truth is not None
    assert truth.truth_dice == [1.0, 1.0, 1.0]
    assert truth.row_dice[1:] == [1.0, 0.0]
    assert truth.loss == pytest.approx(0.5)


def test_outputs_travel_through_a_file(tmp_path: Any, right: Right) -> None:
    slices = np.arange(48, dtype=np.float32).reshape(1, 1, 6, 8)
    whole = collect(runner_of(right), {"golden": [slices, slices[:, :, :3]], "noise": [slices]})
    save_collected(tmp_path / "outputs.npz", whole)
    found = load_collected(tmp_path / "outputs.npz")
    assert {name: len(batches) for name, batches in found.outputs.items()} == {
        "golden": 2,
        "noise": 1,
    }
    np.testing.assert_array_equal(
        found.outputs["golden"][1]["logits"], whole.outputs["golden"][1]["logits"]
    )
    assert whole.repeats is not None
    assert found.repeats is not None
    for part in ("first", "later", "other", "again"):
        np.testing.assert_array_equal(
            getattr(found.repeats, part)["labels"], getattr(whole.repeats, part)["labels"]
        )
    once = collect(runner_of(right), {"timed": [slices]}, repeat=False)
    save_collected(tmp_path / "once.npz", once)
    assert load_collected(tmp_path / "once.npz").repeats is None
