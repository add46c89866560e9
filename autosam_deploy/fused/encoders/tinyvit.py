"""TinyViT rearranged: grey input, batch norms in the convolutions, one bias table a block.

Same function as `models/encoders/tinyvit.py` of three equal channels. Tokens are channels last
from the first attention on; convolutions by depth see them the other way round.

Upstream pads a grid to whole windows before the norm of attention, so a padded token is normalised
to the shift of that norm and takes part in attention as a key and a value. With y = LN(x) less its
shift, a padded token is zero, and all that the shift does moves into constants:

* q = Wq y + (Wq shift + bq), scaled;
* k = Wk y: what all keys have in common adds one number to a row of scores, which softmax ignores;
* v = Wv y: what all values have in common leaves attention unchanged, and goes into the bias of
  the output projection (`windows.fold_value_bias`).

So windows are padded with zeros behind the projections, as in a ViT (`windows.py`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from autosam_deploy.encoders import TinyVitEncoder
from autosam_deploy.fused.encoders.base import FusedEncoder, State
from autosam_deploy.fused.grey import fold_grey
from autosam_deploy.fused.nodes import Add, Conv, LayerNorm, Linear, Node
from autosam_deploy.fused.windows import fold_value_bias, merge_heads, split_heads
from autosam_deploy.models.encoders.tinyvit import FrozenNorm, bias_offsets
from autosam_deploy.models.preprocess import marks_padding
from autosam_deploy.spec import PreprocessSpec


def fold_norm(state: State, prefix: str) -> tuple[Tensor, Tensor]:
    """Fold a batch norm into the convolution before it.

    g (W x - m) / sqrt(v + eps) + b = (g / sqrt(v + eps) W) x + (b - g m / sqrt(v + eps)).

    Args:
        state: an encoder's weights.
        prefix: of convolution and norm, with the dot.

    Returns:
        Weight (out, in / groups, kh, kw) and bias (out,).
    """
    norm = f"{prefix}bn."
    scale = state[f"{norm}weight"] / (state[f"{norm}running_var"] + FrozenNorm.eps).sqrt()
    bias = state[f"{norm}bias"] - scale * state[f"{norm}running_mean"]
    return scale[:, None, None, None] * state[f"{prefix}c.weight"], bias


def _conv(state: State, prefix: str, *, stride: int = 1, activation: str | None = None) -> Conv:
    """Return a folded convolution; one channel in is a convolution by depth."""
    weight, bias = fold_norm(state, prefix)
    groups = weight.shape[0] if weight.shape[1] == 1 else 1
    return Conv(
        weight,
        bias,
        stride=stride,
        padding=weight.shape[-1] // 2,
        groups=groups,
        activation=activation,
    )


class Stem(nn.Module):
    """Grey pixels to the tokens of the first stage: (B, 1 or 2, H, W) -> (B, C, h, w)."""

    def __init__(self, state: State, spec: TinyVitEncoder, preprocess: PreprocessSpec) -> None:
        """Fold norms and normalisation (see `fold_norm`, `grey.fold_grey`)."""
        super().__init__()
        weight, bias = fold_norm(state, "patch_embed.seq.0.")
        padding = weight.shape[-1] // 2
        self.padded = padding > 0
        marked = marks_padding(preprocess, padded_stem=self.padded)
        grey, bias = fold_grey(weight, bias, preprocess, marked=marked)
        stride = 1 if spec.stem_stride == 1 else 2
        self.first = Conv(grey, bias, stride=stride, padding=padding, activation="gelu")
        self.second = _conv(state, "patch_embed.seq.2.", stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Embed an image."""
        out: Tensor = self.second(self.first(x))
        return out


class MBConv(nn.Module):
    """Expand, filter by depth, contract, on (B, C, h, w)."""

    def __init__(self, state: State, prefix: str) -> None:
        """Fold the norms."""
        super().__init__()
        self.expand = _conv(state, f"{prefix}conv1.", activation="gelu")
        self.filter = _conv(state, f"{prefix}conv2.", activation="gelu")
        self.contract = _conv(state, f"{prefix}conv3.")
        self.residual = Add(activation="gelu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        out: Tensor = self.residual(x, self.contract(self.filter(self.expand(x))))
        return out


class Merging(nn.Module):
    """To the next stage, whose tokens are channels last."""

    def __init__(self, state: State, prefix: str, *, stride: int, tokens: bool) -> None:
        """Fold the norms; `tokens`: the input is channels last."""
        super().__init__()
        self.tokens = tokens
        self.expand = _conv(state, f"{prefix}conv1.", activation="gelu")
        self.filter = _conv(state, f"{prefix}conv2.", stride=stride, activation="gelu")
        self.project = _conv(state, f"{prefix}conv3.")

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w), or (B, h, w, C), to (B, h / stride, w / stride, C')."""
        y = x.permute(0, 3, 1, 2) if self.tokens else x
        out: Tensor = self.project(self.filter(self.expand(y)))
        return out.permute(0, 2, 3, 1)


class BiasedAttention(Node):
    """softmax(q k^T + bias) v within a window; the bias is one table for all windows."""

    def __init__(self, bias: Tensor, *, plain: bool) -> None:
        """Take the bias (heads, N, N); `plain` writes attention in products and a softmax."""
        super().__init__()
        self.plain = plain
        self.bias = nn.Parameter(bias.detach().clone()[None], False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend: q (scaled), k, v (B, heads, N, d) -> (B, heads, N, d)."""
        q, k, v = self.enter(q), self.enter(k), self.enter(v)
        # Scores must be seen though the fused form never stores them.
        if self.plain or self.recorder is not None:
            scores = self.watch(torch.matmul(q, k.transpose(2, 3)) + self.bias)
            return self.watch(torch.matmul(scores.softmax(dim=-1), v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias, scale=1.0)


class Block(nn.Module):
    """Windowed attention, a convolution by depth and an MLP on (B, h, w, C)."""

    def __init__(self, state: State, prefix: str, *, heads: int, window: int, plain: bool) -> None:
        """Take the block's weights and fold norms, scale and biases."""
        super().__init__()

        def get(name: str) -> Tensor:
            return state[f"{prefix}{name}"].detach()

        self.heads, self.window = heads, window
        shift = get("attn.norm.bias")
        # Upstream's rows are ordered by head, then query, key, value.
        width = shift.shape[0]
        weights = get("attn.qkv.weight").view(heads, 3, -1, width).unbind(1)
        biases = get("attn.qkv.bias").view(heads, 3, -1).unbind(1)
        query, key, value = (weight.reshape(width, width) for weight in weights)
        scale = (width // heads) ** -0.5
        self.norm1 = LayerNorm(get("attn.norm.weight"), torch.zeros_like(shift), eps=1e-5)
        self.query = Linear(query * scale, (biases[0].reshape(width) + query @ shift) * scale)
        self.key = Linear(key, None)
        self.value = Linear(value, None)
        table = get("attn.attention_biases")
        self.attention = BiasedAttention(
            table[:, bias_offsets(window).to(table.device)], plain=plain
        )
        projection, common = get("attn.proj.weight"), biases[2].reshape(width) + value @ shift
        self.projection = Linear(
            projection, fold_value_bias(projection, get("attn.proj.bias"), common)
        )
        self.residual1 = Add()
        self.filter = _conv(state, f"{prefix}local_conv.")
        self.norm2 = LayerNorm(get("mlp.norm.weight"), get("mlp.norm.bias"), eps=1e-5)
        self.expand = Linear(get("mlp.fc1.weight"), get("mlp.fc1.bias"), activation="gelu")
        self.contract = Linear(get("mlp.fc2.weight"), get("mlp.fc2.bias"))
        self.residual2 = Add()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, C) to the same shape."""
        x = self.residual1(x, self.projection(self._attend(self.norm1(x))))
        x = self.filter(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = self.residual2(x, self.contract(self.expand(self.norm2(x))))
        return out

    def _attend(self, y: Tensor) -> Tensor:
        q, k, v = (
            split_heads(projection(y), num_heads=self.heads, window=self.window)
            for projection in (self.query, self.key, self.value)
        )
        return merge_heads(
            self.attention(q, k, v), grid=(y.shape[1], y.shape[2]), window=self.window
        )


def fuse(
    state: State, spec: TinyVitEncoder, *, preprocess: PreprocessSpec, lowering: str
) -> FusedEncoder:
    """Fuse an encoder (see `fuse_encoder`).

    The lowering `explicit` writes attention in products and a softmax; the others are one here,
    since a constant bias needs no widened heads.
    """
    blocks: list[nn.Module] = []
    for stage in range(4):
        for index in range(spec.depths[stage]):
            prefix = f"layers.{stage}.blocks.{index}."
            if stage == 0:
                blocks.append(MBConv(state, prefix))
                continue
            heads, window = spec.num_heads[stage - 1], spec.window_sizes[stage - 1]
            plain = lowering == "explicit"
            blocks.append(Block(state, prefix, heads=heads, window=window, plain=plain))
        if stage < 3:
            stride, prefix = spec.stride_into(stage + 1), f"layers.{stage}.downsample."
            blocks.append(Merging(state, prefix, stride=stride, tokens=stage > 0))
    stem = Stem(state, spec, preprocess)
    return FusedEncoder(stem, nn.ModuleList(blocks), state, padded_stem=stem.padded)


def score_shapes(spec: TinyVitEncoder, _lowering: str | None) -> frozenset[tuple[int, int]]:
    """Return (heads, tokens) of all that attend together (see `vit.score_shapes`)."""
    pairs = zip(spec.num_heads, spec.window_sizes, strict=True)
    return frozenset((heads, window**2) for heads, window in pairs)
