"""Operations of a segmenter, counted from its spec.

An encoder counts its own (`Encoder.macs`), as the reference computes or without the work on padded
tokens, which is known beforehand: the least that has to be computed, and what a share of the
roofline is taken of. Norms, activations and softmax are left out: they are no multiply-adds of a
matrix unit.
"""

from __future__ import annotations

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.spec import AutosamHead, CnnHead, HeadSpec, LinearHead, ModelSpec

#: The IoU token and two mask tokens of one class.
_TOKENS = 3


def model_flops(model: ModelSpec, *, padded: bool = True) -> int:
    """Return the floating-point operations of one slice, two a multiply-add."""
    return 2 * (model.encoder.macs(padded=padded) + head_macs(model.head, model.encoder))


def head_macs(head: HeadSpec, encoder: EncoderSpec) -> int:
    """Return the multiply-adds of a head for one slice."""
    rows, columns = encoder.grid
    tokens = rows * columns
    if isinstance(head, AutosamHead):
        return head.num_classes * _autosam_class(head, tokens)
    if isinstance(head, CnnHead):
        return _cnn(head, tokens)
    return _linear(head, tokens)


def _upscaling(tokens: int, width: int) -> int:
    """Two transposed convolutions, each to twice the side and first a quarter of the channels."""
    return tokens * 4 * (width * width // 4) + 4 * tokens * 4 * (width // 4) * (width // 8)


def _autosam_class(head: AutosamHead, tokens: int) -> int:
    """One class of the two-way transformer; cross-attention works in half the width."""
    width, half = head.embed_dim, head.embed_dim // 2
    on_image = tokens * width * half
    products = 2 * _TOKENS * tokens * half
    small = _TOKENS * width * (4 * width + 2 * head.mlp_dim) + 4 * _TOKENS * width * half
    layer = 4 * on_image + 2 * products + small
    last = 2 * on_image + products + 2 * _TOKENS * width * half
    hypernetwork = width * (2 * width + width // 8)
    masks = 16 * tokens * (width // 8)
    whole = head.transformer_depth * layer + last + hypernetwork + masks
    return whole + _upscaling(tokens, width)


def _cnn(head: CnnHead, tokens: int) -> int:
    """Blocks of 3x3 convolutions; the first two keep the resolution when there are more than 2."""
    width = head.top_channels << head.depth
    total, pixels = tokens * width * (head.embed_dim + width), tokens
    for block in range(head.depth):
        total += 9 * pixels * width * width
        if head.depth > 2 > block:
            total += 9 * pixels * width * (width // 2)
        else:
            total += 9 * pixels * width * width + 4 * pixels * width * (width // 2)
            pixels *= 4
        width //= 2
    return total + pixels * width * (9 * width + head.num_classes)


def _linear(head: LinearHead, tokens: int) -> int:
    width = head.embed_dim // 8
    return _upscaling(tokens, head.embed_dim) + 16 * tokens * width * (width + head.num_classes)
