"""Triton code of both bias tables of the attention with relative positions; loading of heads.

`relpos.py` says what they are. Channels of a head come in two parts, `first` + `rest` (80 =
64 + 16): a product over all channels is the sum of two products, and no instruction works on
padding. Sizes of the model are compile-time constants, the batch is not. Offsets between slices
and units have 64 bits, those within a slice 32 (checked before launching).
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
# Triton's decorator carries no types, and its arguments are pointers and compile-time constants.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_part(
    pointer,
    offsets,
    present,
    start: tl.constexpr,
    size: tl.constexpr,
    channels: tl.constexpr,
    aligned: tl.constexpr,
    whole: tl.constexpr,
    widen: tl.constexpr,
):
    """Load channels start .. start + size of tokens: (tokens, size), zeros where not present.

    `whole` says that every token is present, so that nothing is compared.
    """
    columns = start + tl.arange(0, size)
    tile = pointer + offsets[:, None] + columns[None, :]
    if aligned:
        tile = tl.multiple_of(tile, (1, 16))
    if channels < start + size:
        values = tl.load(tile, mask=present[:, None] & (columns < channels)[None, :], other=0.0)
    elif whole:
        values = tl.load(tile)
    else:
        values = tl.load(tile, mask=present[:, None], other=0.0)
    if widen:
        values = values.to(tl.float32)
    return values


@triton.jit
def bias_line(
    q,
    table,
    bias,
    line,
    block,
    q_batch,
    units,
    by_row: tl.constexpr,
    keys: tl.constexpr,
    pad_keys: tl.constexpr,
    count: tl.constexpr,
    pad_count: tl.constexpr,
    side_h: tl.constexpr,
    side_w: tl.constexpr,
    q_row: tl.constexpr,
    q_col: tl.constexpr,
    height: tl.constexpr,
    width: tl.constexpr,
    heads: tl.constexpr,
    channels: tl.constexpr,
    first: tl.constexpr,
    rest: tl.constexpr,
    aligned: tl.constexpr,
    widen: tl.constexpr,
    precision: tl.constexpr,
    block_m: tl.constexpr,
):
    """Multiply a tile of one line's queries, of several units, with that line's table.

    A line is a token row (`by_row`) or column of a unit; it has `count` positions, numbered as if
    they were `pad_count`, and `keys` keys along its axis.
    """
    across: tl.constexpr = (width + side_w - 1) // side_w
    windows: tl.constexpr = (height + side_h - 1) // side_h * across
    index = block * block_m + tl.arange(0, block_m)
    unit = index // pad_count
    position = index % pad_count
    row = line if by_row else position
    column = position if by_row else line
    place = (unit // heads) % windows
    y = (place // across) * side_h + row
    x = (place % across) * side_w + column
    inside = (unit < units) & (position < count)
    present = inside & (y < height) & (x < width)
    offsets = (unit // (heads * windows)).to(tl.int64) * q_batch
    offsets += y * q_row + x * q_col + (unit % heads) * channels

    key = tl.arange(0, pad_keys)
    columns = line * (channels * keys) + key
    channel = tl.arange(0, first)
    q_part = load_part(q, offsets, present, 0, first, channels, aligned, False, widen)
    t_part = tl.load(
        table + channel[:, None] * keys + columns[None, :],
        mask=(channel < channels)[:, None] & (key < keys)[None, :],
        other=0.0,
    )
    if widen:
        t_part = t_part.to(tl.float32)
    scores = tl.dot(q_part, t_part, input_precision=precision)
    if rest > 0:
        channel = first + tl.arange(0, rest)
        q_part = load_part(q, offsets, present, first, rest, channels, aligned, False, widen)
        t_part = tl.load(
            table + channel[:, None] * keys + columns[None, :],
            mask=(key < keys)[None, :],
            other=0.0,
        )
        if widen:
            t_part = t_part.to(tl.float32)
        scores = tl.dot(q_part, t_part, scores, input_precision=precision)
    token = row * side_w + column
    if by_row:
        # A row of keys after the other: attention reads it for neighbouring queries.
        target = unit.to(tl.int64) * (keys * side_h * side_w) + token
        tile = target[:, None] + key[None, :] * (side_h * side_w)
    else:
        target = (unit.to(tl.int64) * (side_h * side_w) + token) * pad_keys
        tile = target[:, None] + key[None, :]
    # Padded columns of bias_w are zeros: they are read, so they may not be what was there before.
    mask = inside[:, None] & (key < (keys if by_row else pad_keys))[None, :]
    tl.store(bias + tile, scores.to(bias.dtype.element_ty), mask=mask)


@triton.jit
def relpos_bias(
    q,
    table_h,
    table_w,
    bias_h,
    bias_w,
    q_batch,
    units,
    side_h: tl.constexpr,
    side_w: tl.constexpr,
    pad_h: tl.constexpr,
    pad_w: tl.constexpr,
    q_row: tl.constexpr,
    q_col: tl.constexpr,
    height: tl.constexpr,
    width: tl.constexpr,
    heads: tl.constexpr,
    channels: tl.constexpr,
    first: tl.constexpr,
    rest: tl.constexpr,
    aligned: tl.constexpr,
    widen: tl.constexpr,
    precision: tl.constexpr,
    block_m: tl.constexpr,
):
    """Write q . Rh[row] of every query row and q . Rw[column] of every query column.

    Neighbouring programs take the lines of the same units, so that q comes from the cache.
    """
    program = tl.program_id(0)
    block = program // (side_h + side_w)
    line = program % (side_h + side_w)
    # Two calls of one shape are easier to compare as a table.
    # fmt: off
    if line < side_h:
        bias_line(
            q, table_h, bias_h, line, block, q_batch, units, True,
            side_h, pad_h, side_w, pad_w, side_h, side_w, q_row, q_col, height, width,
            heads, channels, first, rest, aligned, widen, precision, block_m,
        )
    else:
        bias_line(
            q, table_w, bias_w, line - side_h, block, q_batch, units, False,
            side_w, pad_w, side_h, pad_h, side_h, side_w, q_row, q_col, height, width,
            heads, channels, first, rest, aligned, widen, precision, block_m,
        )
    # fmt: on
