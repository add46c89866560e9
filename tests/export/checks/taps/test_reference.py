from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from autosam_deploy.bundle.manifest import Artefact, FileRef, Island, Typing
from autosam_deploy.errors import BundleError, ExportError, ParityError, SpecError
from autosam_deploy.export.checks.taps.reference import (
    Distance,
    expect,
    plan_of,
    roughened,
    shifted,
)
from autosam_deploy.fused.precision import PrecisionPlan, measure_ranges, plan_precision
from autosam_deploy.fused.segmenter import FusedSegmenter, fuse
from autosam_deploy.fused.taps import boundaries, recorded
from autosam_deploy.models.segmenter import seeded_segmenter
from autosam_deploy.spec import ModelSpec

SpecFactory = Callable[..., ModelSpec]
BATCH = (np.random.default_rng(1).random((2, 1, 70, 50)) * 900).astype(np.float32)


@pytest.fixture
def fused(model_spec: SpecFactory) -> FusedSegmenter:
    return fuse(seeded_segmenter(model_spec("linear"), seed=1))


def typing(*islands: tuple[str, str]) -> Typing:
    return Typing(
        range_limit=100.0,
        share=0.5,
        islands=tuple(Island(node=node, reason=reason) for node, reason in islands),
    )


def graph(typed: Typing | None) -> Artefact:
    file = FileRef(path="model.fp16.onnx", sha256="0" * 64, bytes=1)
    return Artefact(
        kind="onnx", precision="fp16", file=file, lowering="explicit", opset=20, typing=typed
    )


def test_distance_sums_over_arrays() -> None:
    distance = Distance()
    distance.add(np.array([3.0, 4.5], np.float16), np.array([3.0, 4.0], np.float32))
    distance.add(np.array([[0.0, 1.0]]), np.array([[0.0, 0.0]]))
    assert distance.max_abs == 1.0
    assert distance.rel_l2 == pytest.approx(np.sqrt(1.25) / 5)
    assert distance.cosine == pytest.approx(27 / np.sqrt(30.25) / 5)


def test_distance_of_nothing_wrong() -> None:
    distance = Distance()
    distance.add(np.zeros(3), np.zeros(3))
    assert (distance.max_abs, distance.rel_l2, distance.cosine) == (0.0, 0.0, None)


def test_distance_from_zeros_has_no_ratio() -> None:
    distance = Distance()
    distance.add(np.ones(3), np.zeros(3))
    assert (distance.max_abs, distance.rel_l2, distance.cosine) == (1.0, None, None)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_value_that_is_not_finite_spoils_all(bad: float) -> None:
    distance = Distance()
    distance.add(np.array([1.0, bad]), np.ones(2))
    distance.add(np.ones(2), np.ones(2))
    assert not distance.finite
    assert (distance.max_abs, distance.rel_l2, distance.cosine) == (None, None, None)


def test_shift_is_one_rounding_times_the_slope() -> None:
    ramp = torch.arange(200, dtype=torch.float64).expand(1, 1, 3, -1) * 5
    moved = (shifted(ramp) - ramp).abs()
    # No slope along rows; 5 a column, 200 columns.
    torch.testing.assert_close(moved, torch.full_like(ramp, 5 * 200 * 2.0**-23))
    assert torch.equal(shifted(torch.ones(1, 2, 1, 1)), torch.ones(1, 2, 1, 1))


def test_roughening_ends_with_the_block(fused: FusedSegmenter) -> None:
    slices = torch.from_numpy(BATCH)
    before = fused.logits(slices)
    with roughened(fused):
        inside = fused.logits(slices)
    assert not torch.equal(inside, before)
    assert torch.equal(fused.logits(slices), before)


def test_truth_is_the_fused_segmenter(fused: FusedSegmenter) -> None:
    expectation = expect(fused, None, [BATCH, BATCH[:1, :, :33]])
    assert [case["output"].shape[0] for case in expectation.cases] == [2, 1]
    assert list(expectation.tolerance) == list(boundaries(fused))
    np.testing.assert_array_equal(
        expectation.cases[0]["output"], fused.logits(torch.from_numpy(BATCH)).numpy()
    )


def test_float32_tolerance_holds_rounding_and_nothing_else(fused: FusedSegmenter) -> None:
    expectation = expect(fused, None, [BATCH])
    for name, truth in expectation.cases[0].items():
        largest = float(np.abs(truth).max())
        assert 0 < expectation.tolerance[name] < 2e-3 * largest, name
        assert 0 < expectation.rel_tolerance[name] < 2e-4, name


def test_low_precision_is_allowed_what_typed_pytorch_errs(fused: FusedSegmenter) -> None:
    slices = torch.from_numpy(BATCH)
    plan = plan_precision(fused, measure_ranges(fused, [slices]))
    single, half = expect(fused, None, [BATCH]), expect(fused, plan, [BATCH])
    # The input stays in float32 whatever the rest is in.
    assert half.tolerance["input"] == single.tolerance["input"]
    for name in boundaries(fused)[1:]:
        assert half.rel_tolerance[name] > 5 * single.rel_tolerance[name], name
        assert 2e-4 < half.rel_tolerance[name] < 2e-2, name


def test_damaged_weights_are_named_by_place(fused: FusedSegmenter) -> None:
    fused.get_submodule("encoder.blocks.1.expand").weight.data[0, 0] = float("nan")
    with pytest.raises(ParityError, match=r"no finite values at 'encoder\.blocks\.1' in PyTorch"):
        expect(fused, None, [BATCH])


def test_overflow_of_the_typed_model_is_named(fused: FusedSegmenter) -> None:
    plan = plan_precision(fused, measure_ranges(fused, [torch.from_numpy(BATCH)]))
    fused.get_submodule("encoder.blocks.2.expand").weight.data *= 1e7
    with pytest.raises(ParityError, match=r"weights in fp16 give no finite values at 'encoder\.bl"):
        expect(fused, plan, [BATCH])


def test_plan_comes_from_the_manifest(fused: FusedSegmenter) -> None:
    slices = torch.from_numpy(BATCH)
    wanted = plan_precision(fused, measure_ranges(fused, [slices]), range_limit=100.0)
    islands = [(island.node, island.reason) for island in wanted.islands]
    plan = plan_of(graph(typing(*islands)), fused)
    assert isinstance(plan, PrecisionPlan)
    assert plan.num_nodes == wanted.num_nodes
    assert [(island.node, island.reason) for island in plan.islands] == islands
    single = graph(None).model_copy(update={"precision": "fp32"})
    assert plan_of(single, fused) is None


@pytest.mark.parametrize(
    ("typed", "error", "message"),
    [
        (None, BundleError, r"does not say how 'model\.fp16\.onnx' is typed; export again"),
        (typing(("input", "taste")), SpecError, r"typing of 'model\.fp16\.onnx'"),
        (typing(("gone", "range")), ExportError, r"another version; got islands named gone"),
    ],
)
def test_plans_of_others_are_refused(
    fused: FusedSegmenter, typed: Typing | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan_of(graph(typed), fused)


def test_recorded_and_roughened_can_be_nested(fused: FusedSegmenter) -> None:
    slices = torch.from_numpy(BATCH)
    with roughened(fused), recorded(fused) as found, torch.no_grad():
        logits = fused.logits(slices)
    assert torch.equal(found["output"], logits)
