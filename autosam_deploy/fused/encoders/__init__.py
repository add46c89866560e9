"""Fused image encoders: grey image -> embedding, channels last. One file and one row a kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.fused.encoders import tinyvit, vit
from autosam_deploy.fused.encoders.base import FusedEncoder
from autosam_deploy.spec import PreprocessSpec


@dataclass(frozen=True)
class FusedKind:
    """A row of `FUSED`.

    fuse: as `fuse_encoder`. score_shapes: (spec, lowering) -> (heads, tokens) that attend together.
    """

    fuse: Callable[..., FusedEncoder]
    score_shapes: Callable[[Any, str | None], frozenset[tuple[int, int]]]


FUSED: dict[str, FusedKind] = {
    "vit": FusedKind(vit.fuse, vit.score_shapes),
    "tinyvit": FusedKind(tinyvit.fuse, tinyvit.score_shapes),
}


def fuse_encoder(
    state: Mapping[str, Tensor], spec: EncoderSpec, *, preprocess: PreprocessSpec, lowering: str
) -> FusedEncoder:
    """Fuse an encoder of any kind: (B, 1 or 2, H, W) -> (B, Sh, Sw, out_chans).

    Args:
        state: the reference encoder's state dict, tables fitting `spec.grid`.
        spec: its shapes.
        preprocess: for the pixel normalisation that is folded in.
        lowering: a key of `attention.LOWERINGS`.
    """
    return FUSED[spec.kind].fuse(state, spec, preprocess=preprocess, lowering=lowering)


def score_shapes(spec: EncoderSpec, lowering: str | None) -> frozenset[tuple[int, int]]:
    """Return (heads, tokens): a tensor (B, heads, tokens, tokens) holds scores of attention."""
    return FUSED[spec.kind].score_shapes(spec, lowering)
