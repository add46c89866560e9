"""Cross-attention between a few tokens and many pixels, with the projections absorbed.

The reference (segment_anything/modeling/transformer.py) projects all pixels of every class to
keys, values or queries. With T = 3 tokens and 8 heads it is cheaper to bring the token side
through the projection instead, which is exact:

    tokens to image    q_t . (W_k y_n + b_k) = (W_k^T q_t) . y_n + const(t)   const leaves softmax
                       sum_n a_n (W_v x_n + b_v) = W_v (sum_n a_n x_n) + b_v  weights sum to 1
    image to tokens    (W_q y_n + b_q) . k_t = y_n . (W_q^T k_t) + b_q . k_t
                       W_o concat_h(sum_t a_t v_t) = sum_{h,t} a_{h,t} (W_o[:, h] v_{t,h})

A pixel then meets 8 x T vectors of 256 channels instead of two or three 256 x 128 matrices: five
times fewer multiplications a class, and no projected copy of the image is ever stored.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autosam_deploy.fused.nodes import Node

State = Mapping[str, Tensor]


class _Projections(Node):
    """The four projections of one attention layer, split by head."""

    def __init__(self, state: State, prefix: str, *, num_heads: int) -> None:
        """Take `<prefix>{q,k,v,out}_proj` (inner, E) and (E, inner)."""
        super().__init__()

        def by_head(name: str) -> Tensor:
            weight = state[f"{prefix}{name}_proj.weight"].detach()
            return weight.reshape(num_heads, weight.shape[0] // num_heads, -1).clone()

        def bias_by_head(name: str) -> Tensor:
            return state[f"{prefix}{name}_proj.bias"].detach().reshape(num_heads, 1, -1).clone()

        scale = by_head("q").shape[1] ** -0.5
        out = state[f"{prefix}out_proj.weight"].detach()
        self.heads = num_heads
        self.query = nn.Parameter(by_head("q") * scale, False)  # (heads, d, E)
        self.query_bias = nn.Parameter(bias_by_head("q") * scale, False)  # (heads, 1, d)
        self.key = nn.Parameter(by_head("k"), False)
        self.value = nn.Parameter(by_head("v"), False)
        self.value_bias = nn.Parameter(bias_by_head("v"), False)
        # (heads, d, E): the slice of the output projection that a head feeds.
        self.out = nn.Parameter(
            out.reshape(out.shape[0], num_heads, -1).permute(1, 2, 0).contiguous(), False
        )
        self.out_bias = nn.Parameter(state[f"{prefix}out_proj.bias"].detach().clone(), False)


class TokensToImage(_Projections):
    """Tokens attend to pixels."""

    def forward(self, tokens: Tensor, positioned: Tensor, image: Tensor) -> Tensor:
        """Attend.

        Args:
            tokens: queries (B or 1, K, T, E), positional part added.
            positioned: pixels with positions (B, K or 1, N, E).
            image: pixels (B, K or 1, N, E).

        Returns:
            (B, K, T, E).
        """
        tokens, positioned = self.enter(tokens), self.enter(positioned)
        image = self.enter(image)
        classes, count, width = tokens.shape[1:]
        shared = image.shape[1] == 1
        # (B, K, heads, T, E): each head's query, brought through the key projection.
        query = torch.matmul(tokens.unsqueeze(2), self.query.transpose(1, 2)) + self.query_bias
        probe = self.watch(torch.matmul(query, self.key))
        rows = self.heads * count
        if shared:
            # All classes look at one image: one product for the probes of every class.
            probe = probe.reshape(-1, 1, classes * rows, width)
        else:
            probe = probe.reshape(-1, classes, rows, width)
        scores = self.watch(torch.matmul(probe, positioned.transpose(2, 3)))
        context = torch.matmul(scores.softmax(dim=-1), image)
        context = self.watch(context).reshape(-1, classes, self.heads, count, width)
        value = torch.matmul(context, self.value.transpose(1, 2)) + self.value_bias
        return self.watch(torch.matmul(value, self.out).sum(dim=2) + self.out_bias)


class ImageToTokens(_Projections):
    """Pixels attend to tokens."""

    def forward(self, positioned: Tensor, keys: Tensor, tokens: Tensor) -> Tensor:
        """Attend.

        Args:
            positioned: pixels with positions (B, K or 1, N, E).
            keys: tokens with their positional part (B, K, T, E).
            tokens: tokens (B, K, T, E).

        Returns:
            (B, K, N, E).
        """
        positioned, keys, tokens = self.enter(positioned), self.enter(keys), self.enter(tokens)
        classes, count, width = tokens.shape[1:]
        pixels, rows = positioned.shape[2], self.heads * count
        # The key bias is the same for every token of a softmax over tokens: it drops out.
        key = torch.matmul(keys.unsqueeze(2), self.key.transpose(1, 2))
        probe = self.watch(torch.matmul(key, self.query))
        offset = torch.matmul(key, self.query_bias.transpose(1, 2))
        if positioned.shape[1] == 1:
            probe = probe.reshape(-1, 1, classes * rows, width)
            scores = torch.matmul(positioned, probe.transpose(2, 3))
            scores = scores.reshape(-1, pixels, classes, rows).transpose(1, 2)
        else:
            probe = probe.reshape(-1, classes, rows, width)
            scores = torch.matmul(positioned, probe.transpose(2, 3))
        scores = self.watch(scores + offset.reshape(-1, classes, 1, rows))
        weights = scores.reshape(-1, classes, pixels, self.heads, count).softmax(dim=-1)
        value = torch.matmul(tokens.unsqueeze(2), self.value.transpose(1, 2)) + self.value_bias
        update = self.watch(torch.matmul(value, self.out)).reshape(-1, classes, rows, width)
        mixed = torch.matmul(weights.reshape(-1, classes, pixels, rows), update)
        return self.watch(mixed + self.out_bias)


class SelfAttention(_Projections):
    """Tokens attend to the tokens of their class: (B, K, T, E)."""

    def forward(self, positioned: Tensor, tokens: Tensor) -> Tensor:
        """Attend; queries and keys are `positioned`, values `tokens`."""
        positioned, tokens = self.enter(positioned), self.enter(tokens)
        wide = positioned.unsqueeze(2)
        query = torch.matmul(wide, self.query.transpose(1, 2)) + self.query_bias
        key = torch.matmul(wide, self.key.transpose(1, 2))
        value = torch.matmul(tokens.unsqueeze(2), self.value.transpose(1, 2)) + self.value_bias
        scores = self.watch(torch.matmul(query, key.transpose(3, 4)))
        mixed = torch.matmul(scores.softmax(dim=-1), value)
        return self.watch(torch.matmul(mixed, self.out).sum(dim=2) + self.out_bias)
