"""Kernels of `tokens.py`: statistics of a slice; normalise, resize and lay out in patches."""

# mypy: disable-error-code="untyped-decorator"
# Triton's decorator carries no types.

from __future__ import annotations

import triton
import triton.language as tl

from autosam_deploy.kernels.ahead import Case
from autosam_deploy.kernels.bilinear_triton import taps

#: Pixels whose statistics one program takes; the second number is for slices beyond `LARGE`.
BLOCKS = (4096, 16384)
LARGE = 1 << 20
#: Tokens that one program writes: 8 of SAM's 16 x 16 patches are 8 values a thread.
GROUP = 8
#: Of the statistics and of the patches: with 4 each, patches of bytes spill on some architectures.
NUM_WARPS = (4, 8)


@triton.jit
def slice_statistics(
    slices: tl.tensor,
    partials: tl.tensor,
    pixels: tl.tensor,
    width: tl.tensor,
    stride_b: tl.tensor,
    stride_h: tl.tensor,
    stride_w: tl.tensor,
    intensity: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Reduce one block of one slice to three numbers; grid (B, blocks).

    `slice-minmax`: smallest, largest, zero. `slice-zscore`: smallest, mean above the smallest, sum
    of squares about that mean. Both sums see values of the block's own range only, whatever level
    the slice is raised to.
    """
    number, part = tl.program_id(0), tl.program_id(1)
    pixel = part * block + tl.arange(0, block)
    there = pixel < pixels
    row, column = pixel // width, pixel % width
    place = slices + number.to(tl.int64) * stride_b
    offset = row.to(tl.int64) * stride_h + column.to(tl.int64) * stride_w
    x = tl.load(place + offset, mask=there, other=0).to(tl.float32)
    low = tl.min(tl.where(there, x, float("inf")), axis=0)
    if intensity == "slice-zscore":
        count = tl.minimum(pixels - part * block, block).to(tl.float32)
        raised = tl.where(there, x - low, 0.0)
        second = tl.sum(raised, axis=0) / count
        apart = tl.where(there, raised - second, 0.0)
        third = tl.sum(apart * apart, axis=0)
    else:
        second = tl.max(tl.where(there, x, float("-inf")), axis=0)
        # Minimum and maximum pass over a NaN, which torch's do not; this sum keeps it.
        third = tl.sum(tl.where(x != x, x, 0.0), axis=0)
    out = partials + (number.to(tl.int64) * tl.num_programs(1) + part) * 3
    tl.store(out, low)
    tl.store(out + 1, second)
    tl.store(out + 2, third)


@triton.jit
def _merge(
    partials: tl.tensor,
    pixels: tl.tensor,
    blocks: tl.tensor,
    intensity: tl.constexpr,
    block: tl.constexpr,
    padded: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Merge the partials of a slice into (smallest, mean above it, divisor)."""
    part = tl.arange(0, padded)
    there = part < blocks
    lows = tl.load(partials + part * 3, mask=there, other=float("inf"))
    thirds = tl.load(partials + part * 3 + 2, mask=there, other=0.0)
    low = tl.min(lows, axis=0)
    if intensity == "slice-zscore":
        count = tl.where(there, tl.minimum(pixels - part * block, block), 0).to(tl.float32)
        means = tl.load(partials + part * 3 + 1, mask=there, other=0.0)
        means = tl.where(there, means + (lows - low), 0.0)
        mean = tl.sum(count * means, axis=0) / pixels
        squares = tl.sum(thirds + count * (means - mean) * (means - mean), axis=0)
        by = tl.sqrt(squares / pixels)
    else:
        high = tl.max(tl.load(partials + part * 3 + 1, mask=there, other=float("-inf")), axis=0)
        by = high - low
        low += tl.sum(thirds, axis=0)
        mean = 0.0
    return low, mean, tl.where(by > 0, by, 1.0)


@triton.jit
def _pixel(
    pointer: tl.tensor,
    mask: tl.tensor,
    low: tl.tensor,
    mean: tl.tensor,
    by: tl.tensor,
    intensity: tl.constexpr,
) -> tl.tensor:
    """Read pixels and normalise them, in float32."""
    x = tl.load(pointer, mask=mask, other=0).to(tl.float32)
    if intensity != "none":
        x = ((x - low) - mean) / by
    if intensity == "window":
        # Comparisons let a NaN through, as torch's clamp does.
        x = tl.where(x < 0.0, 0.0, tl.where(x > 1.0, 1.0, x))
    return x


@triton.jit
def patch_tokens(
    slices: tl.tensor,
    partials: tl.tensor,
    tokens: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    stride_b: tl.tensor,
    stride_h: tl.tensor,
    stride_w: tl.tensor,
    blocks: tl.tensor,
    grid_h: tl.tensor,
    grid_w: tl.tensor,
    valid_h: tl.tensor,
    valid_w: tl.tensor,
    scale_h: tl.tensor,
    scale_w: tl.tensor,
    level: tl.tensor,
    window: tl.tensor,
    intensity: tl.constexpr,
    channels: tl.constexpr,
    patch: tl.constexpr,
    group: tl.constexpr,
    elements: tl.constexpr,
    block: tl.constexpr,
    padded: tl.constexpr,
) -> None:
    """Write `group` tokens of one token row; grid (B * grid_h, ceil(grid_w / group)).

    A token's values are ordered (channel, y, x), as a convolution's flattened weight is.
    """
    line = tl.program_id(0)
    number, token_row = line // grid_h, line % grid_h
    if intensity == "window":
        low, mean, by = level, 0.0, window
    elif intensity == "none":
        low, mean, by = 0.0, 0.0, 1.0
    else:
        own = partials + number.to(tl.int64) * blocks * 3
        low, mean, by = _merge(own, height * width, blocks, intensity, block, padded)

    token = (tl.program_id(1) * group + tl.arange(0, group))[:, None]
    element = tl.arange(0, elements)[None, :]
    within = element % (patch * patch)
    y = token_row * patch + within // patch
    x = token * patch + within % patch
    inside = (y < valid_h) & (x < valid_w)
    wanted = inside & (element < patch * patch)

    top, bottom, down = taps(y, scale_h, height)
    left, right, along = taps(x, scale_w, width)
    place = slices + number.to(tl.int64) * stride_b
    upper, lower = place + top.to(tl.int64) * stride_h, place + bottom.to(tl.int64) * stride_h
    first, second = left.to(tl.int64) * stride_w, right.to(tl.int64) * stride_w
    above = (1.0 - along) * _pixel(upper + first, wanted, low, mean, by, intensity) + (
        along * _pixel(upper + second, wanted, low, mean, by, intensity)
    )
    below = (1.0 - along) * _pixel(lower + first, wanted, low, mean, by, intensity) + (
        along * _pixel(lower + second, wanted, low, mean, by, intensity)
    )
    value = tl.where(wanted, (1.0 - down) * above + down * below, 0.0)
    if channels == 2:
        value = tl.where(element >= patch * patch, inside.to(tl.float32), value)

    length: tl.constexpr = channels * patch * patch
    out = tokens + (line.to(tl.int64) * grid_w + token) * length + element
    tl.store(out, value.to(tokens.dtype.element_ty), mask=(token < grid_w) & (element < length))


def _statistics_case(dtype: str, intensity: str) -> Case:
    sizes = dict.fromkeys(("pixels", "width", "stride_b", "stride_h"), "i32:16")
    return Case(
        name=f"statistics-{dtype}-{intensity}",
        function=slice_statistics,
        signature={"slices": f"*{dtype}", "partials": "*fp32", **sizes},
        constants={"stride_w": 1, "intensity": intensity, "block": BLOCKS[0]},
        num_warps=NUM_WARPS[0],
        num_stages=1,
    )


def _patches_case(source: str, dtype: str, intensity: str, *, channels: int = 1) -> Case:
    names = ("height", "width", "stride_b", "stride_h", "grid_h", "grid_w", "valid_h", "valid_w")
    sizes = dict.fromkeys(names, "i32:16")
    reals = dict.fromkeys(("scale_h", "scale_w", "level", "window"), "fp32")
    return Case(
        name=f"tokens-{source}-{dtype}-{intensity}-{channels}",
        function=patch_tokens,
        signature={
            **{"slices": f"*{source}", "partials": "*fp32", "tokens": f"*{dtype}"},
            **{**sizes, "blocks": "i32", **reals},
        },
        constants={
            **{"stride_w": 1, "intensity": intensity, "channels": channels, "patch": 16},
            **{"group": GROUP, "elements": channels * 256, "block": BLOCKS[0], "padded": 64},
        },
        num_warps=NUM_WARPS[1],
        num_stages=1,
    )


def ahead_cases(capability: int) -> tuple[Case, ...]:
    """Return what SAM's shapes need: 16 x 16 patches of 512 x 512 slices, the same for all GPUs."""
    del capability
    return (
        *(_statistics_case(dtype, "slice-minmax") for dtype in ("fp32", "i16", "u16", "u8")),
        _statistics_case("fp32", "slice-zscore"),
        *(_patches_case("fp32", dtype, "slice-minmax") for dtype in ("fp16", "bf16", "fp32")),
        *(_patches_case(source, "fp16", "slice-minmax") for source in ("i16", "u16", "u8")),
        *(_patches_case("fp32", "fp16", one) for one in ("slice-zscore", "window", "none")),
        _patches_case("fp32", "fp16", "slice-minmax", channels=2),
    )
