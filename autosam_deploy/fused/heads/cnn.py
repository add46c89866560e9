"""The CNN head: its two last convolutions are one, everything else stays a convolution."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autosam_deploy.fused.nodes import Conv, Linear, Node
from autosam_deploy.spec import CnnHead


def fold_pointwise(
    weight: Tensor, bias: Tensor, pointwise: Tensor, pointwise_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Fold a 1x1 convolution behind a 3x3 one, nothing standing between them.

    P (W * x + b) + p = (P W) * x + (P b + p); zero padding enters before W, so it is unchanged.

    Args:
        weight: (M, C, 3, 3).
        bias: (M,).
        pointwise: (K, M, 1, 1).
        pointwise_bias: (K,).

    Returns:
        Weight (K, C, 3, 3) and bias (K,).
    """
    matrix = pointwise.flatten(1)
    return torch.einsum("km,mchw->kchw", matrix, weight), matrix @ bias + pointwise_bias


class TransposedConv(Node):
    """Transposed convolution of kernel 2 and stride 2: (B, C, h, w) -> (B, C', 2 h, 2 w)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """Take weight (C, C', 2, 2) and bias (C',)."""
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone(), False)
        self.bias = nn.Parameter(bias.detach().clone(), False)

    def forward(self, x: Tensor) -> Tensor:
        """Double the resolution."""
        return self.watch(
            torch.nn.functional.conv_transpose2d(self.enter(x), self.weight, self.bias, stride=2)
        )


class FusedCnnHead(nn.Module):
    """Same function as the reference's SegDecoderCNN (models/SamFeatSeg.py)."""

    def __init__(
        self, state: Mapping[str, Tensor], spec: CnnHead, *, grid: tuple[int, int]
    ) -> None:
        """Take `mask_decoder.*` weights; `grid` is the embedding's token grid (h, w)."""
        super().__init__()
        self.grid = grid

        def pair(name: str) -> tuple[Tensor, Tensor]:
            return state[f"mask_decoder.{name}.weight"], state[f"mask_decoder.{name}.bias"]

        self.input = nn.Sequential(
            *(
                Linear(weight.flatten(1), bias, activation="relu")
                for weight, bias in (pair("input_block.0"), pair("input_block.2"))
            )
        )
        layers: list[nn.Module] = []
        for index in range(spec.depth):
            for position in (0, 2):
                weight, bias = pair(f"blocks.{index}.{position}")
                layers.append(Conv(weight, bias, padding=1, activation="relu"))
            if f"mask_decoder.blocks.{index}.4.weight" in state:
                layers.append(TransposedConv(*pair(f"blocks.{index}.4")))
        self.layers = nn.Sequential(*layers)
        self.logits = Conv(*fold_pointwise(*pair("final.0"), *pair("final.1")), padding=1)
        self.logits.keep_fp32 = "logits"

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (B, h, w, C) to low-resolution logits (B, K, h', w')."""
        y = self.input(embedding).permute(0, 3, 1, 2)
        out: Tensor = self.logits(self.layers(y))
        return out
