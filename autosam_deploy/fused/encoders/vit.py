"""SAM's image encoder rearranged: grey input, no padded work, no biases inside attention.

Same function as `ImageEncoderViT` (segment_anything/modeling/image_encoder.py) of three equal
channels, in channels-last token layout throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autosam_deploy.encoders import VitEncoder
from autosam_deploy.fused.attention import LOWERINGS, RelPosAttention
from autosam_deploy.fused.encoders.base import FusedEncoder, State
from autosam_deploy.fused.grey import fold_grey
from autosam_deploy.fused.nodes import Add, LayerNorm, Linear, Node
from autosam_deploy.fused.windows import fold_value_bias, merge_heads, split_heads
from autosam_deploy.models.preprocess import marks_padding
from autosam_deploy.spec import PreprocessSpec


class PatchEmbedding(Node):
    """Grey patches to tokens, plus the absolute positions: (B, 1 or 2, H, W) -> (B, h, w, C)."""

    def __init__(self, state: State, spec: VitEncoder, preprocess: PreprocessSpec) -> None:
        """Fold the weights (see `fold_grey`)."""
        super().__init__()
        weight, bias = fold_grey(
            state["patch_embed.proj.weight"],
            state["patch_embed.proj.bias"],
            preprocess,
            marked=marks_padding(preprocess),
        )
        self.weight = nn.Parameter(weight.detach().clone(), False)
        # Bias and positions are both constants behind the convolution: one sum.
        self.position = nn.Parameter((state["pos_embed"] + bias).detach().clone(), False)
        self.patch = spec.patch_size

    def forward(self, x: Tensor) -> Tensor:
        """Embed an image."""
        y = torch.nn.functional.conv2d(self.enter(x), self.weight, stride=self.patch)
        return self.watch(y.permute(0, 2, 3, 1) + self.position)


class Block(nn.Module):
    """One transformer block on (B, h, w, C), windowed or global."""

    def __init__(self, state: State, spec: VitEncoder, *, index: int, lowering: str) -> None:
        """Take the block's weights from the encoder's state."""
        super().__init__()

        def get(name: str) -> Tensor:
            weight: Tensor = state[f"blocks.{index}.{name}"].detach()
            return weight

        self.grid, self.head_dim, self.window = spec.grid, spec.head_dim, spec.window_of(index)
        self.channel_groups = LOWERINGS[lowering].channel_groups(spec, window=self.window)
        self.row_groups = LOWERINGS[lowering].row_groups(spec)
        scale = spec.head_dim**-0.5
        weights, biases = get("attn.qkv.weight").chunk(3), get("attn.qkv.bias").chunk(3)
        self.norm1 = LayerNorm(get("norm1.weight"), get("norm1.bias"), eps=1e-6)
        # The scale sits in q; k and v carry no bias (see windows.py).
        self.query = Linear(weights[0] * scale, biases[0] * scale)
        self.key = Linear(weights[1], None)
        self.value = Linear(weights[2], None)
        self.attention = RelPosAttention(
            lowering=lowering,
            rel_pos_h=get("attn.rel_pos_h"),
            rel_pos_w=get("attn.rel_pos_w"),
            grid=(self.window, self.window) if self.window else self.grid,
            num_heads=spec.num_heads,
            scale=scale,
        )
        projection = get("attn.proj.weight")
        self.projection = Linear(
            projection, fold_value_bias(projection, get("attn.proj.bias"), biases[2])
        )
        self.residual1 = Add()
        self.norm2 = LayerNorm(get("norm2.weight"), get("norm2.bias"), eps=1e-6)
        self.expand = Linear(get("mlp.lin1.weight"), get("mlp.lin1.bias"), activation="gelu")
        self.contract = Linear(get("mlp.lin2.weight"), get("mlp.lin2.bias"))
        self.residual2 = Add()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, C) to the same shape."""
        x = self.residual1(x, self.projection(self._attend(self.norm1(x))))
        out: Tensor = self.residual2(x, self._feed_forward(self.norm2(x)))
        return out

    def _attend(self, y: Tensor) -> Tensor:
        parts = [self._attend_with(y, channels) for channels in self.channel_groups]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _attend_with(self, y: Tensor, channels: slice) -> Tensor:
        """Attend with the heads of some channels; one group's memory serves the next."""
        heads = (channels.stop - channels.start) // self.head_dim
        # A whole slice would be one more node in the graph.
        outputs = channels if len(self.channel_groups) > 1 else None
        q, k, v = (
            split_heads(projection(y, outputs=outputs), num_heads=heads, window=self.window)
            for projection in (self.query, self.key, self.value)
        )
        return merge_heads(self.attention(q, k, v), grid=self.grid, window=self.window)

    def _feed_forward(self, y: Tensor) -> Tensor:
        if len(self.row_groups) == 1:
            found: Tensor = self.contract(self.expand(y))
            return found
        parts = [self.contract(self.expand(y[:, rows])) for rows in self.row_groups]
        return torch.cat(parts, dim=1)


def fuse(
    state: State, spec: VitEncoder, *, preprocess: PreprocessSpec, lowering: str
) -> FusedEncoder:
    """Fuse an encoder (see `fuse_encoder`); its first convolution takes whole patches."""
    blocks = (Block(state, spec, index=index, lowering=lowering) for index in range(spec.depth))
    return FusedEncoder(PatchEmbedding(state, spec, preprocess), nn.ModuleList(blocks), state)


def score_shapes(spec: VitEncoder, lowering: str | None) -> frozenset[tuple[int, int]]:
    """Return (heads, tokens) of all that attend together in a graph of a lowering.

    A tensor (B, heads, tokens, tokens) would hold their scores. Heads attend all at once, or in the
    groups of `Lowering.channel_groups`.
    """
    rows, columns = spec.grid
    found = set()
    for window in {spec.window_of(index) for index in range(spec.depth)}:
        together = {spec.num_heads}
        if lowering in LOWERINGS:
            groups = LOWERINGS[lowering].channel_groups(spec, window=window)
            together |= {(group.stop - group.start) // spec.head_dim for group in groups}
        found |= {(heads, window**2 or rows * columns) for heads in together}
    return frozenset(found)
