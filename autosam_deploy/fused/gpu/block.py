"""A transformer block with the attention kernel: no copies into windows or heads, no masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autosam_deploy.fused.encoders.vit import Block
from autosam_deploy.fused.gpu.nodes import Dense, Norm, dtype_of, join
from autosam_deploy.fused.windows import merge_heads, split_heads
from autosam_deploy.kernels.relpos import relpos_attention


class GpuBlock(nn.Module):
    """The same function as a typed `fused.encoder.Block`."""

    def __init__(self, block: Block, *, heads: int, kernels: frozenset[str]) -> None:
        """Take the weights of a typed block.

        Args:
            block: typed (see `fused.precision`); it is not changed.
            heads: of its attention.
            kernels: names from `segmenter.KERNELS`.
        """
        super().__init__()
        self.grid, self.window, self.heads = block.grid, block.window, heads
        self.with_kernel = "attention" in kernels
        self.attention = block.attention
        projections = [block.query, block.key, block.value]
        self.projections = join(projections)
        norm = "norm" in kernels
        # An island among the three takes a cast of its own.
        reads = dtype_of(projections[0]) if len(self.projections) == 1 else torch.float32
        self.norm1 = Norm(block.norm1, store=reads, kernel=norm)
        self.projection = Dense([block.projection])
        self.residual1, self.residual2 = block.residual1, block.residual2
        self.norm2 = Norm(block.norm2, store=dtype_of(block.expand), kernel=norm)
        self.expand, self.contract = Dense([block.expand]), Dense([block.contract])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, C) to the same shape."""
        x = self.residual1(x, self.projection(self._attend(self.norm1(x))))
        out: Tensor = self.residual2(x, self.contract(self.expand(self.norm2(x))))
        return out

    def _attend(self, y: Tensor) -> Tensor:
        found = [projection(y) for projection in self.projections]
        q, k, v = found[0].chunk(3, dim=-1) if len(found) == 1 else found
        core = self.attention
        if self.with_kernel:
            dtype = core.table_h.dtype
            return relpos_attention(
                q.to(dtype),
                k.to(dtype),
                v.to(dtype),
                core.table_h,
                core.table_w,
                num_heads=self.heads,
                window=self.window,
            )
        parts = (split_heads(part, num_heads=self.heads, window=self.window) for part in (q, k, v))
        return merge_heads(core(*parts), grid=self.grid, window=self.window)
