"""The AutoSAM head: prompt-free mask decoder, all classes in one pass.

Compared with the reference (models/sam_decoder.py), which runs the two-way transformer on a batch
of B * K copies of the embedding:

* the first self-attention sees constant tokens only: its result is a constant;
* the first layer's attention reads one image for all classes;
* cross-attentions absorb their projections (cross_attention.py);
* only mask token 0 makes the logits: the last attention has one query a class, and the IoU head and
  the second hypernetwork are left out;
* upscaling runs on tokens (upscaling.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autosam_deploy.fused.heads.cross_attention import (
    ImageToTokens,
    SelfAttention,
    TokensToImage,
)
from autosam_deploy.fused.heads.upscaling import Upscaling, channels_to_tokens, order_pixels
from autosam_deploy.fused.nodes import Add, LayerNorm, Linear, Node
from autosam_deploy.spec import AutosamHead

State = Mapping[str, Tensor]


def constant_tokens(state: State, spec: AutosamHead) -> Tensor:
    """Return the token set of every class (K, 3, E): IoU token, mask token 0, mask token 1."""
    iou = state["mask_decoder.iou_token.weight"].unsqueeze(1)
    masks = state["mask_decoder.mask_tokens.weight"].reshape(spec.num_classes, 2, -1)
    return torch.cat([iou, masks], dim=1).detach()


def _norm(state: State, name: str) -> LayerNorm:
    return LayerNorm(state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)


class _Layer(nn.Module):
    """One two-way block; the first one starts behind its constant self-attention."""

    def __init__(self, state: State, prefix: str, *, num_heads: int, first: bool) -> None:
        super().__init__()
        self.self_attention = SelfAttention(state, f"{prefix}self_attn.", num_heads=num_heads)
        self.norm1 = _norm(state, f"{prefix}norm1")
        self.first = first
        self.to_image = TokensToImage(
            state, f"{prefix}cross_attn_token_to_image.", num_heads=num_heads
        )
        self.norm2 = _norm(state, f"{prefix}norm2")
        self.expand = Linear(
            state[f"{prefix}mlp.lin1.weight"], state[f"{prefix}mlp.lin1.bias"], activation="relu"
        )
        self.contract = Linear(state[f"{prefix}mlp.lin2.weight"], state[f"{prefix}mlp.lin2.bias"])
        self.norm3 = _norm(state, f"{prefix}norm3")
        self.to_tokens = ImageToTokens(
            state, f"{prefix}cross_attn_image_to_token.", num_heads=num_heads
        )
        self.norm4 = _norm(state, f"{prefix}norm4")
        self.residuals = nn.ModuleList(Add() for _ in range(3))
        self.residual_image = Add()
        self.place_image = Add()

    def attend_self(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Self-attention and its norm; the first layer has neither residual nor position."""
        if self.first:
            updated = self.self_attention(queries, queries)
        else:
            mixed = self.self_attention(queries + tokens.to(queries.dtype), queries)
            updated = self.residuals[0](queries, mixed)
        normed: Tensor = self.norm1(updated)
        return normed

    def forward(self, queries: Tensor, image: Tensor, constants: _Constants) -> _Streams:
        """Return the new queries (B, K, 3, E) and image (B, K, N, E)."""
        tokens, position = constants
        if not self.first:
            queries = self.attend_self(queries, tokens)
        positioned = self.place_image(image, position)
        mixed = self.to_image(queries + tokens.to(queries.dtype), positioned, image)
        queries = self.norm2(self.residuals[1](queries, mixed))
        queries = self.norm3(self.residuals[2](queries, self.contract(self.expand(queries))))
        keys = queries + tokens.to(queries.dtype)
        image = self.norm4(self.residual_image(image, self.to_tokens(positioned, keys, queries)))
        return queries, image


_Constants = tuple[Tensor, Tensor]
_Streams = tuple[Tensor, Tensor]


class MaskProduct(Node):
    """Hypernetwork vector times upscaled pixels: the logits, kept in float32."""

    keep_fp32 = "logits"

    def forward(self, pixels: Tensor, hyper: Tensor) -> Tensor:
        """Multiply (B, K, N, 16, C) by (B, K, C) to (B, K, N * 16)."""
        pixels, hyper = self.enter(pixels), self.enter(hyper)
        flat = pixels.reshape(-1, pixels.shape[1], pixels.shape[2] * 16, pixels.shape[4])
        if self.dtype is torch.float32:
            # A typed graph is for GPUs. TensorRT-RTX has no float32 matrix product on Turing, and
            # a product with one vector is bound by reading the pixels either way.
            return self.watch((flat * hyper.unsqueeze(2)).sum(dim=-1))
        return self.watch(torch.matmul(flat, hyper.unsqueeze(-1)).squeeze(-1))


class FusedAutosamHead(nn.Module):
    """Same function as the reference's MaskDecoder with its random positional encoding."""

    def __init__(
        self, state: State, spec: AutosamHead, *, grid: tuple[int, int], position: Tensor
    ) -> None:
        """Fuse the head.

        Args:
            state: `mask_decoder.*` weights.
            spec: its shapes.
            grid: the embedding's token grid (h, w).
            position: positional encoding of the grid (E, h, w).
        """
        super().__init__()
        self.grid = grid
        prefix = "mask_decoder.transformer."
        layers = [
            _Layer(state, f"{prefix}layers.{i}.", num_heads=spec.num_heads, first=i == 0)
            for i in range(spec.transformer_depth)
        ]
        self.layers = nn.ModuleList(layers)
        self.final = TokensToImage(
            state, f"{prefix}final_attn_token_to_image.", num_heads=spec.num_heads
        )
        self.residual_final = Add()
        self.place_final = Add()
        self.norm_final = _norm(state, f"{prefix}norm_final_attn")
        self.hyper = nn.Sequential(
            *(
                Linear(
                    state[f"mask_decoder.output_hypernetworks_mlps.0.layers.{i}.weight"],
                    state[f"mask_decoder.output_hypernetworks_mlps.0.layers.{i}.bias"],
                    activation="relu" if i < 2 else None,
                )
                for i in range(3)
            )
        )
        self.upscaling = Upscaling(state, "mask_decoder.output_upscaling.")
        self.logits = MaskProduct()
        tokens = constant_tokens(state, spec)[None]
        with torch.no_grad():
            first = layers[0].attend_self(tokens, tokens)
        # The constant replaces the modules that made it.
        del layers[0].self_attention, layers[0].norm1
        self.tokens = nn.Parameter(tokens.clone(), False)  # (1, K, 3, E)
        self.first_queries = nn.Parameter(first.clone(), False)  # (1, K, 3, E)
        self.position = nn.Parameter(
            position.detach().flatten(1).t()[None, None].clone(), False
        )  # (1, 1, N, E)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (B, h, w, E) to (B, K, 4 h, 4 w)."""
        image = channels_to_tokens(embedding).unsqueeze(1)
        constants = self.tokens, self.position
        queries = self.first_queries
        for layer in self.layers:
            queries, image = layer(queries, image, constants)
        # Mask token 0 alone makes the logits.
        tokens, query = self.tokens[:, :, 1:2], queries[:, :, 1:2]
        positioned = self.place_final(image, self.position)
        mixed = self.final(query + tokens.to(query.dtype), positioned, image)
        hyper = self.hyper(self.norm_final(self.residual_final(query, mixed)).squeeze(2))
        masks = self.logits(self.upscaling(image), hyper)
        classes = masks.shape[1]
        pixels = masks.reshape(-1, self.grid[0] * self.grid[1], 16, 1)
        return order_pixels(pixels, self.grid).reshape(
            -1, classes, 4 * self.grid[0], 4 * self.grid[1]
        )
