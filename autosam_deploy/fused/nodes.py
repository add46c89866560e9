"""Nodes: the places of the fused graph that have a precision of their own.

A node casts what it is given to its own dtype, computes in it and returns it. So the precision of
the whole graph is one table from node name to dtype (see `precision.py`), casts stand where two
neighbours differ and nowhere else, and a node's name in that table is its module path.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

Recorder = Callable[[Tensor], None]


class Node(nn.Module):
    """A computation with one dtype; `None` follows the inputs (the unfused precision)."""

    #: Why a node must stay in float32 whatever its range is; empty where it need not.
    keep_fp32: str = ""

    def __init__(self) -> None:
        """Start untyped and unwatched."""
        super().__init__()
        self.dtype: torch.dtype | None = None
        self.recorder: Recorder | None = None

    def enter(self, tensor: Tensor) -> Tensor:
        """Cast an input to this node's dtype, showing it to the recorder first."""
        self.watch(tensor)
        return tensor if self.dtype is None else tensor.to(self.dtype)

    def watch(self, tensor: Tensor) -> Tensor:
        """Show a tensor that would be stored in this node's dtype to the recorder."""
        if self.recorder is not None:
            self.recorder(tensor)
        return tensor


class Linear(Node):
    """y = act(x W + b) over the last axis; W is stored (in, out), as a MatMul takes it."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, activation: str | None = None
    ) -> None:
        """Take a weight (out, in) as torch's Linear holds it, and a bias (out,) or None.

        `activation` is "gelu", "relu" or None and is part of the node: its input is stored too.
        """
        super().__init__()
        self.weight = nn.Parameter(weight.detach().t().contiguous(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), False)
        self.activation = activation

    def forward(self, x: Tensor, *, outputs: slice | None = None) -> Tensor:
        """Map (..., in) to (..., out); `outputs` selects some of the results."""
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if outputs is not None:
            weight, bias = weight[:, outputs], None if bias is None else bias[outputs]
        y = torch.matmul(self.enter(x), weight)
        if bias is not None:
            y = y + bias
        return activate(self.watch(y), self.activation)


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply "gelu" (exact, as SAM), "relu" or nothing."""
    if activation == "gelu":
        return F.gelu(x)
    if activation == "relu":
        return F.relu(x)
    return x


class LayerNorm(Node):
    """Layer normalisation over the last axis; serves SAM's LayerNorm2d in channels-last layout.

    SAM's LayerNorm2d over the channels of (B, C, H, W) equals this over the last axis of
    (B, H, W, C): both use the biased variance and add eps inside the root.
    """

    keep_fp32 = "layer-norm"

    def __init__(self, weight: Tensor, bias: Tensor, *, eps: float) -> None:
        """Take scale and shift (C,)."""
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone(), False)
        self.bias = nn.Parameter(bias.detach().clone(), False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., C)."""
        x = self.enter(x)
        return self.watch(F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps))


class Add(Node):
    """Residual sum; its dtype is the precision of the residual stream behind it."""

    def __init__(self, *, activation: str | None = None) -> None:
        """Take what the sum goes through: "gelu", "relu" or None."""
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Add two tensors of one shape."""
        return activate(self.watch(self.enter(x) + self.enter(y)), self.activation)


class Conv(Node):
    """2-D convolution (B, C, H, W), optionally with an activation."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        activation: str | None = None,
    ) -> None:
        """Take weight (out, in / groups, kh, kw) and bias (out,) or None."""
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone(), False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), False)
        self.stride = stride
        self.padding = padding
        self.groups = groups
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H', W')."""
        y = F.conv2d(
            self.enter(x),
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
        )
        return activate(self.watch(y), self.activation)
