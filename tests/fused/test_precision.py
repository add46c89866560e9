from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autosam_deploy.errors import ExportError
from autosam_deploy.fused.precision import (
    Island,
    apply_precision,
    measure_ranges,
    nodes_of,
    plan_precision,
)
from autosam_deploy.fused.rounding import run_rounded
from autosam_deploy.fused.segmenter import FusedSegmenter, fuse
from autosam_deploy.models.segmenter import Segmenter, seeded_segmenter
from autosam_deploy.spec import HEAD_KINDS, HeadKind, ModelSpec

SpecFactory = Callable[..., ModelSpec]


@pytest.fixture
def slices() -> Tensor:
    return torch.rand(2, 1, 40, 56, generator=torch.Generator().manual_seed(2)) * 3000


def rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())


def plant_outliers(segmenter: Segmenter, factor: float) -> None:
    """Make the residual stream of the encoder pass the largest half, and the neck undo it.

    The MLP of block 0 writes `factor` times larger values; layer norms behind it hide the scale,
    so the function stays a sensible one while activations overflow half precision.
    """
    block = segmenter.image_encoder.blocks[0]
    with torch.no_grad():
        block.mlp.lin2.weight.mul_(factor)
        block.mlp.lin2.bias.mul_(factor)


def typed_logits(fused: FusedSegmenter, slices: Tensor) -> Tensor:
    plan = plan_precision(fused, measure_ranges(fused, [slices]))
    return apply_precision(fused, plan).logits(slices)


@pytest.mark.parametrize("kind", HEAD_KINDS)
@pytest.mark.parametrize("lowering", ["explicit", "augmented"])
def test_typed_half_holds_the_gate(
    model_spec: SpecFactory, slices: Tensor, kind: HeadKind, lowering: str
) -> None:
    truth = seeded_segmenter(model_spec(kind))
    logits = truth(slices)
    plain_error = rms(run_rounded(truth, slices, torch.float16) - logits)
    typed_error = rms(typed_logits(fuse(truth, lowering=lowering), slices) - logits)
    assert 0 < typed_error <= 2 * plain_error


def test_outliers_break_plain_half_and_not_ours(model_spec: SpecFactory, slices: Tensor) -> None:
    truth = seeded_segmenter(model_spec("autosam"))
    sane = truth(slices)
    sane_error = rms(run_rounded(truth, slices, torch.float16) - sane)
    plant_outliers(truth, 1e5)
    logits = truth(slices)
    assert torch.isfinite(logits).all()
    assert not torch.isfinite(run_rounded(truth, slices, torch.float16)).all()
    fused = fuse(truth, lowering="augmented")
    ranges = measure_ranges(fused, [slices])
    plan = plan_precision(fused, ranges)
    by_range = {island.node for island in plan.islands if island.reason == "range"}
    assert "encoder.blocks.0.contract" in by_range
    assert "encoder.blocks.0.residual2" in by_range
    assert "encoder.blocks.2.residual2" in by_range
    assert "encoder.blocks.0.query" not in by_range
    typed = apply_precision(fused, plan).logits(slices)
    # Plain half has no finite error here, so the gate is that of the model without outliers.
    assert rms(typed - logits) <= 2 * sane_error


def test_plan_lists_norms_and_logits(model_spec: SpecFactory, slices: Tensor) -> None:
    fused = fuse(seeded_segmenter(model_spec("cnn")))
    plan = plan_precision(fused, measure_ranges(fused, [slices]))
    reasons = {island.node: island.reason for island in plan.islands}
    assert reasons["encoder.blocks.1.norm2"] == "layer-norm"
    assert reasons["encoder.neck.norm2"] == "layer-norm"
    assert reasons["input"] == "normalisation"
    assert reasons["head.logits"] == "logits"
    assert reasons["output"] == "logits"
    assert "encoder.blocks.1.attention" not in reasons
    assert plan.num_nodes == len(nodes_of(fused))
    assert 0.5 < plan.share < 1


def test_weights_have_the_planned_dtype(model_spec: SpecFactory, slices: Tensor) -> None:
    fused = fuse(seeded_segmenter(model_spec("autosam")))
    typed = apply_precision(fused, plan_precision(fused, measure_ranges(fused, [slices])))
    block = nodes_of(typed)
    assert block["encoder.blocks.0.query"].weight.dtype == torch.float16
    assert block["encoder.blocks.0.norm1"].weight.dtype == torch.float32
    assert nodes_of(fused)["encoder.blocks.0.query"].weight.dtype == torch.float32


def test_bf16_ignores_ranges(model_spec: SpecFactory, slices: Tensor) -> None:
    truth = seeded_segmenter(model_spec("linear"))
    plant_outliers(truth, 1e5)
    fused = fuse(truth)
    plan = plan_precision(fused, measure_ranges(fused, [slices]), precision="bf16")
    assert {island.reason for island in plan.islands} == {"layer-norm", "normalisation", "logits"}


def test_scores_are_watched(model_spec: SpecFactory, slices: Tensor) -> None:
    """Large attention scores must be seen though no lowering stores them under `augmented`."""
    truth = seeded_segmenter(model_spec("linear"))
    with torch.no_grad():
        truth.image_encoder.blocks[1].attn.qkv.weight[:96].mul_(400)
    fused = fuse(truth, lowering="augmented")
    plan = plan_precision(fused, measure_ranges(fused, [slices]))
    by_range = {island.node for island in plan.islands if island.reason == "range"}
    assert by_range == {"encoder.blocks.1.attention"}


def test_recorders_are_removed(model_spec: SpecFactory, slices: Tensor) -> None:
    fused = fuse(seeded_segmenter(model_spec("linear")))
    measure_ranges(fused, [slices])
    assert all(node.recorder is None for node in nodes_of(fused).values())


def test_no_calibration_slices_are_refused(model_spec: SpecFactory) -> None:
    fused = fuse(seeded_segmenter(model_spec("linear")))
    with pytest.raises(ExportError, match="no calibration slices; got an empty set"):
        measure_ranges(fused, [])


def test_foreign_plan_is_refused(model_spec: SpecFactory, slices: Tensor) -> None:
    fused = fuse(seeded_segmenter(model_spec("linear")))
    plan = plan_precision(fused, measure_ranges(fused, [slices]))
    foreign = plan.model_copy(update={"islands": (Island(node="no.such", reason="range"),)})
    with pytest.raises(ExportError, match=r"does not fit the model; got islands named no\.such"):
        apply_precision(fused, foreign)
