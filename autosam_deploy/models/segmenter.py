"""The segmenter: encoder, head and resizes in plain PyTorch. Parity is measured against it."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autosam_deploy.errors import SpecError
from autosam_deploy.models.encoders import build_encoder, seeded_encoder_state
from autosam_deploy.models.heads import build_decoder, decode, seeded_head_state
from autosam_deploy.models.preprocess import to_encoder_input, to_slice_size
from autosam_deploy.models.resize import Resize, bilinear
from autosam_deploy.models.states import check_state
from autosam_deploy.spec import ModelSpec

ENCODER_PREFIX = "image_encoder."


class Segmenter(nn.Module):
    """Raw slices (B, 1, H, W) -> logits (B, K, H, W).

    State-dict keys are the reference's: `image_encoder.*`, `mask_decoder.*` and, for the autosam
    head, `pe_layer.*`; a full reference checkpoint loads strictly. Encoder and head compute in the
    dtype of their weights, the two ends (intensities, resizes) in float32 at least.
    """

    def __init__(self, spec: ModelSpec) -> None:
        """Build an untrained segmenter."""
        super().__init__()
        self.spec = spec
        self.resize: Resize = bilinear
        self.image_encoder = build_encoder(spec.encoder)
        self.mask_decoder, self.pe_layer = build_decoder(spec.head)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.image_encoder.parameters()).dtype

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    def encoder_input(self, slices: Tensor) -> Tensor:
        """Return the encoder's input (B, 3, Hs, Ws) of raw slices, in the slices' dtype."""
        spec = self.spec
        return to_encoder_input(
            slices, spec.preprocess, spec.encoder.image_size, resize=self.resize
        )

    def embed(self, slices: Tensor) -> Tensor:
        """Return the embedding (B, C, Sh, Sw) of raw slices (B, 1, H, W) of any real dtype.

        Raises:
            SpecError: the slices are not (B, 1, H, W).
        """
        if slices.dim() != 4 or slices.shape[1] != 1:
            raise SpecError(
                "slices of another shape", got=str(tuple(slices.shape)), expected="(B, 1, H, W)"
            )
        # Raw intensities may exceed half precision; they are scaled before they are cast.
        image = self.encoder_input(slices.to(self._wide))
        embedding: Tensor = self.image_encoder(image.to(self.dtype))
        return embedding

    def decode(self, embedding: Tensor) -> Tensor:
        """Return low-resolution logits (B, K, h, w) of an embedding (B, C, Sh, Sw)."""
        return decode(self.mask_decoder, self.pe_layer, embedding)

    def to_slice_size(self, low: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize low-resolution logits (B, K, h, w) to `size` (H, W)."""
        spec = self.spec
        return to_slice_size(
            low, spec.preprocess, spec.encoder.image_size, size, resize=self.resize
        )

    def with_resize(self, resize: Resize) -> Segmenter:
        """Return a segmenter with the same weights, not copied, that resizes in another way."""
        other = copy.copy(self)
        other.resize = resize
        return other

    def forward(self, slices: Tensor) -> Tensor:
        """Return logits (B, K, H, W) in the dtype of the weights."""
        return self._wide_logits(slices).to(self.dtype)

    def labels(self, slices: Tensor) -> Tensor:
        """Return labels (B, H, W) uint8: the class with the largest logit, the first of equals.

        In half precision logits are compared before they are rounded, which would add ties.
        """
        return self._wide_logits(slices).argmax(dim=1).to(torch.uint8)

    def _wide_logits(self, slices: Tensor) -> Tensor:
        low = self.decode(self.embed(slices)).to(self._wide)
        return self.to_slice_size(low, (slices.shape[2], slices.shape[3]))


def segmenter_from_state(spec: ModelSpec, state: Mapping[str, Tensor]) -> Segmenter:
    """Return a segmenter with the given weights, in eval mode, without gradients.

    The tensors become its parameters as they are: copies would hold a vit_h twice.

    Args:
        spec: what the weights are for.
        state: `image_encoder.*`, `mask_decoder.*` and, for the autosam head, `pe_layer.*`.

    Raises:
        CheckpointError: a weight is missing, unknown or misshapen.
    """
    with torch.device("meta"):
        segmenter = Segmenter(spec)
    check_state(state, {name: t.shape for name, t in segmenter.state_dict().items()})
    segmenter.load_state_dict(state, strict=True, assign=True)
    return segmenter.eval().requires_grad_(False)


def seeded_segmenter(spec: ModelSpec, *, seed: int = 0) -> Segmenter:
    """Return a segmenter with random weights that depend on nothing but `spec` and `seed`."""
    encoder = seeded_encoder_state(spec.encoder, seed)
    state = {f"{ENCODER_PREFIX}{name}": tensor for name, tensor in encoder.items()}
    return segmenter_from_state(spec, {**state, **seeded_head_state(spec.head, seed + 1)})
