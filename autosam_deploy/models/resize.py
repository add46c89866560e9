"""Bilinear resizes: as PyTorch computes them, and with coordinates as ONNX defines them.

Both mean the same. PyTorch multiplies by in / out, ONNX (`Resize`, half_pixel) divides by out / in,
and where one of the two is a binary fraction the other is not: encoders' sides are powers of two,
slices' sides are not, so that PyTorch's coordinates are exact and ONNX's are rounded. In a picture
of high contrast that alone moves logits by several times of what other roundings do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

#: (B, C, h, w), (H, W) -> (B, C, H, W).
Resize = Callable[[Tensor, tuple[int, int]], Tensor]


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) to (B, C, H, W), pixel centres at halves."""
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def bilinear_as_onnx(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize as `bilinear`, with coordinates (i + 0.5) / (out / in) - 0.5 rounded to float32."""
    top, bottom, share = _neighbours(x.shape[2], size[0], x)
    rows = x[:, :, top] * (1 - share)[:, None] + x[:, :, bottom] * share[:, None]
    left, right, share = _neighbours(x.shape[3], size[1], x)
    return rows[..., left] * (1 - share) + rows[..., right] * share


def _neighbours(old: int, new: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return for every new row the two old ones it lies between, and the second one's share."""
    scale = torch.tensor(new, dtype=torch.float32) / old
    place = (torch.arange(new, dtype=torch.float32) + 0.5) / scale - 0.5
    place = place.clamp(0, old - 1)
    first = place.floor()
    second = (first + 1).clamp(max=old - 1)
    return (
        first.long().to(like.device),
        second.long().to(like.device),
        (place - first).to(like.device, like.dtype),
    )
