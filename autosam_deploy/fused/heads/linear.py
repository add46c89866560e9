"""The linear head on tokens: four matrix products a token, then one reordering of pixels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from autosam_deploy.fused.heads.upscaling import Upscaling, channels_to_tokens, order_pixels
from autosam_deploy.fused.nodes import Linear
from autosam_deploy.spec import LinearHead


class FusedLinearHead(nn.Module):
    """Same function as the reference's SegDecoderLinear (models/SamFeatSeg.py)."""

    def __init__(
        self, state: Mapping[str, Tensor], spec: LinearHead, *, grid: tuple[int, int]
    ) -> None:
        """Take `mask_decoder.*` weights; `grid` is the embedding's token grid (h, w)."""
        super().__init__()
        self.grid = grid
        prefix = "mask_decoder."
        self.upscaling = Upscaling(state, f"{prefix}output_upscaling.")
        self.hidden = Linear(
            state[f"{prefix}final.0.weight"].flatten(1),
            state[f"{prefix}final.0.bias"],
            activation="relu",
        )
        self.logits = Linear(
            state[f"{prefix}final.2.weight"].flatten(1),
            state[f"{prefix}final.2.bias"],
            activation="relu" if spec.final_relu else None,
        )
        self.logits.keep_fp32 = "logits"

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (B, h, w, C) to (B, K, 4 h, 4 w)."""
        y = self.upscaling(channels_to_tokens(embedding))
        return order_pixels(self.logits(self.hidden(y)), self.grid)
