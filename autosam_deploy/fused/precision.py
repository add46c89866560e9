"""Which node of the fused graph computes in which dtype, and why.

Half precision has 65,504 as its largest number and SAM's layer norms square activations, so plain
`.half()` of the encoder gives garbage or NaN. Here every node (see `nodes.py`) is half precision
unless it is an island in float32:

* layer norms, normalisation, logits, resize: always;
* nodes whose inputs, internals or outputs came near the largest half on calibration slices.

Softmax is no island: it stays inside the fused attention, where runtimes accumulate in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from autosam_deploy.errors import ExportError
from autosam_deploy.fused.nodes import Node
from autosam_deploy.strict import Strict

if TYPE_CHECKING:
    from autosam_deploy.fused.segmenter import FusedSegmenter

LowPrecision = Literal["fp16", "bf16"]
DTYPES: dict[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}

#: A quarter of the largest half: calibration slices are few, volumes in the field are many.
RANGE_LIMIT = 65504.0 / 4


class Island(Strict):
    """One node that stays in float32; `largest` is its largest magnitude when measured."""

    node: str
    reason: Literal["layer-norm", "normalisation", "logits", "range"]
    largest: float | None = None


class PrecisionPlan(Strict):
    """The dtype of every node: `precision`, except the islands."""

    precision: LowPrecision
    range_limit: float
    islands: Annotated[tuple[Island, ...], Field(strict=False)]
    num_nodes: int

    @property
    def share(self) -> float:
        """Share of nodes in low precision, 0..1."""
        return 1 - len(self.islands) / self.num_nodes


def nodes_of(fused: FusedSegmenter) -> dict[str, Node]:
    """Return every node by its module path ("encoder.blocks.3.expand")."""
    return {name: module for name, module in fused.named_modules() if isinstance(module, Node)}


def measure_ranges(fused: FusedSegmenter, batches: Iterable[Tensor]) -> dict[str, float]:
    """Run calibration slices and return the largest magnitude that each node met.

    Inputs, internal tensors (attention scores among them) and outputs all count: a tensor that
    arrives from a float32 neighbour is cast by the node that takes it.

    Args:
        fused: a segmenter in float32; its recorders are removed again.
        batches: raw slices (B, 1, H, W) float32.

    Returns:
        Node name -> largest magnitude; infinity where a value was not finite.

    Raises:
        ExportError: no batch was given.
    """
    nodes = nodes_of(fused)
    largest = dict.fromkeys(nodes, 0.0)

    def recorder(name: str) -> None:
        def record(tensor: Tensor) -> None:
            low, high = torch.aminmax(tensor.detach())
            peak = max(-float(low), float(high))
            # A NaN compares false with everything; it must count as out of range.
            largest[name] = max(largest[name], peak if peak == peak else float("inf"))

        nodes[name].recorder = record

    count = 0
    try:
        for name in nodes:
            recorder(name)
        with torch.no_grad():
            for batch in batches:
                fused(batch)
                count += 1
    finally:
        for node in nodes.values():
            node.recorder = None
    if not count:
        raise ExportError(
            "no calibration slices", got="an empty set", expected="at least one batch of slices"
        )
    return largest


def plan_precision(
    fused: FusedSegmenter,
    ranges: dict[str, float],
    *,
    precision: LowPrecision = "fp16",
    range_limit: float = RANGE_LIMIT,
) -> PrecisionPlan:
    """Decide the dtype of every node.

    Args:
        fused: the segmenter to be typed.
        ranges: as `measure_ranges` gives them.
        precision: the low precision; bf16 has float32's range, so no node leaves it for that.
        range_limit: a node that meets a larger magnitude becomes an island (fp16 only).
    """
    islands = []
    nodes = nodes_of(fused)
    for name, node in nodes.items():
        peak = ranges.get(name)
        finite = peak if peak is not None and peak < float("inf") else None
        if node.keep_fp32:
            islands.append(_island(name, node.keep_fp32, finite))
        elif precision == "fp16" and peak is not None and peak > range_limit:
            islands.append(_island(name, "range", finite))
    return PrecisionPlan(
        precision=precision, range_limit=range_limit, islands=tuple(islands), num_nodes=len(nodes)
    )


def _island(node: str, reason: str, largest: float | None) -> Island:
    return Island.model_validate({"node": node, "reason": reason, "largest": largest})


def apply_precision(fused: FusedSegmenter, plan: PrecisionPlan) -> FusedSegmenter:
    """Return a typed copy: weights and computation of every node in its planned dtype.

    Raises:
        ExportError: the plan names a node that the segmenter does not have.
    """
    typed = copy.deepcopy(fused)
    nodes = nodes_of(typed)
    islands = {island.node for island in plan.islands}
    if unknown := islands - nodes.keys():
        raise ExportError(
            "the precision plan does not fit the model",
            got=f"islands named {', '.join(sorted(unknown))}",
            expected="names of its nodes",
        )
    for name, node in nodes.items():
        node.dtype = torch.float32 if name in islands else DTYPES[plan.precision]
        for parameter in node.parameters(recurse=False):
            parameter.data = parameter.data.to(node.dtype)
    return typed
