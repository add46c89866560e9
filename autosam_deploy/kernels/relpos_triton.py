"""Triton code of the attention with relative positions; `relpos.py` says what and why.

One program attends with a tile of queries of one unit (a head of a window, or of the whole grid)
against all keys of the unit, `tile_rows` token rows at a time. A row of keys is padded to a power
of two, so a key's column and its row in the tile do not depend on the tile:

* bias_w of the tile is the same for all tiles of keys. It is loaded once, stays in registers and is
  what the products q k^T are added to, so adding it costs nothing; padded columns hold `LOWEST`.
* bias_h is one number per query and row of keys. With one row a tile it moves into the exponent,
  where a number per query is subtracted anyhow.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
# Triton's decorator carries no types, and its arguments are pointers and compile-time constants.

from __future__ import annotations

import triton
import triton.language as tl

from autosam_deploy.kernels.ahead import Case
from autosam_deploy.kernels.relpos_bias_triton import load_part, relpos_bias
from autosam_deploy.kernels.relpos_plan import Layout, Plan
from autosam_deploy.kernels.tiles import Kind, tiles_for

#: log2(e): weights are powers of two, which the hardware has an instruction for.
LOG2E = tl.constexpr(1.4426950408889634)
#: Score of what is no key: far below every product of halves, and no infinity, whose differences
#: are no numbers.
LOWEST = tl.constexpr(-1.0e30)


@triton.jit
def score_keys(
    q_first,
    q_rest,
    k,
    at,
    present,
    scores,
    first: tl.constexpr,
    rest: tl.constexpr,
    channels: tl.constexpr,
    aligned: tl.constexpr,
    whole: tl.constexpr,
    widen: tl.constexpr,
    precision: tl.constexpr,
):
    """Add q k^T of a tile of queries and the keys at offsets `at`: (queries, keys) float32."""
    part = load_part(k, at, present, 0, first, channels, aligned, whole, widen)
    scores = tl.dot(q_first, part.T, scores, input_precision=precision)
    if rest > 0:
        part = load_part(k, at, present, first, rest, channels, aligned, whole, widen)
        scores = tl.dot(q_rest, part.T, scores, input_precision=precision)
    return scores


@triton.jit
def weigh(scores, shift, largest, total):
    """Do one step of the online softmax.

    Args:
        scores: (queries, keys), without `shift`.
        shift: (queries,), to be added to all scores of a query.
        largest: (queries,) largest score so far.
        total: (queries,) sum of weights so far, relative to `largest`.

    Returns:
        Weights (queries, keys), the factor that corrects what was summed so far, and the new
        `largest` and `total`.
    """
    new = tl.maximum(largest, tl.max(scores, 1) + shift)
    weights = tl.exp2(scores * LOG2E + ((shift - new) * LOG2E)[:, None])
    fade = tl.exp2((largest - new) * LOG2E)
    return weights, fade, new, total * fade + tl.sum(weights, 1)


@triton.jit
def add_values(
    weights,
    fade,
    sums,
    sums_rest,
    v,
    at,
    present,
    first: tl.constexpr,
    rest: tl.constexpr,
    channels: tl.constexpr,
    aligned: tl.constexpr,
    whole: tl.constexpr,
    widen: tl.constexpr,
    precision: tl.constexpr,
):
    """Fade the sums of both parts and add the weighted values at offsets `at`."""
    weights = weights.to(v.dtype.element_ty)
    if widen:
        weights = weights.to(tl.float32)
    part = load_part(v, at, present, 0, first, channels, aligned, whole, widen)
    sums = tl.dot(weights, part, sums * fade[:, None], input_precision=precision)
    if rest > 0:
        part = load_part(v, at, present, first, rest, channels, aligned, whole, widen)
        sums_rest = tl.dot(weights, part, sums_rest * fade[:, None], input_precision=precision)
    return sums, sums_rest


@triton.jit
def store_part(out, offsets, present, sums, total, start: tl.constexpr, channels: tl.constexpr):
    """Store channels start .. of the weighted means, in the result's dtype."""
    columns = start + tl.arange(0, sums.shape[1])
    mask = present[:, None] & (columns < channels)[None, :]
    means = (sums / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + offsets[:, None] + columns[None, :], means, mask=mask)


@triton.jit
def attend_keys(
    q_first,
    q_rest,
    k,
    v,
    bias_h,
    beside,
    below,
    beyond,
    k_row: tl.constexpr,
    v_row: tl.constexpr,
    k_col: tl.constexpr,
    v_col: tl.constexpr,
    side_h: tl.constexpr,
    side_w: tl.constexpr,
    pad_w: tl.constexpr,
    channels: tl.constexpr,
    first: tl.constexpr,
    rest: tl.constexpr,
    aligned: tl.constexpr,
    whole: tl.constexpr,
    widen: tl.constexpr,
    precision: tl.constexpr,
    block_m: tl.constexpr,
    tile_rows: tl.constexpr,
):
    """Go over the keys of a unit with a tile of its queries.

    `q_first` (queries, first) and `q_rest` (queries, rest) are their parts, `k` and `v` point to
    the unit's first token, `bias_h` (queries,) to their biases for the first row of keys, and
    `beside` (queries, tile_rows * pad_w) holds the biases of a tile's columns. The grid ends
    `below` rows and `beyond` columns from the first token; keys behind its end are zeros. `whole`
    says that there are none of these, nor padded columns.

    Returns:
        Sums of weighted values of both parts, and of the weights.
    """
    tokens: tl.constexpr = side_h * side_w
    block_n: tl.constexpr = tile_rows * pad_w
    key_row = tl.arange(0, block_n) // pad_w
    key_column = tl.arange(0, block_n) % pad_w
    largest = tl.full((block_m,), LOWEST, tl.float32)
    total = tl.zeros((block_m,), tl.float32)
    sums = tl.zeros((block_m, first), tl.float32)
    sums_rest = tl.zeros((block_m, rest if rest > 0 else 1), tl.float32)
    # Long lists of constants are kept in few lines.
    # fmt: off
    for begin in range(0, side_h, tile_rows):
        row = begin + key_row
        present = (row < side_h) & (key_column < side_w)
        present &= (row < below) & (key_column < beyond)
        above = tl.load(bias_h + begin * tokens).to(tl.float32)
        scores = score_keys(
            q_first, q_rest, k, row * k_row + key_column * k_col, present, beside,
            first, rest, channels, aligned, whole, widen, precision,
        )
        if tile_rows > 1:
            # Which row a key belongs to is known to the compiler: one sum is what remains of this.
            more = tl.zeros((block_m, block_n), tl.float32)
            for step in tl.static_range(1, tile_rows):
                other = tl.load(bias_h + tl.minimum(begin + step, side_h - 1) * tokens)
                more = tl.where(key_row == step, (other.to(tl.float32) - above)[:, None], more)
            scores += more
        if side_h % tile_rows != 0:
            scores = tl.where((row < side_h)[None, :], scores, LOWEST)
        weights, fade, largest, total = weigh(scores, above, largest, total)
        sums, sums_rest = add_values(
            weights, fade, sums, sums_rest, v, row * v_row + key_column * v_col, present,
            first, rest, channels, aligned, whole, widen, precision,
        )
    # fmt: on
    return sums, sums_rest, total


@triton.jit
def relpos_attention(
    q,
    k,
    v,
    bias_h,
    bias_w,
    out,
    q_batch,
    k_batch,
    v_batch,
    q_row: tl.constexpr,
    k_row: tl.constexpr,
    v_row: tl.constexpr,
    q_col: tl.constexpr,
    k_col: tl.constexpr,
    v_col: tl.constexpr,
    height: tl.constexpr,
    width: tl.constexpr,
    side_h: tl.constexpr,
    side_w: tl.constexpr,
    pad_w: tl.constexpr,
    heads: tl.constexpr,
    channels: tl.constexpr,
    first: tl.constexpr,
    rest: tl.constexpr,
    aligned: tl.constexpr,
    widen: tl.constexpr,
    precision: tl.constexpr,
    block_m: tl.constexpr,
    tile_rows: tl.constexpr,
):
    """Attend with `block_m` queries of one unit.

    Units of the last windows have padded tokens. Their queries are no part of the result, so
    queries are numbered without them and superfluous programs end at once. Their keys and values
    are zeros that count: they weigh exp(bias) and add nothing.
    """
    tokens: tl.constexpr = side_h * side_w
    tiles: tl.constexpr = (tokens + block_m - 1) // block_m
    across: tl.constexpr = (width + side_w - 1) // side_w
    windows: tl.constexpr = (height + side_h - 1) // side_h * across
    padded: tl.constexpr = height % side_h != 0 or width % side_w != 0
    unit = tl.program_id(0) // tiles
    place = (unit // heads) % windows
    top = (place // across) * side_h
    left = (place % across) * side_w
    rows = tl.minimum(side_h, height - top) if padded else side_h
    columns = tl.minimum(side_w, width - left) if padded else side_w
    start = (tl.program_id(0) % tiles) * block_m
    if padded and start >= rows * columns:
        return
    index = start + tl.arange(0, block_m)
    real = index < rows * columns
    if padded or tokens % block_m != 0:
        # Queries behind the end repeat the last one and are not stored.
        index = tl.minimum(index, rows * columns - 1)
    y = index // columns
    x = index % columns
    image = (unit // (heads * windows)).to(tl.int64)
    channel = (unit % heads) * channels
    q += image * q_batch + channel + top * q_row + left * q_col
    k += image * k_batch + channel + top * k_row + left * k_col
    v += image * v_batch + channel + top * v_row + left * v_col
    at = y * q_row + x * q_col
    q_first = load_part(q, at, real, 0, first, channels, aligned, True, widen)
    q_rest = q_first
    if rest > 0:
        q_rest = load_part(q, at, real, first, rest, channels, aligned, True, widen)

    key_column = tl.arange(0, tile_rows * pad_w) % pad_w
    token = y * side_w + x
    bias_h += unit.to(tl.int64) * (side_h * tokens) + token
    bias_w += unit.to(tl.int64) * (tokens * pad_w)
    beside = tl.load(bias_w + token[:, None] * pad_w + key_column[None, :]).to(tl.float32)
    beside = tl.where((key_column < side_w)[None, :], beside, LOWEST)

    # Long lists of constants are kept in few lines.
    # fmt: off
    sums, sums_rest, total = attend_keys(
        q_first, q_rest, k, v, bias_h, beside, height - top, width - left, k_row, v_row, k_col,
        v_col, side_h, side_w, pad_w, channels, first, rest, aligned,
        (side_w == pad_w and side_h % tile_rows == 0) and not padded,
        widen, precision, block_m, tile_rows,
    )
    # fmt: on
    out += image * (height * width * heads * channels) + channel
    at = ((top + y) * width + left + x) * (heads * channels)
    store_part(out, at, real, sums, total, 0, channels)
    if rest > 0:
        store_part(out, at, real, sums_rest, total, first, channels)


def _case(name: str, function, constants, tiles, *, element: str) -> Case:
    integers = {"q_batch": "i32:16", "k_batch": "i32:16", "v_batch": "i32:16", "units": "i32"}
    arguments = [one for one in function.arg_names if one not in constants]
    return Case(
        name=name,
        function=function,
        signature={one: integers.get(one, f"*{element}") for one in arguments},
        constants=constants,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )


def ahead_cases(capability: int) -> tuple[Case, ...]:
    """Return what ViT-B and ViT-H need, in both half precisions, with the default tiles.

    Args:
        capability: 10 x major + minor of the GPU.
    """
    found = []
    for element in ("fp16", "bf16"):
        for heads, channels in ((12, 64), (16, 80)):
            for side, window in ((64, 0), (32, 0), (64, 14)):
                plan = Plan(side, side, window, heads, channels)
                layout = Layout.of_thirds(side, heads * channels)
                kind: Kind = "window" if window else "grid"
                tail = f"{kind}{window or side}-d{channels}-{element}"
                tiles = tiles_for(capability, kind, channels)
                constants = plan.attention_constants(layout, tiles)
                name = f"relpos-{tail}"
                found.append(_case(name, relpos_attention, constants, tiles, element=element))
                tiles = tiles_for(capability, "bias", channels)
                constants = plan.bias_constants(layout, tiles)
                found.append(
                    _case(f"relpos-bias-{tail}", relpos_bias, constants, tiles, element=element)
                )
    return tuple(found)
