"""The fused encoder by itself: raw slices in, embeddings out, which training keeps."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import ExportError
from autosam_deploy.fused.attention import LOWERINGS
from autosam_deploy.fused.encoders import fuse_encoder
from autosam_deploy.fused.image import ImageInput
from autosam_deploy.spec import PreprocessSpec


class FusedEmbedder(nn.Module):
    """Raw slices (B, 1, H, W) -> embedding (B, C, Sh, Sw) as `Segmenter.embed` gives it."""

    def __init__(
        self,
        state: Mapping[str, Tensor],
        spec: EncoderSpec,
        *,
        preprocess: PreprocessSpec,
        lowering: str,
    ) -> None:
        """Copy and rearrange an encoder's weights.

        Args:
            state: an encoder's weights, tables fitting `spec.grid`.
            spec: the encoder at its image size.
            preprocess: the recipe; its pixel normalisation is folded in.
            lowering: how attention is written: a key of `attention.LOWERINGS`.

        Raises:
            ExportError: unknown lowering.
        """
        super().__init__()
        if lowering not in LOWERINGS:
            raise ExportError(
                "unknown lowering", got=repr(lowering), expected=" | ".join(sorted(LOWERINGS))
            )
        self.spec = spec
        self.lowering = lowering
        fused = fuse_encoder(state, spec, preprocess=preprocess, lowering=lowering)
        self.input = ImageInput(preprocess, spec.image_size, padded_stem=fused.padded_stem)
        self.encoder = fused
        self.eval().requires_grad_(False)

    def forward(self, slices: Tensor) -> Tensor:
        """Embed."""
        embedding: Tensor = self.encoder(self.input(slices))
        return embedding.permute(0, 3, 1, 2)
