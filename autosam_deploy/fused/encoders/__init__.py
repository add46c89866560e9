"""Fused image encoders: grey image -> embedding, channels last. One file and one row a kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.fused.encoders import tinyvit, vit
from autosam_deploy.spec import PreprocessSpec


@dataclass(frozen=True)
class FusedKind:
    """A row of `FUSED`.

    module: has `patches`, `blocks` and `neck`, made of nodes (`fused/nodes.py`), and `padded_stem`:
    whether its first convolution pads. score_shapes: (spec, lowering) -> (heads, tokens) that
    attend together.
    """

    module: Callable[..., nn.Module]
    score_shapes: Callable[[Any, str | None], frozenset[tuple[int, int]]]


FUSED: dict[str, FusedKind] = {
    "vit": FusedKind(vit.FusedVit, vit.score_shapes),
    "tinyvit": FusedKind(tinyvit.FusedTinyVit, tinyvit.score_shapes),
}


def fuse_encoder(
    state: Mapping[str, Tensor], spec: EncoderSpec, *, preprocess: PreprocessSpec, lowering: str
) -> Any:
    """Fuse an encoder of any kind: (B, 1 or 2, H, W) -> (B, Sh, Sw, out_chans).

    Args:
        state: the reference encoder's state dict, tables fitting `spec.grid`.
        spec: its shapes.
        preprocess: for the pixel normalisation that is folded in.
        lowering: a key of `attention.LOWERINGS`.

    Returns:
        The module of `FusedKind`.
    """
    return FUSED[spec.kind].module(state, spec, preprocess=preprocess, lowering=lowering)


def score_shapes(spec: EncoderSpec, lowering: str | None) -> frozenset[tuple[int, int]]:
    """Return (heads, tokens): a tensor (B, heads, tokens, tokens) holds scores of attention."""
    return FUSED[spec.kind].score_shapes(spec, lowering)
