"""The fused segmenter in half precision, from a bundle's float32 weights and its typing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError

if TYPE_CHECKING:
    from autosam_deploy.fused.gpu.segmenter import GpuSegmenter
    from autosam_deploy.fused.precision import PrecisionPlan
    from autosam_deploy.fused.segmenter import FusedSegmenter
    from autosam_deploy.models.segmenter import Segmenter


def half_segmenter(
    bundle: Bundle, segmenter: Segmenter, *, precision: str, kernels: tuple[str, ...]
) -> GpuSegmenter:
    """Fuse, type and rearrange a segmenter as the bundle's graph of the same precision is.

    Args:
        bundle: where `segmenter` is from.
        segmenter: the reference in float32, on the CPU.
        precision: "fp16" with the islands of the bundle's fp16 graph, or "bf16", whose range is
            float32's, so no calibration is needed.
        kernels: of `fused.gpu.segmenter.KERNELS`.

    Raises:
        BackendError: fp16 is asked for and the bundle has no fp16 graph.
    """
    from autosam_deploy.fused.gpu.segmenter import GpuSegmenter
    from autosam_deploy.fused.precision import apply_precision
    from autosam_deploy.fused.segmenter import fuse

    fused = fuse(segmenter, lowering="augmented")
    typed = apply_precision(fused, _plan(bundle, fused, precision))
    return GpuSegmenter(typed, kernels=kernels).eval().requires_grad_(False)


def _plan(bundle: Bundle, fused: FusedSegmenter, precision: str) -> PrecisionPlan:
    from autosam_deploy.fused.precision import PrecisionPlan, nodes_of, plan_precision

    if precision == "bf16":
        return plan_precision(fused, {}, precision="bf16")
    graph = bundle.find("onnx", "fp16")
    if graph is None or graph.typing is None:
        raise BackendError(
            "the bundle does not say which nodes stay in float32",
            got="no fp16 graph",
            expected="a bundle exported with --fp16",
            todo="export again with --fp16, or ask for --precision fp32 or bf16",
        )
    # Read as JSON is, so that reasons that this version does not know are refused.
    return PrecisionPlan.model_validate(
        {
            "precision": "fp16",
            "range_limit": graph.typing.range_limit,
            "islands": [island.model_dump() for island in graph.typing.islands],
            "num_nodes": len(nodes_of(fused)),
        }
    )
