"""Kernel of `norm.py`: rows of channels, a tile of whole rows to a program."""

# mypy: disable-error-code="untyped-decorator"
# Triton's decorator carries no types.

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

from autosam_deploy.kernels.ahead import Case

#: Values of a program's tile where a row is no longer, and of a thread: two loads of 16 bytes of
#: halves. Several rows share one read of weight and bias, which are float32. Chosen by arithmetic,
#: not measured.
_TILE, _PER_THREAD = 2048, 16


@dataclass(frozen=True)
class Cut:
    """How the work is cut: rows a program takes, columns padded to a power of two, its warps."""

    rows: int
    columns: int
    num_warps: int

    @classmethod
    def of(cls, channels: int) -> Cut:
        """Return the cut for rows of so many channels."""
        columns = triton.next_power_of_2(channels)
        tile = max(columns, _TILE)
        return cls(tile // columns, columns, tile // (32 * _PER_THREAD))

    def programs(self, rows: int) -> int:
        """Return how many programs so many rows take."""
        return -(-rows // self.rows)


@triton.jit
def layer_norm(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    size_1: tl.tensor,
    size_2: tl.tensor,
    stride_0: tl.tensor,
    stride_1: tl.tensor,
    stride_2: tl.tensor,
    eps: tl.tensor,
    channels: tl.constexpr,
    block_rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Normalise `block_rows` rows; grid (ceil(rows / block_rows),).

    A row's number counts (size_0, size_1, size_2) with the last one fastest. Rows behind the end
    repeat the last one and are not stored.
    """
    wanted = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    row = tl.minimum(wanted, rows - 1)
    place = x + (row % size_2).to(tl.int64) * stride_2
    line = row // size_2
    place += (line % size_1).to(tl.int64) * stride_1 + (line // size_1).to(tl.int64) * stride_0
    column = tl.arange(0, block)
    there = (column < channels)[None, :]

    first = tl.load(place).to(tl.float32)[:, None]
    values = tl.load(place[:, None] + column[None, :], mask=there, other=0).to(tl.float32)
    apart = tl.where(there, values - first, 0.0)
    mean = tl.sum(apart, axis=1) / channels
    apart = tl.where(there, apart - mean[:, None], 0.0)
    variance = tl.sum(apart * apart, axis=1) / channels
    scale = tl.rsqrt(variance + eps)

    by = tl.load(weight + column, mask=column < channels, other=0)[None, :]
    shift = tl.load(bias + column, mask=column < channels, other=0)[None, :]
    y = apart * scale[:, None] * by + shift
    at = out + wanted.to(tl.int64)[:, None] * channels + column[None, :]
    tl.store(at, y.to(out.dtype.element_ty), mask=there & (wanted < rows)[:, None])


def _case(channels: int, source: str, dtype: str) -> Case:
    cut = Cut.of(channels)
    return Case(
        name=f"norm-{channels}-{source}-{dtype}",
        function=layer_norm,
        signature={
            "x": f"*{source}",
            **{"weight": "*fp32", "bias": "*fp32"},
            "out": f"*{dtype}",
            **dict.fromkeys(("rows", "size_2", "stride_0", "stride_1", "stride_2"), "i32:16"),
            "eps": "fp32",
        },
        # A contiguous stream is one axis, so the one in front of it has one entry.
        constants={
            **{"size_1": 1, "channels": channels},
            **{"block_rows": cut.rows, "block": cut.columns},
        },
        num_warps=cut.num_warps,
        num_stages=1,
    )


def ahead_cases(capability: int) -> tuple[Case, ...]:
    """Return the blocks' widths of ViT-B, L and H and the neck's, the same for all GPUs."""
    del capability
    return tuple(
        _case(channels, source, dtype)
        for channels in (768, 1024, 1280, 256)
        for source, dtype in (("fp16", "fp16"), ("bf16", "bf16"), ("fp16", "fp32"))
    )
