"""Attention with SAM's decomposed relative positions as a pair of Triton kernels.

    out_i = sum_j softmax_j(q_i . k_j + q_i . Rh[y_i, :, y_j] + q_i . Rw[x_i, :, x_j]) v_j

for tokens i, j of one window (or of the whole grid) at rows y and columns x, where q carries the
scale already and the tables are divided by it (`fused/attention.py`). Neither the scores nor their
biases, (tokens, tokens) per head, exist in memory.

1. `relpos_bias` multiplies every token row of q with that row's table and every column with that
   column's: bias_h (unit, h, tokens) and bias_w (unit, tokens, w padded to a power of two), where
   a unit is a head of a window of a slice. Products are summed in float32 and stored in q's dtype,
   which is half the bytes of float32 and rounds once; `explicit` attention in that dtype rounds
   the biases too (and overflows where they do), and then every sum of a score and its biases.
2. `relpos_attention` goes over the keys row by row with an online softmax (Milakov and Gimelshein,
   arXiv:1805.02867; in tiles as FlashAttention, arXiv:2205.14135), in float32 and powers of two.
   bias_w stays in registers, as what products are added to; bias_h is one number per query and
   row of keys and joins what is subtracted in the exponent. So with one row of keys a tile the
   loop has as many instructions per score as attention without biases.

Layout: q, k, v are read as (B, h, w, C), with heads as slices of the channels, and may be thirds of
one projection. Cutting windows, padding them and undoing both is arithmetic on indices. A window at
the border has padded tokens: their keys and values are zeros that count in the softmax with
exp(bias) (`fused/windows.py` shows why), their queries are not computed.

Bytes that cross the memory bus per slice and block in halves, for 64 x 64 tokens; each tensor
counted once, so caches that hold less make it more. These are computed from the shapes:

=============================================  ==============  ==============  =======  =======
                                               ViT-B (12 x 64)                 ViT-H (16 x 80)
                                               window 14       grid            window   grid
=============================================  ==============  ==============  =======  =======
q, k, v read, result written                   25.2 MB         25.2 MB         41.9 MB  41.9 MB
bias kernel reads q                            6.3 MB          6.3 MB          10.5 MB  10.5 MB
biases written and read                        7.1 MB          25.2 MB         9.4 MB   33.6 MB
*sum here*                                     38.5 MB         56.6 MB         61.8 MB  86.0 MB
q, k, v copied to heads, the result back       55.3 MB         50.3 MB         92.1 MB  83.9 MB
a dense bias alone, written and read           46.1 MB         805 MB          61.5 MB  1.07 GB
=============================================  ==============  ==============  =======  =======

Works with Triton 3.3 and newer on sm80 and newer; in Triton's interpreter on CPU tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from autosam_deploy.errors import BackendInputError
from autosam_deploy.kernels.launch import capability, check_device, interpreted, on_device
from autosam_deploy.kernels.measured import measured_tiles
from autosam_deploy.kernels.relpos_plan import MOST_SIDE, Layout, Plan, split_width
from autosam_deploy.kernels.tiles import Kind, Measured, Tiles, tiles_for

#: float32 serves checks of the algebra; it takes no TF32 and is slow.
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_INT32 = 2**31 - 1


def relpos_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table_h: Tensor,
    table_w: Tensor,
    *,
    num_heads: int,
    window: int,
    tiles: Tiles | None = None,
) -> Tensor:
    """Attend within windows or over the whole grid, with relative positions; forward only.

    Equals `merge_heads(RelPosAttention(split_heads(q), split_heads(k), split_heads(v)))`.

    Args:
        q: (B, h, w, C) float16, bfloat16 or float32, times the scale already. The last dimension is
            contiguous, the strides of the others are free; heads are C / num_heads neighbouring
            channels.
        k: as q, without bias.
        v: as q, without bias.
        table_h: (side, d, side) as `fused.attention.relative_table` gives, in q's dtype; the side
            is `window`, or h without windows.
        table_w: the same for columns, with w.
        num_heads: heads.
        window: side of a window in tokens; 0 for the whole grid.
        tiles: how the attention kernel is cut; by default as measured on this device, or a
            starting value.

    Returns:
        (B, h, w, C), contiguous, in q's dtype.

    Raises:
        BackendInputError: shapes, dtypes, strides or the head width do not fit, or a gradient is
            wanted.
        BackendError: tensors lie on different devices, or where kernels cannot run.
        MissingExtraError: Triton is not installed.
    """
    if torch.is_grad_enabled() and any(one.requires_grad for one in (q, k, v, table_h, table_w)):
        raise BackendInputError(
            "attention kernels have no backward pass",
            got="an input that requires a gradient",
            todo="run under torch.inference_mode() or use another lowering",
        )
    cut = None if tiles is None else list(astuple(tiles))
    found: Tensor = torch.ops.autosam.relpos_attention(
        q, k, v, table_h, table_w, num_heads=num_heads, window=window, tiles=cut
    )
    return found


# An opaque operator rather than `triton_op`: that one traces the launches, which it can do with
# compiled kernels only, so that the interpreter could not run what is shipped.
@torch.library.custom_op("autosam::relpos_attention", mutates_args=())
def _relpos_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table_h: Tensor,
    table_w: Tensor,
    *,
    num_heads: int,
    window: int,
    tiles: Sequence[int] | None = None,
) -> Tensor:
    _check(q, k, v, table_h, table_w, num_heads=num_heads, window=window)
    device = check_device(q, k, v, table_h, table_w)
    # Triton is optional, and its kernels are compiled code of their own.
    from autosam_deploy.kernels.relpos_bias_triton import relpos_bias
    from autosam_deploy.kernels.relpos_triton import relpos_attention as attend

    batch, height, width, channels = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=device)
    if batch == 0:
        return out
    plan = Plan(
        height,
        width,
        window,
        num_heads,
        channels // num_heads,
        itemsize=q.element_size(),
        widen=interpreted() and q.dtype == torch.bfloat16,
    )
    layout = Layout(
        rows=(q.stride(1), k.stride(1), v.stride(1)),
        columns=(q.stride(2), k.stride(2), v.stride(2)),
        aligned=all(_aligned(one, plan.channels) for one in (q, k, v)),
    )
    cut = Tiles(*tiles) if tiles else _tiles(device, plan, "window" if window else "grid")
    cut_bias = _tiles(device, plan, "bias")
    sizes = plan.bias_elements(batch)
    bias_h, bias_w = (torch.empty(size, dtype=q.dtype, device=device) for size in sizes)
    with on_device(device):
        relpos_bias[(plan.bias_programs(batch, cut_bias),)](
            q,
            table_h.contiguous(),
            table_w.contiguous(),
            bias_h,
            bias_w,
            q.stride(0),
            plan.units(batch),
            **plan.bias_constants(layout, cut_bias),
            num_warps=cut_bias.num_warps,
            num_stages=cut_bias.num_stages,
        )
        attend[(plan.attention_programs(batch, cut),)](
            q,
            k,
            v,
            bias_h,
            bias_w,
            out,
            *(one.stride(0) for one in (q, k, v)),
            **plan.attention_constants(layout, cut),
            num_warps=cut.num_warps,
            num_stages=cut.num_stages,
        )
    return out


@_relpos_attention.register_fake
def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table_h: Tensor,
    table_w: Tensor,
    *,
    num_heads: int,
    window: int,
    tiles: Sequence[int] | None = None,
) -> Tensor:
    return q.new_empty(q.shape)


@lru_cache(maxsize=1)
def _measured() -> Measured:
    return measured_tiles()


def _tiles(device: torch.device, plan: Plan, kind: Kind) -> Tiles:
    return tiles_for(
        capability(device),
        kind,
        plan.channels,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        measured=_measured(),
        itemsize=plan.itemsize,
    )


def _aligned(tensor: Tensor, channels: int) -> bool:
    """Whether every head of every token starts at a multiple of 16 bytes."""
    steps = (*tensor.stride()[:3], channels)
    return tensor.data_ptr() % 16 == 0 and all(
        step * tensor.element_size() % 16 == 0 for step in steps
    )


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table_h: Tensor,
    table_w: Tensor,
    *,
    num_heads: int,
    window: int,
) -> None:
    if q.ndim != 4 or not q.shape == k.shape == v.shape:
        got = ", ".join(str(tuple(one.shape)) for one in (q, k, v))
        raise BackendInputError("q, k and v do not fit", got=got, expected="one (B, h, w, C)")
    height, width, channels = q.shape[1:]
    if num_heads < 1 or channels % num_heads or channels == 0:
        raise BackendInputError(
            "channels cannot be cut into heads",
            got=f"{channels} channels, {num_heads} heads",
            expected="a multiple",
        )
    split_width(channels // num_heads)
    sides = (window, window) if window else (height, width)
    if window < 0 or not all(1 <= side <= MOST_SIDE for side in (*sides, height, width)):
        raise BackendInputError(
            "attention kernels do not take this grid",
            got=f"{height} x {width} tokens, windows of {window}",
            expected=f"1 to {MOST_SIDE} tokens a side; 0 for no windows",
        )
    for name, table, side in zip(("table_h", "table_w"), (table_h, table_w), sides, strict=True):
        wanted = (side, channels // num_heads, side)
        if tuple(table.shape) != wanted:
            raise BackendInputError(
                f"{name} does not fit", got=str(tuple(table.shape)), expected=str(wanted)
            )
    _check_values(q, k, v, table_h, table_w)


def _check_values(q: Tensor, k: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor) -> None:
    tensors = (q, k, v, table_h, table_w)
    dtypes = {one.dtype for one in tensors}
    if len(dtypes) != 1 or q.dtype not in DTYPES:
        raise BackendInputError(
            "attention kernels do not take these dtypes",
            got=", ".join(sorted(str(one) for one in dtypes)),
            expected="one of " + ", ".join(str(one) for one in DTYPES) + " for all tensors",
        )
    for name, one in (("q", q), ("k", k), ("v", v)):
        # Within a slice the kernels count with 32 bits.
        steps = zip(one.shape[1:], one.stride()[1:], strict=True)
        reach = sum((size - 1) * step for size, step in steps)
        if one.stride(3) != 1 or reach > _INT32:
            raise BackendInputError(
                f"the strides of {name} do not fit",
                got=str(one.stride()),
                expected="1 for channels, and a slice that spans less than 2 ** 31 elements",
            )


def relpos_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table_h: Tensor,
    table_w: Tensor,
    *,
    num_heads: int,
    window: int,
) -> Tensor:
    """Compute the same in plain PyTorch with a dense bias; arguments as `relpos_attention`.

    Returns:
        (B, h, w, C): float64 of float64, else computed and returned in float32.
    """
    height, width, channels = q.shape[1:]
    side_h, side_w = (window, window) if window else (height, width)
    down, across = -(-height // side_h), -(-width // side_w)
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32

    def cut(x: Tensor) -> Tensor:
        x = F.pad(x.to(exact), (0, 0, 0, across * side_w - width, 0, down * side_h - height))
        x = x.reshape(-1, down, side_h, across, side_w, num_heads, channels // num_heads)
        return x.permute(0, 1, 3, 5, 2, 4, 6)

    queries = cut(q)
    bias_h = torch.einsum("bijnyxc,ycr->bijnyxr", queries, table_h.to(exact))
    bias_w = torch.einsum("bijnyxc,xcs->bijnyxs", queries, table_w.to(exact))
    scores = torch.einsum("bijnyxc,bijnrsc->bijnyxrs", queries, cut(k))
    scores = scores + bias_h[..., :, None] + bias_w[..., None, :]
    weights = scores.flatten(-2).softmax(dim=-1).reshape(scores.shape)
    found = torch.einsum("bijnyxrs,bijnrsc->biyjxnc", weights, cut(v))
    found = found.reshape(-1, down * side_h, across * side_w, channels)
    return found[:, :height, :width].contiguous()
