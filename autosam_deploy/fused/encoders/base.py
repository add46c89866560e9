"""What fused encoders share: the way from image to embedding, and SAM's neck."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from autosam_deploy.fused.nodes import Conv, LayerNorm, Linear

State = Mapping[str, Tensor]


class FusedEncoder(nn.Module):
    """Normalised grey image (B, 1 or 2, H, W) -> embedding, channels last (B, Sh, Sw, out_chans).

    Its parts are made of nodes (`fused/nodes.py`); what one hands to the next can be looked at
    (`fused/taps.py`).
    """

    def __init__(
        self, patches: nn.Module, blocks: nn.ModuleList, state: State, *, padded_stem: bool = False
    ) -> None:
        """Join the parts.

        Args:
            patches: image to the first tokens.
            blocks: one after the other.
            state: the reference encoder's state dict, for its `neck.*`.
            padded_stem: the first convolution pads (`models.preprocess.marks_padding`).
        """
        super().__init__()
        self.patches, self.blocks, self.neck = patches, blocks, Neck(state)
        self.padded_stem = padded_stem

    def forward(self, image: Tensor) -> Tensor:
        """Encode."""
        x = self.patches(image)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.neck(x)
        return out


class Neck(nn.Module):
    """1x1 and 3x3 convolutions to the embedding: (B, h, w, C) -> (B, h, w, out)."""

    def __init__(self, state: State) -> None:
        """Take `neck.*` from the encoder's state."""
        super().__init__()
        self.reduce = Linear(state["neck.0.weight"].flatten(1), None)
        self.norm1 = LayerNorm(state["neck.1.weight"], state["neck.1.bias"], eps=1e-6)
        self.smooth = Conv(state["neck.2.weight"], None, padding=1)
        self.norm2 = LayerNorm(state["neck.3.weight"], state["neck.3.bias"], eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens to the embedding, channels last."""
        y = self.smooth(self.norm1(self.reduce(x)).permute(0, 3, 1, 2))
        out: Tensor = self.norm2(y.permute(0, 2, 3, 1))
        return out
