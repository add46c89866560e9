"""Kernel of `labels.py`: resize the logits of all classes pixel by pixel and keep the largest."""

# mypy: disable-error-code="untyped-decorator"
# Triton's decorator carries no types.

from __future__ import annotations

import triton
import triton.language as tl

from autosam_deploy.kernels.ahead import Case
from autosam_deploy.kernels.bilinear_triton import taps

#: Pixels (rows, columns) that one program labels, 64 bytes in a row: 2 a thread, since each is made
#: of 4 or 16 values whose addresses fill the registers.
TILE = (4, 64)
NUM_WARPS = 4


@triton.jit
def _blend(
    plane: tl.tensor,
    top: tl.tensor,
    bottom: tl.tensor,
    down: tl.tensor,
    left: tl.tensor,
    right: tl.tensor,
    along: tl.tensor,
) -> tl.tensor:
    """Interpolate between four values of a plane; rows and columns are offsets, in elements."""
    above = (1.0 - along) * tl.load(plane + top + left).to(tl.float32) + (
        along * tl.load(plane + top + right).to(tl.float32)
    )
    below = (1.0 - along) * tl.load(plane + bottom + left).to(tl.float32) + (
        along * tl.load(plane + bottom + right).to(tl.float32)
    )
    return (1.0 - down) * above + down * below


@triton.jit
def _offsets(
    index: tl.tensor, scale: tl.tensor, size: tl.tensor, stride: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return `taps` with positions as offsets in elements."""
    first, second, weight = taps(index, scale, size)
    return first.to(tl.int64) * stride, second.to(tl.int64) * stride, weight


@triton.jit
def pixel_labels(
    low: tl.tensor,
    labels: tl.tensor,
    classes: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    stride_b: tl.tensor,
    stride_k: tl.tensor,
    stride_h: tl.tensor,
    stride_w: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    valid_h: tl.tensor,
    valid_w: tl.tensor,
    scale_h: tl.tensor,
    scale_w: tl.tensor,
    inner_scale_h: tl.tensor,
    inner_scale_w: tl.tensor,
    nested: tl.constexpr,
    tile_h: tl.constexpr,
    tile_w: tl.constexpr,
) -> None:
    """Label one tile; grid (B * ceil(height / tile_h), ceil(width / tile_w)).

    Without `nested` the picture (valid_h, valid_w) is `low` itself. With it, the picture is the
    upper left part of `low` resized by the inner scales: the four values around a pixel are each
    interpolated between four of `low`.
    """
    strips = tl.cdiv(height, tile_h)
    number = (tl.program_id(0) // strips).to(tl.int64)
    y = ((tl.program_id(0) % strips) * tile_h + tl.arange(0, tile_h))[:, None]
    x = (tl.program_id(1) * tile_w + tl.arange(0, tile_w))[None, :]
    top, bottom, down = taps(y, scale_h, valid_h)
    left, right, along = taps(x, scale_w, valid_w)
    if nested:
        a0, a1, a = _offsets(top, inner_scale_h, rows, stride_h)
        b0, b1, b = _offsets(bottom, inner_scale_h, rows, stride_h)
        c0, c1, c = _offsets(left, inner_scale_w, columns, stride_w)
        d0, d1, d = _offsets(right, inner_scale_w, columns, stride_w)
    else:
        a0, a1 = top.to(tl.int64) * stride_h, bottom.to(tl.int64) * stride_h
        c0, c1 = left.to(tl.int64) * stride_w, right.to(tl.int64) * stride_w

    plane = low + number * stride_b
    best = tl.full((tile_h, tile_w), float("-inf"), tl.float32)
    label = tl.zeros((tile_h, tile_w), tl.int32)
    for k in range(classes):
        if nested:
            above = (1.0 - along) * _blend(plane, a0, a1, a, c0, c1, c) + (
                along * _blend(plane, a0, a1, a, d0, d1, d)
            )
            below = (1.0 - along) * _blend(plane, b0, b1, b, c0, c1, c) + (
                along * _blend(plane, b0, b1, b, d0, d1, d)
            )
            value = (1.0 - down) * above + down * below
        else:
            value = _blend(plane, a0, a1, down, c0, c1, along)
        # As torch.argmax: the first of equals, and the first NaN before everything else.
        better = (value > best) | ((value != value) & (best == best))
        label = tl.where(better, k, label)
        best = tl.where(better, value, best)
        plane += stride_k
    # Offsets of the output exceed 32 bits for large batches only.
    out = labels + (number * height + y) * width + x
    tl.store(out, label.to(tl.uint8), mask=(y < height) & (x < width))


def _case(dtype: str, *, nested: bool, channels_last: bool = False) -> Case:
    sizes = ("rows", "columns", "height", "width", "valid_h", "valid_w", "stride_b", "stride_h")
    scales = ("scale_h", "scale_w", "inner_scale_h", "inner_scale_w")
    # A class is next to the other where channels are last, a column where they are first.
    far, near = ("stride_w", "stride_k") if channels_last else ("stride_k", "stride_w")
    name = (dtype, "nested" if nested else "once", "last" if channels_last else "first")
    return Case(
        name="-".join(("labels", *name)),
        function=pixel_labels,
        signature={
            **{"low": f"*{dtype}", "labels": "*u8", "classes": "i32"},
            **{**dict.fromkeys(sizes, "i32:16"), far: "i32", **dict.fromkeys(scales, "fp32")},
        },
        constants={
            near: 1,
            "nested": nested,
            "tile_h": TILE[0],
            "tile_w": TILE[1],
        },
        num_warps=NUM_WARPS,
        num_stages=1,
    )


def ahead_cases(capability: int) -> tuple[Case, ...]:
    """Return both resizes in every dtype, and channels-last logits; the same for all GPUs."""
    del capability
    dtypes = ("fp16", "bf16", "fp32")
    return (
        *(_case(dtype, nested=nested) for dtype in dtypes for nested in (False, True)),
        *(_case(dtype, nested=False, channels_last=True) for dtype in ("fp16", "fp32")),
    )
