"""The segmenter: encoder, head and resizes in plain PyTorch. Parity is measured against it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autosam_deploy.models.encoder import build_encoder, seeded_encoder_state
from autosam_deploy.models.heads import build_decoder, decode, seeded_head_state
from autosam_deploy.models.preprocess import to_encoder_input, to_slice_size
from autosam_deploy.spec import ModelSpec


class Segmenter(nn.Module):
    """Raw slices (B, 1, H, W) -> logits (B, K, H, W).

    State-dict keys are the reference's: `image_encoder.*`, `mask_decoder.*` and, for the autosam
    head, `pe_layer.*`; a full reference checkpoint loads strictly.
    """

    def __init__(self, spec: ModelSpec) -> None:
        """Build an untrained segmenter."""
        super().__init__()
        self.spec = spec
        self.image_encoder = build_encoder(spec.encoder)
        self.mask_decoder, self.pe_layer = build_decoder(spec.head)

    def encoder_input(self, slices: Tensor) -> Tensor:
        """Return the encoder's input (B, 3, Hs, Ws) of raw slices, in the slices' dtype."""
        spec = self.spec
        return to_encoder_input(slices, spec.preprocess, spec.encoder.image_size)

    def embed(self, slices: Tensor) -> Tensor:
        """Return the embedding (B, C, Sh, Sw) of raw slices (B, 1, H, W)."""
        dtype = self.image_encoder.pos_embed.dtype
        # Raw intensities may exceed half precision; they are scaled before they are cast.
        wide = slices.to(torch.float64 if dtype == torch.float64 else torch.float32)
        embedding: Tensor = self.image_encoder(self.encoder_input(wide).to(dtype))
        return embedding

    def decode(self, embedding: Tensor) -> Tensor:
        """Return low-resolution logits (B, K, h, w) of an embedding (B, C, Sh, Sw)."""
        return decode(self.mask_decoder, self.pe_layer, embedding)

    def to_slice_size(self, low: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize low-resolution logits (B, K, h, w) to `size` (H, W)."""
        spec = self.spec
        return to_slice_size(low, spec.preprocess, spec.encoder.image_size, size)

    def forward(self, slices: Tensor) -> Tensor:
        """Return logits (B, K, H, W) in the dtype of the weights."""
        low = self.decode(self.embed(slices))
        return self.to_slice_size(low, (slices.shape[2], slices.shape[3]))

    def labels(self, slices: Tensor) -> Tensor:
        """Return labels (B, H, W) uint8: the class with the largest logit, the first of equals."""
        return self.forward(slices).float().argmax(dim=1).to(torch.uint8)


def seeded_segmenter(spec: ModelSpec, *, seed: int = 0) -> Segmenter:
    """Return a segmenter with random weights that depend on nothing but `spec` and `seed`."""
    segmenter = Segmenter(spec)
    state = {
        f"image_encoder.{name}": tensor
        for name, tensor in seeded_encoder_state(spec.encoder, seed).items()
    }
    state.update(seeded_head_state(spec.head, seed + 1))
    segmenter.load_state_dict(state, strict=True)
    return segmenter.eval().requires_grad_(False)
