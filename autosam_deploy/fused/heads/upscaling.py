"""Transposed convolutions of kernel 2 and stride 2 as matrix products on tokens.

y[o, 2i + a, 2j + b] = sum_c x[c, i, j] W[c, o, a, b] + bias[o]: every token becomes 2 x 2 tokens
by one matrix product, and none of them overlap. So normalisation, activation and 1x1 convolutions
behind it run on (..., tokens, 2 x 2, channels), and pixels are put in order once, at the very end,
when only the class logits are left to move.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autosam_deploy.fused.nodes import LayerNorm, Linear, activate


def transposed_to_linear(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Turn a transposed convolution (in, out, 2, 2) into a linear map in -> (a, b, out).

    Returns:
        Weight (4 * out, in) in torch's Linear layout and bias (4 * out,).
    """
    channels_in, channels_out = weight.shape[:2]
    flat = weight.permute(2, 3, 1, 0).reshape(4 * channels_out, channels_in)
    return flat, bias.repeat(4)


class Upscaling(nn.Module):
    """SAM's output upscaling: (..., C) -> (..., 16, C / 8), 4 x 4 pixels a token."""

    def __init__(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Take `<prefix>0`, `1` and `3` (two transposed convolutions around a LayerNorm2d)."""
        super().__init__()
        self.first = Linear(
            *transposed_to_linear(state[f"{prefix}0.weight"], state[f"{prefix}0.bias"])
        )
        self.norm = LayerNorm(state[f"{prefix}1.weight"], state[f"{prefix}1.bias"], eps=1e-6)
        self.second = Linear(
            *transposed_to_linear(state[f"{prefix}3.weight"], state[f"{prefix}3.bias"]),
            activation="gelu",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Upscale; axis -2 of the result is (a1, b1, a2, b2), rows before columns."""
        leading = x.shape[1:-1]
        y = self.first(x)
        y = y.reshape(-1, *leading, 4, y.shape[-1] // 4)
        y = self.second(activate(self.norm(y), "gelu"))
        out: Tensor = y.reshape(-1, *leading, 16, y.shape[-1] // 4)
        return out


def order_pixels(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Put upscaled tokens in image order.

    Args:
        x: (B, h * w, 16, K) as `Upscaling` orders it.
        grid: tokens (h, w).

    Returns:
        (B, K, 4 h, 4 w).
    """
    height, width = grid
    classes = x.shape[-1]
    x = x.reshape(-1, height, width, 2, 2, 2, 2, classes)
    x = x.permute(0, 7, 1, 3, 5, 2, 4, 6)
    return x.reshape(-1, classes, 4 * height, 4 * width)


def channels_to_tokens(x: Tensor) -> Tensor:
    """Return (B, h, w, C) as (B, h * w, C)."""
    return torch.flatten(x, 1, 2)
