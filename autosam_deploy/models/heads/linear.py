"""The linear head of the reference (models/SamFeatSeg.py, SegDecoderLinear)."""

from __future__ import annotations

from torch import Tensor, nn

from autosam_deploy.models.heads.upscaling import output_upscaling
from autosam_deploy.spec import LinearHead


class LinearDecoder(nn.Module):
    """Embedding (B, C, h, w) -> logits (B, K, 4 h, 4 w).

    With `final_relu` the logits end in a ReLU as upstream: exact ties at zero are then normal.
    """

    def __init__(self, spec: LinearHead) -> None:
        """Build an untrained decoder."""
        super().__init__()
        width = spec.embed_dim // 8
        self.output_upscaling = output_upscaling(spec.embed_dim)
        self.final = nn.Sequential(
            nn.Conv2d(width, width, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, spec.num_classes, 1),
            nn.ReLU(inplace=True) if spec.final_relu else nn.Identity(),
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """Decode."""
        out: Tensor = self.final(self.output_upscaling(embedding))
        return out
