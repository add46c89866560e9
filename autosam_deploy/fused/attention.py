"""Attention with SAM's decomposed relative positions, and how it is written for a runtime.

SAM adds bias[i, (h, w)] = q_i . Rh[h_i, h] + q_i . Rw[w_i, w] to the scaled scores of query i and
the key at grid position (h, w), where q is *not* scaled (segment_anything/modeling/
image_encoder.py, add_decomposed_rel_pos). Here the scale sits in q already (q' = s q), so the
tables are divided by it once: q' . (R / s) = q . R.

The lowerings compute the same function:

=========== ======================================================================================
explicit    softmax(q' k^T + bh + bw) v with two broadcast sums. Runs anywhere.
masked      `Attention(q', k, v, mask = bh + bw)`: one ONNX node from opset 23 on.
augmented   Q = [q', bh, bw] and K = [k, onehot(h), onehot(w)]: Q K^T is q' k^T + bh + bw, so plain
            attention remains and no tensor of queries x keys is written by us. On large grids the
            block around it works on a few heads and rows of tokens at a time.
=========== ======================================================================================

`explicit` and `masked` hold a tensor of queries x keys per head. It is cut into blocks of query
rows (softmax rows are independent, so this is exact): 4096 x 4096 scores for 12 heads are 805 MB
in float32, a block stays near 100 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor, nn

from autosam_deploy.encoders import VitEncoder
from autosam_deploy.fused.nodes import Node

#: Scores a block may hold, over all heads of one slice. Measured on one global layer of vit_b
#: (2 cores, ONNX Runtime): 8 to 32 blocks run as fast as one, with an eighth of the memory.
BLOCK_ELEMENTS = 1 << 25

#: Widened queries and keys are padded to a multiple of this with zeros, which change no score:
#: kernels read 16 halves at a time, and a window's 64 + 14 + 14 channels are no multiple of it.
WIDTH_MULTIPLE = 16


def relative_table(rel_pos: Tensor, size: int, scale: float) -> Tensor:
    """Gather one axis' table for every query and key coordinate, once.

    Args:
        rel_pos: learned table (L, d), interpolated when L is not 2 * size - 1.
        size: number of tokens along the axis.
        scale: the factor that q carries already.

    Returns:
        (size, d, size): [query coordinate, channel, key coordinate], divided by `scale`.
    """
    table: Tensor = get_rel_pos(size, size, rel_pos)
    return (table / scale).transpose(1, 2).contiguous()


def one_hot_coordinates(grid: tuple[int, int], width: int) -> Tensor:
    """Return what widens the keys: one-hot row, one-hot column and padding of every token.

    Args:
        grid: tokens (h, w).
        width: channels d of a key.

    Returns:
        (1, 1, h * w, h + w + p); p zeros make d + h + w + p a multiple of `WIDTH_MULTIPLE`.
    """
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    parts = [F.one_hot(rows.flatten(), grid[0]), F.one_hot(columns.flatten(), grid[1])]
    padding = -(width + sum(grid)) % WIDTH_MULTIPLE
    found = F.pad(torch.cat(parts, dim=1), (0, padding))
    return found[None, None].to(torch.get_default_dtype())


def query_blocks(grid: tuple[int, int], num_heads: int) -> int:
    """Return the number of blocks of whole token rows that keeps a block's scores small."""
    tokens = grid[0] * grid[1]
    wanted = max(1, round(num_heads * tokens * tokens / BLOCK_ELEMENTS))
    divisors = [count for count in range(1, grid[0] + 1) if grid[0] % count == 0]
    return min((count for count in divisors if count >= wanted), default=grid[0])


class RelPosAttention(Node):
    """softmax(q' k^T + relative positions) v over one grid of tokens (a window or the whole)."""

    def __init__(
        self,
        *,
        lowering: str,
        rel_pos_h: Tensor,
        rel_pos_w: Tensor,
        grid: tuple[int, int],
        num_heads: int,
        scale: float,
    ) -> None:
        """Gather the tables; `scale` is the factor that the queries carry already.

        Args:
            lowering: a key of `LOWERINGS`.
            rel_pos_h: learned table of rows (L, d).
            rel_pos_w: learned table of columns (L, d).
            grid: tokens (h, w).
            num_heads: heads, for the size of the query blocks.
            scale: d ** -0.5.
        """
        super().__init__()
        self.grid = grid
        self.blocks = query_blocks(grid, num_heads)
        self.lowering = lowering
        self.table_h = nn.Parameter(relative_table(rel_pos_h.detach(), grid[0], scale), False)
        self.table_w = nn.Parameter(relative_table(rel_pos_w.detach(), grid[1], scale), False)
        if lowering == "augmented":
            one_hot = one_hot_coordinates(grid, rel_pos_h.shape[1])
            self.one_hot = nn.Parameter(one_hot.to(rel_pos_h.dtype), False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend: q (scaled), k, v (B, heads, h * w, d) -> (B, heads, h * w, d)."""
        q, k, v = self.enter(q), self.enter(k), self.enter(v)
        # Scores must be seen though some lowerings never store them.
        attend = LOWERINGS[self.lowering].attend if self.recorder is None else _explicit
        return self.watch(attend(self, q, k, v, self._biases(q)))

    def _biases(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return q . Rh (B, heads, N, h) and q . Rw (B, heads, N, w)."""
        (rows, columns), (heads, tokens, width) = self.grid, q.shape[1:]
        by_row = q.reshape(-1, heads, rows, columns, width)
        bias_h = torch.matmul(by_row, self.table_h)
        bias_w = torch.matmul(by_row.transpose(2, 3), self.table_w).transpose(2, 3)
        return (
            self.watch(bias_h).reshape(-1, heads, tokens, rows),
            self.watch(bias_w).reshape(-1, heads, tokens, columns),
        )


Biases = tuple[Tensor, Tensor]


def _row_slices(node: RelPosAttention) -> list[slice]:
    size = node.grid[0] * node.grid[1] // node.blocks
    return [slice(index * size, (index + 1) * size) for index in range(node.blocks)]


def _dense_bias(node: RelPosAttention, bias_h: Tensor, bias_w: Tensor) -> Tensor:
    """Return bh + bw over all keys: (B, heads, queries, h * w)."""
    heads, queries = bias_h.shape[1:3]
    keys = node.grid[0] * node.grid[1]
    return (bias_h[..., :, None] + bias_w[..., None, :]).reshape(-1, heads, queries, keys)


def _explicit(node: RelPosAttention, q: Tensor, k: Tensor, v: Tensor, biases: Biases) -> Tensor:
    heads, keys, (height, width) = q.shape[1], k.transpose(2, 3), node.grid
    parts = []
    for rows in _row_slices(node):
        scores = torch.matmul(q[:, :, rows], keys)
        # Two broadcast sums instead of one dense bias: one tensor of queries x keys fewer.
        scores = scores.reshape(-1, heads, scores.shape[2], height, width)
        scores = scores + biases[0][:, :, rows, :, None] + biases[1][:, :, rows, None, :]
        scores = node.watch(scores).reshape(-1, heads, scores.shape[2], height * width)
        weights = scores.softmax(dim=-1)
        parts.append(torch.matmul(weights, v))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _masked(node: RelPosAttention, q: Tensor, k: Tensor, v: Tensor, biases: Biases) -> Tensor:
    parts = []
    for rows in _row_slices(node):
        mask = _dense_bias(node, biases[0][:, :, rows], biases[1][:, :, rows])
        parts.append(F.scaled_dot_product_attention(q[:, :, rows], k, v, attn_mask=mask, scale=1.0))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _augmented(node: RelPosAttention, q: Tensor, k: Tensor, v: Tensor, biases: Biases) -> Tensor:
    width = v.shape[-1]
    # The constant carries the padding, so that it costs no copy of its own.
    keys = torch.cat([k, node.one_hot.expand(k.shape[0], k.shape[1], -1, -1)], dim=-1)
    queries = torch.cat([q, *biases], dim=-1)
    queries = F.pad(queries, (0, keys.shape[-1] - queries.shape[-1]))
    # TensorRT takes keys and values of one shape only: values are padded, results cut again.
    values = F.pad(v, (0, keys.shape[-1] - width))
    return F.scaled_dot_product_attention(queries, keys, values, scale=1.0)[..., :width]


@dataclass(frozen=True)
class Lowering:
    """How attention is written, and how a block around it is cut for its runtime.

    attend: the attention itself. lowest_opset: of the graph in which it stays one piece.
    heads_at_once: heads that a block projects and attends with before it turns to the next ones, in
    windows and over the whole grid; 0 for all. mlp_parts: parts of the tokens that the MLP takes
    one after the other. The cuts hold for grids of `LARGE_GRID` tokens or more and change no
    result.
    """

    attend: Callable[[RelPosAttention, Tensor, Tensor, Tensor, Biases], Tensor]
    lowest_opset: int
    heads_at_once: tuple[int, int] = (0, 0)
    mlp_parts: int = 1

    def channel_groups(self, spec: VitEncoder, *, window: int) -> list[slice]:
        """Return the channels of the groups of heads that a block works on in turn.

        Args:
            spec: the encoder's shapes.
            window: side of the block's windows; 0 for the whole grid.
        """
        wanted = self.heads_at_once[0 if window else 1] if _is_large(spec) else 0
        heads = wanted or spec.num_heads
        starts = range(0, spec.num_heads, heads)
        ends = (min(start + heads, spec.num_heads) for start in starts)
        return [
            slice(start * spec.head_dim, end * spec.head_dim)
            for start, end in zip(starts, ends, strict=True)
        ]

    def row_groups(self, spec: VitEncoder) -> list[slice]:
        """Return the token rows that the MLP of a block works on in turn."""
        rows = spec.grid[0]
        size = -(-rows // self.mlp_parts) if _is_large(spec) else rows
        return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]


#: Tokens from which on a block's memory is worth cutting.
LARGE_GRID = 1024


def _is_large(spec: VitEncoder) -> bool:
    return spec.grid[0] * spec.grid[1] >= LARGE_GRID


#: The cuts of `augmented` are what TensorRT-RTX plans the least memory for with open sizes, ViT-B
#: (docs/tensorrt.md has the steps).
LOWERINGS: dict[str, Lowering] = {
    "explicit": Lowering(_explicit, 18),
    "masked": Lowering(_masked, 23),
    "augmented": Lowering(_augmented, 23, heads_at_once=(6, 4), mlp_parts=4),
}
