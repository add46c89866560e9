"""The index rule of bilinear resizing, shared by the kernels at the two ends."""

# mypy: disable-error-code="untyped-decorator"
# Triton's decorator carries no types.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def taps(
    index: tl.tensor, scale: tl.tensor, size: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return the two source positions of an output position and the weight of the second.

    As `torch.nn.functional.interpolate(..., align_corners=False)` in float32: the middle of an
    output pixel is scaled, what falls before the first source pixel is moved onto it, and the
    second position stops at the last one.

    Args:
        index: output positions, int32, any shape.
        scale: source size / output size as float32.
        size: source size.
    """
    source = tl.maximum((index.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    first = tl.minimum(source.to(tl.int32), size - 1)
    return first, tl.minimum(first + 1, size - 1), source - first.to(tl.float32)
