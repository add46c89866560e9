"""The three heads: autosam, cnn, linear."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autosam_deploy.models.heads.autosam import AutosamDecoder, PositionEncoding
from autosam_deploy.models.heads.cnn import CnnDecoder
from autosam_deploy.models.heads.linear import LinearDecoder
from autosam_deploy.spec import AutosamHead, CnnHead, HeadSpec


def build_decoder(spec: HeadSpec) -> tuple[nn.Module, PositionEncoding | None]:
    """Return an untrained decoder and, for the autosam head, its positional encoding."""
    if isinstance(spec, AutosamHead):
        return AutosamDecoder(spec), PositionEncoding(spec.embed_dim // 2)
    if isinstance(spec, CnnHead):
        return CnnDecoder(spec), None
    return LinearDecoder(spec), None


def decode(decoder: nn.Module, position: PositionEncoding | None, embedding: Tensor) -> Tensor:
    """Decode an embedding (B, C, h, w) to low-resolution logits (B, K, h', w')."""
    if position is None:
        out: Tensor = decoder(embedding)
    else:
        out = decoder(embedding, position((embedding.shape[2], embedding.shape[3])))
    return out


class Head(nn.Module):
    """What turns an embedding (B, C, h, w) into low-resolution logits (B, K, h', w').

    State-dict keys are those of the reference without its encoder: `mask_decoder.*` and, for the
    autosam head, `pe_layer.positional_encoding_gaussian_matrix`. h' = 4 h, except for cnn heads
    of other depths than 2 and 4 (see `heads.cnn.upsampling_factor`).
    """

    def __init__(self, spec: HeadSpec) -> None:
        """Build an untrained head."""
        super().__init__()
        self.spec = spec
        self.mask_decoder, self.pe_layer = build_decoder(spec)

    def forward(self, embedding: Tensor) -> Tensor:
        """Decode an embedding."""
        return decode(self.mask_decoder, self.pe_layer, embedding)


def seeded_head_state(spec: HeadSpec, seed: int) -> dict[str, Tensor]:
    """Return random head weights that depend on nothing but `spec` and `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(spec)
    return {name: tensor.detach() for name, tensor in head.state_dict().items()}
