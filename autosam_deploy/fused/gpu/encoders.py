"""Encoders with this project's kernels: raw slices -> embedding, channels last."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from autosam_deploy.encoders import VitEncoder
from autosam_deploy.fused.encoders.vit import Block, PatchEmbedding
from autosam_deploy.fused.gpu.block import GpuBlock
from autosam_deploy.fused.segmenter import FusedSegmenter
from autosam_deploy.kernels.tokens import slices_to_tokens


class PlainEncoder(nn.Module):
    """The typed encoder as it is: PyTorch's own operations."""

    #: Kernels of `segmenter.KERNELS` that it can use.
    uses: frozenset[str] = frozenset()

    def __init__(self, typed: FusedSegmenter, kernels: frozenset[str]) -> None:
        """Take input and encoder of a typed segmenter; `kernels` are for those that have some."""
        super().__init__()
        self.input, self.encoder = typed.input, typed.encoder

    def forward(self, slices: Tensor) -> Tensor:
        """Embed raw slices (B, 1, H, W) as (B, Sh, Sw, out_chans)."""
        embedding: Tensor = self.encoder(self.input(slices))
        return embedding


class VitWithKernels(nn.Module):
    """A typed ViT whose attention, norms and input are Triton kernels."""

    uses = frozenset({"attention", "norm", "input"})

    def __init__(self, typed: FusedSegmenter, kernels: frozenset[str]) -> None:
        """Rearrange the encoder of a typed segmenter; `kernels` are those to use."""
        super().__init__()
        self.spec = typed.spec
        self.with_input = "input" in kernels
        self.input, self.patches = typed.input, cast("PatchEmbedding", typed.encoder.patches)
        heads = cast("VitEncoder", typed.spec.encoder).num_heads
        self.blocks = nn.Sequential(
            *(
                GpuBlock(cast("Block", block), heads=heads, kernels=kernels)
                for block in typed.encoder.blocks
            )
        )
        self.neck = typed.encoder.neck

    def forward(self, slices: Tensor) -> Tensor:
        """Embed raw slices (B, 1, H, W) as (B, Sh, Sw, out_chans)."""
        embedding: Tensor = self.neck(self.blocks(self._tokens(slices)))
        return embedding

    def _tokens(self, slices: Tensor) -> Tensor:
        patches: PatchEmbedding = self.patches
        if not self.with_input:
            # A convolution leaves channels first; everything behind it reads whole tokens.
            tokens: Tensor = patches(self.input(slices)).contiguous()
            return tokens
        weight = patches.weight
        operand = slices_to_tokens(
            slices,
            self.spec.preprocess,
            image_size=self.spec.encoder.image_size,
            patch=patches.patch,
            dtype=weight.dtype,
        )
        return operand @ weight.flatten(1).t() + patches.position


#: Kind of encoder -> what runs it; others run as they are.
_WITH_KERNELS: dict[str, type[PlainEncoder | VitWithKernels]] = {"vit": VitWithKernels}


def gpu_encoder(typed: FusedSegmenter, kernels: frozenset[str]) -> PlainEncoder | VitWithKernels:
    """Return the encoder of a typed segmenter as a GPU runs it best."""
    return _WITH_KERNELS.get(typed.spec.encoder.kind, PlainEncoder)(typed, kernels)
