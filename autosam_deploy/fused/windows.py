"""Between tokens on their grid and heads of attention, with and without windows.

SAM pads the normalised tokens to whole windows *before* the qkv projection, so a padded token has
q = k = v = the projection's bias. Three facts make the padding free of any arithmetic here:

* queries of padded tokens are thrown away, so their values do not matter;
* q_i . (k_j + b_k) = q_i . k_j + q_i . b_k: the key bias shifts a softmax row by a constant, which
  changes nothing, so it is dropped for every key and padded keys become zeros;
* the weights of a softmax row sum to one, so the value bias comes out of attention unchanged and
  is folded into the output projection (`fold_value_bias`); padded values become zeros too.

So the projections run on real tokens only and windows are padded with zeros.
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor


def fold_value_bias(projection: Tensor, bias: Tensor, value_bias: Tensor) -> Tensor:
    """Return the output bias b + P b_v of a projection P (out, in), with b_v (in,)."""
    return bias + projection @ value_bias


def windows_of(grid: tuple[int, int], window: int) -> tuple[int, int]:
    """Return the number of windows along each axis, the last ones padded."""
    return -(-grid[0] // window), -(-grid[1] // window)


def split_heads(x: Tensor, *, num_heads: int, window: int) -> Tensor:
    """Cut tokens into heads, per window when `window` > 0.

    Args:
        x: (B, h, w, C).
        num_heads: heads; C = num_heads * d.
        window: side of a window in tokens; 0 for the whole grid.

    Returns:
        (B * windows, num_heads, tokens, d), windows in row-major order; padded tokens are zeros.
    """
    height, width, channels = x.shape[1:]
    head = channels // num_heads
    if window == 0:
        return x.reshape(-1, height * width, num_heads, head).transpose(1, 2)
    down, across = windows_of((height, width), window)
    pad_h, pad_w = down * window - height, across * window - width
    if pad_h or pad_w:
        x = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
    x = x.reshape(-1, down, window, across, window, num_heads, head)
    # One transposition does both the windows and the heads.
    return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, num_heads, window * window, head)


def merge_heads(x: Tensor, *, grid: tuple[int, int], window: int) -> Tensor:
    """Undo `split_heads`, dropping padded tokens.

    Args:
        x: (B * windows, heads, tokens, d).
        grid: tokens (h, w) of the whole image.
        window: as given to `split_heads`.

    Returns:
        (B, h, w, heads * d).
    """
    heads, head = x.shape[1], x.shape[3]
    if window == 0:
        return x.transpose(1, 2).reshape(-1, *grid, heads * head)
    down, across = windows_of(grid, window)
    x = x.reshape(-1, down, across, heads, window, window, head)
    x = x.permute(0, 1, 4, 2, 5, 3, 6)
    x = x.reshape(-1, down * window, across * window, heads * head)
    return x[:, : grid[0], : grid[1]]
