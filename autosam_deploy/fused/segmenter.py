"""The fused segmenter: raw slices in, labels out, everything between in one module.

It is the segmenter of `models/segmenter.py` rearranged; each rearrangement is exact in real
arithmetic and tested in float64. It is what export traces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autosam_deploy.errors import ExportError
from autosam_deploy.fused.attention import LOWERINGS
from autosam_deploy.fused.encoders import fuse_encoder
from autosam_deploy.fused.heads.autosam import FusedAutosamHead
from autosam_deploy.fused.heads.cnn import FusedCnnHead
from autosam_deploy.fused.heads.linear import FusedLinearHead
from autosam_deploy.fused.image import ImageInput, LogitsOutput
from autosam_deploy.spec import AutosamHead, CnnHead, LinearHead, ModelSpec, OutputName

if TYPE_CHECKING:
    from autosam_deploy.models.segmenter import Segmenter


class FusedSegmenter(nn.Module):
    """Raw slices (B, 1, H, W) -> outputs in the order of `spec.outputs`."""

    def __init__(self, segmenter: Segmenter, *, lowering: str, spec: ModelSpec) -> None:
        """Copy and rearrange the segmenter's weights (see `fuse`)."""
        super().__init__()
        self.spec = spec
        self.lowering = lowering
        state = segmenter.state_dict()
        prefix = "image_encoder."
        encoder = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        fused = fuse_encoder(encoder, spec.encoder, preprocess=spec.preprocess, lowering=lowering)
        self.input = ImageInput(
            spec.preprocess, spec.encoder.image_size, padded_stem=fused.padded_stem
        )
        self.encoder = fused
        grid = spec.encoder.grid
        self.head: nn.Module
        if isinstance(spec.head, AutosamHead) and segmenter.pe_layer is not None:
            self.head = FusedAutosamHead(
                state, spec.head, grid=grid, position=segmenter.pe_layer(grid)
            )
        elif isinstance(spec.head, CnnHead):
            self.head = FusedCnnHead(state, spec.head, grid=grid)
        elif isinstance(spec.head, LinearHead):
            self.head = FusedLinearHead(state, spec.head, grid=grid)
        else:
            raise ExportError(
                f"the '{spec.head.kind}' head has no positional encoding", todo="build it anew"
            )
        self.output = LogitsOutput(spec.preprocess, spec.encoder.image_size)

    def embed(self, slices: Tensor) -> Tensor:
        """Return the embedding (B, 256, Sh, Sw) of raw slices (B, 1, H, W)."""
        embedding: Tensor = self.encoder(self.input(slices))
        return embedding.permute(0, 3, 1, 2)

    def logits(self, slices: Tensor) -> Tensor:
        """Return logits (B, K, H, W) of raw slices (B, 1, H, W)."""
        low = self.head(self.encoder(self.input(slices)))
        out: Tensor = self.output(low, slices.shape[2:])
        return out

    def forward(self, slices: Tensor) -> tuple[Tensor, ...]:
        """Return labels uint8 (B, H, W) and/or logits (B, K, H, W), as `spec.outputs` lists."""
        logits = self.logits(slices)
        found = {"logits": logits, "labels": logits.argmax(dim=1).to(torch.uint8)}
        return tuple(found[name] for name in self.spec.outputs)


def fuse(
    segmenter: Segmenter,
    *,
    lowering: str = "explicit",
    outputs: tuple[OutputName, ...] | None = None,
) -> FusedSegmenter:
    """Rearrange a segmenter for speed.

    Args:
        segmenter: the truth, in float32 or float64; it is not changed.
        lowering: how attention is written: a key of `attention.LOWERINGS`.
        outputs: the graph's outputs; None takes the segmenter's own.

    Returns:
        The fused segmenter in the same dtype, in eval mode, without gradients.

    Raises:
        ExportError: unknown lowering.
    """
    if lowering not in LOWERINGS:
        raise ExportError(
            "unknown lowering", got=repr(lowering), expected=" | ".join(sorted(LOWERINGS))
        )
    spec = segmenter.spec
    if outputs is not None:
        spec = spec.model_copy(update={"outputs": outputs})
    fused = FusedSegmenter(segmenter, lowering=lowering, spec=spec)
    return fused.eval().requires_grad_(False)
