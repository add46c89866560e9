"""Plain low precision without low-precision arithmetic units: every stored result is rounded.

Processors without half-precision units run torch's half kernels a hundred times slower than
float32 (0.9 against 126 GFLOP/s measured on one Zen 4), and GPUs accumulate half products in
float32 anyway. So the error of "the same model in plain half" is measured by running it in float32
and rounding what each operation stores. Overflow to infinity and NaN come out as in real half.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from autosam_deploy.fused.precision import DTYPES, PrecisionPlan, nodes_of

if TYPE_CHECKING:
    from autosam_deploy.fused.segmenter import FusedSegmenter
    from autosam_deploy.models.segmenter import Segmenter


class RoundStores(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Rounds every float32 result of an operation to a lower precision and back."""

    def __init__(self, dtype: torch.dtype) -> None:
        """Take the precision that results are stored in."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.target = dtype

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operation and round what it returns."""
        result = func(*args, **(kwargs or {}))
        schema = func._schema  # type: ignore[attr-defined]
        # Views and copies hold values that were rounded when they were made.
        if any(
            ret.alias_info is not None and not ret.alias_info.is_write for ret in schema.returns
        ):
            return result
        in_place = any(ret.alias_info is not None for ret in schema.returns)
        return tree_map_only(Tensor, lambda t: self._round(t, in_place), result)

    def _round(self, tensor: Tensor, in_place: bool) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        rounded = tensor.to(self.target).to(torch.float32)
        return tensor.copy_(rounded) if in_place else rounded


def run_rounded(segmenter: Segmenter, slices: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the logits of the reference segmenter with weights and results stored in `dtype`.

    Intensities are normalised in float32 first, as a user of `.half()` would before casting; raw
    scanner values need not fit into half precision at all.

    Args:
        segmenter: the truth in float32; it is not changed.
        slices: raw slices (B, 1, H, W) float32.
        dtype: torch.float16 or torch.bfloat16.

    Returns:
        Logits (B, K, H, W) float32, not finite where `dtype` overflows.
    """
    low = copy.deepcopy(segmenter)
    for tensor in (*low.parameters(), *low.buffers()):
        tensor.data = tensor.data.to(dtype).to(torch.float32)
    size = (slices.shape[2], slices.shape[3])
    with torch.no_grad():
        image = low.encoder_input(slices)
        with RoundStores(dtype):
            decoded = low.decode(low.image_encoder(image))
        return low.to_slice_size(decoded, size)


def run_typed(fused: FusedSegmenter, plan: PrecisionPlan, slices: Tensor) -> Tensor:
    """Return the logits of a fused segmenter typed by `plan`, with rounding in place of half units.

    Nodes in low precision round their weights, inputs and results; islands compute in float32.

    Args:
        fused: the fused segmenter in float32; it is not changed.
        plan: which nodes are islands.
        slices: raw slices (B, 1, H, W) float32.

    Returns:
        Logits (B, K, H, W) float32.
    """
    typed = copy.deepcopy(fused)
    islands = {island.node for island in plan.islands}
    dtype = DTYPES[plan.precision]
    for name, node in nodes_of(typed).items():
        if name not in islands:
            for parameter in node.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype).to(torch.float32)
            node.forward = _rounding(node.forward, dtype)
    with torch.no_grad():
        return typed.logits(slices)


def _rounding(forward: Callable[..., Tensor], dtype: torch.dtype) -> Callable[..., Tensor]:
    def run(*inputs: Tensor, **options: Any) -> Tensor:
        rounded = [tensor.to(dtype).to(torch.float32) for tensor in inputs]
        with RoundStores(dtype):
            return forward(*rounded, **options)

    return run
