"""The segmenter with kernels against the truth: in Triton's interpreter, or on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import BackendInputError
from autosam_deploy.fused.gpu.segmenter import KERNELS, GpuSegmenter
from autosam_deploy.fused.precision import (
    Island,
    LowPrecision,
    PrecisionPlan,
    apply_precision,
    measure_ranges,
    nodes_of,
    plan_precision,
)
from autosam_deploy.fused.rounding import run_rounded
from autosam_deploy.fused.segmenter import FusedSegmenter, fuse
from autosam_deploy.models.segmenter import Segmenter, seeded_segmenter
from autosam_deploy.parity import compare, reference_of
from autosam_deploy.spec import HEAD_KINDS, HeadKind, ModelSpec, PreprocessSpec

SpecFactory = Callable[..., ModelSpec]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def raw_slices(batch: int = 2, height: int = 37, width: int = 52) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    slices = torch.rand(batch, 1, height, width, generator=generator) * 900
    slices[..., 8:20, 10:30] += 400
    return slices


def parts(spec: ModelSpec) -> tuple[Segmenter, FusedSegmenter]:
    segmenter = seeded_segmenter(spec, seed=2)
    return segmenter, fuse(segmenter, lowering="augmented")


def typed_of(fused: FusedSegmenter, slices: Tensor, precision: LowPrecision) -> FusedSegmenter:
    plan = plan_precision(fused, measure_ranges(fused, [slices]), precision=precision)
    return apply_precision(fused, plan)


def outputs(gpu: GpuSegmenter, slices: Tensor) -> dict[str, Any]:
    with torch.inference_mode():
        found = gpu.to(DEVICE).outputs(slices.to(DEVICE), ("labels", "logits"))
    return {name: tensor.cpu().numpy() for name, tensor in found.items()}


def judge(segmenter: Segmenter, gpu: GpuSegmenter, slices: Tensor, precision: LowPrecision) -> None:
    """The gates that a graph of the same precision has to pass."""
    with torch.no_grad():
        truth = segmenter(slices).numpy()
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    rounded = run_rounded(segmenter, slices, dtype).numpy()
    found = compare(
        [outputs(gpu, slices)],
        [truth],
        artefact="kernels",
        precision=precision,
        reference=reference_of("rounded", [rounded], [truth]),
        names=("labels", "logits"),
    )
    assert found.passed, found


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_every_head_passes_the_gates(model_spec: SpecFactory, kind: HeadKind) -> None:
    segmenter, fused = parts(model_spec(kind))
    slices = raw_slices()
    judge(segmenter, GpuSegmenter(typed_of(fused, slices, "fp16")), slices, "fp16")


@pytest.mark.parametrize(
    "preprocess",
    [
        PreprocessSpec(
            intensity="slice-zscore",
            resize="longest-side",
            pixel_mean=(0.5, 0.4, 0.3),
            pixel_std=(0.2, 0.3, 0.2),
        ),
        PreprocessSpec(intensity="window", window_level=400.0, window_width=900.0),
    ],
)
def test_recipes(model_spec: SpecFactory, preprocess: PreprocessSpec) -> None:
    segmenter, fused = parts(model_spec("linear", preprocess=preprocess))
    slices = raw_slices(height=60, width=33)
    judge(segmenter, GpuSegmenter(typed_of(fused, slices, "fp16")), slices, "fp16")


def test_bf16_and_an_oblong_image(model_spec: SpecFactory) -> None:
    segmenter, fused = parts(model_spec("linear", image_size=(40, 64)))
    slices = raw_slices(3)
    judge(segmenter, GpuSegmenter(typed_of(fused, slices, "bf16")), slices, "bf16")


@pytest.mark.parametrize("kernels", [(), ("attention",), ("norm", "labels"), ("input",)])
def test_each_kernel_can_be_left_out(model_spec: SpecFactory, kernels: tuple[str, ...]) -> None:
    segmenter, fused = parts(model_spec("linear"))
    slices = raw_slices(1)
    gpu = GpuSegmenter(typed_of(fused, slices, "fp16"), kernels=kernels)
    assert gpu.kernels == tuple(name for name in KERNELS if name in kernels)
    judge(segmenter, gpu, slices, "fp16")


def test_islands_keep_their_precision(model_spec: SpecFactory) -> None:
    """A query projection in float32 is no third of a half-precision product."""
    segmenter, fused = parts(model_spec("linear"))
    slices = raw_slices(1)
    plan = plan_precision(fused, measure_ranges(fused, [slices]))
    island = Island(node="encoder.blocks.1.query", reason="range", largest=3e4)
    plan = plan.model_copy(update={"islands": (*plan.islands, island)})
    gpu = GpuSegmenter(apply_precision(fused, plan))
    projections = [list(block.projections) for block in gpu.encoder.blocks]
    assert [len(found) for found in projections] == [1, 3, 1]
    assert [dense.dtype for dense in projections[1]] == [
        torch.float32,
        torch.float16,
        torch.float16,
    ]
    judge(segmenter, gpu, slices, "fp16")


def test_labels_alone_are_those_of_the_logits(model_spec: SpecFactory) -> None:
    _, fused = parts(model_spec("autosam"))
    slices = raw_slices()
    gpu = GpuSegmenter(typed_of(fused, slices, "fp16")).to(DEVICE)
    with torch.inference_mode():
        labels = gpu(slices.to(DEVICE)).cpu().numpy()
        logits = gpu.logits(slices.to(DEVICE)).cpu().numpy()
    top = np.sort(logits, axis=1)
    clear = top[:, -1] - top[:, -2] > 1e-5 * np.abs(logits).max()
    assert clear.mean() > 0.9
    assert np.array_equal(labels[clear], logits.argmax(1)[clear])


def test_integers_are_the_values_they_hold(model_spec: SpecFactory) -> None:
    _, fused = parts(model_spec("linear"))
    slices = raw_slices(1).round()
    gpu = GpuSegmenter(typed_of(fused, slices, "fp16")).to(DEVICE)
    with torch.inference_mode():
        expected = gpu(slices.to(DEVICE))
        assert torch.equal(gpu(slices.to(torch.int16).to(DEVICE)), expected)


def test_unknown_kernels_are_named(model_spec: SpecFactory) -> None:
    _, fused = parts(model_spec("linear"))
    with pytest.raises(BackendInputError, match="kernels; got gelu; expected of attention"):
        GpuSegmenter(fused, kernels=("gelu",))


def test_a_plan_covers_every_node(model_spec: SpecFactory) -> None:
    """Nothing of a typed segmenter is left in a dtype of its own."""
    _, fused = parts(model_spec("autosam"))
    slices = raw_slices(1)
    plan = plan_precision(fused, measure_ranges(fused, [slices]))
    assert isinstance(plan, PrecisionPlan)
    gpu = GpuSegmenter(apply_precision(fused, plan))
    islands = {island.node for island in plan.islands}
    half = sum(
        p.numel()
        for name, node in nodes_of(fused).items()
        if name not in islands and name.startswith("encoder.blocks")
        for p in node.parameters(recurse=False)
    )
    stored = {id(p): p for p in gpu.encoder.blocks.parameters() if p.dtype == torch.float16}
    # Biases that a projection lacks are zeros of the joined one.
    added = 2 * fused.spec.encoder.embed_dim * fused.spec.encoder.depth
    assert sum(p.numel() for p in stored.values()) == half + added


def test_an_encoder_without_kernels_passes_the_gates(
    model_spec: SpecFactory, tiny_tinyvit: EncoderSpec
) -> None:
    segmenter, fused = parts(model_spec("autosam", encoder=tiny_tinyvit))
    slices = raw_slices()
    gpu = GpuSegmenter(typed_of(fused, slices, "fp16"))
    assert gpu.kernels == ("labels",)
    judge(segmenter, gpu, slices, "fp16")
