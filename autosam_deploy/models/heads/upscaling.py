"""SAM's output upscaling, shared by the autosam and linear heads."""

from __future__ import annotations

from segment_anything.modeling.common import LayerNorm2d
from torch import nn


def output_upscaling(width: int) -> nn.Sequential:
    """Return (B, C, h, w) -> (B, C / 8, 4 h, 4 w), laid out as in SAM's mask decoder."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, width // 4, kernel_size=2, stride=2),
        LayerNorm2d(width // 4),
        nn.GELU(),
        nn.ConvTranspose2d(width // 4, width // 8, kernel_size=2, stride=2),
        nn.GELU(),
    )
