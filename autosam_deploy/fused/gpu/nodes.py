"""Matrix products and normalisations as a GPU takes them, made from the nodes of `fused/nodes.py`.

A node casts, computes and stores in three steps, which is three passes over memory in eager
PyTorch. Here a product adds its bias as it stores, products of one input are one product, and a
normalisation stores in the dtype of who reads it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from autosam_deploy.fused.nodes import LayerNorm, Linear, activate
from autosam_deploy.kernels.norm import layer_norm


def dtype_of(node: Linear | LayerNorm) -> torch.dtype:
    """Return the dtype that a node computes in."""
    return node.weight.dtype if node.dtype is None else node.dtype


class Dense(nn.Module):
    """y = act(x W + b) over the last axis, for one or several `Linear` nodes of one input."""

    def __init__(self, nodes: Sequence[Linear]) -> None:
        """Join the nodes' weights, which are of one dtype and have one activation."""
        super().__init__()
        self.dtype = dtype_of(nodes[0])
        self.activation = nodes[0].activation
        self.weight = nn.Parameter(torch.cat([node.weight for node in nodes], dim=1), False)
        biases = [node.bias for node in nodes]
        self.bias: nn.Parameter | None = None
        if any(bias is not None for bias in biases):
            parts = [
                node.weight.new_zeros(node.weight.shape[1]) if node.bias is None else node.bias
                for node in nodes
            ]
            self.bias = nn.Parameter(torch.cat(parts), False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        flat = x.to(self.dtype).reshape(-1, x.shape[-1])
        # addmm stores sum and bias at once, rounded once.
        y = flat @ self.weight if self.bias is None else torch.addmm(self.bias, flat, self.weight)
        return activate(y, self.activation).view(*x.shape[:-1], -1)


def join(nodes: Sequence[Linear]) -> nn.ModuleList:
    """Return the fewest `Dense` that compute all nodes: one, unless their dtypes differ."""
    if len({dtype_of(node) for node in nodes}) == 1:
        return nn.ModuleList([Dense(nodes)])
    return nn.ModuleList(Dense([node]) for node in nodes)


class Norm(nn.Module):
    """Layer normalisation over the last axis in float32, stored in the dtype of its reader."""

    def __init__(self, node: LayerNorm, *, store: torch.dtype, kernel: bool) -> None:
        """Take a node's weights.

        Args:
            node: the normalisation, an island in float32 (it always is).
            store: dtype of the result.
            kernel: use the Triton kernel; else PyTorch's, with a cast on either side.
        """
        super().__init__()
        self.weight, self.bias, self.eps = node.weight, node.bias, node.eps
        self.store, self.kernel = store, kernel

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., C)."""
        if self.kernel:
            return layer_norm(x, self.weight, self.bias, eps=self.eps, dtype=self.store)
        wide = x.to(self.weight.dtype)
        return F.layer_norm(wide, self.weight.shape, self.weight, self.bias, self.eps).to(
            self.store
        )
