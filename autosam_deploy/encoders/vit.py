"""SAM's ViT image encoder (Kirillov et al. 2023): vit_b, vit_l, vit_h."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autosam_deploy.encoders.base import Encoder
from autosam_deploy.strict import Pair


class VitEncoder(Encoder):
    """segment_anything/modeling/image_encoder.py: a ViT with windowed and global blocks.

    SAM's own weights are made for 1024x1024; other sizes use interpolated positional tables.
    """

    kind: Literal["vit"] = "vit"
    embed_dim: int = Field(gt=0)
    depth: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    global_attn_indexes: Annotated[tuple[int, ...], Field(strict=False)]
    window_size: int = Field(default=14, ge=0)
    patch_size: int = Field(default=16, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    image_size: Pair = (1024, 1024)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide {self.embed_dim}")
        if any(not 0 <= index < self.depth for index in self.global_attn_indexes):
            raise ValueError(f"global_attn_indexes must lie in 0..{self.depth - 1}")
        return self

    @property
    def pixels_per_token(self) -> int:
        """The patch size."""
        return self.patch_size

    @property
    def largest_window(self) -> int:
        """Side of the windows of all blocks but the global ones, in tokens."""
        return self.window_size

    @property
    def attentions(self) -> int:
        """All blocks."""
        return self.depth

    @property
    def head_dim(self) -> int:
        """Width of one attention head (64 for vit_b and vit_l, 80 for vit_h)."""
        return self.embed_dim // self.num_heads

    def window_of(self, block: int) -> int:
        """Return the window size of a block; 0 means attention over the whole grid."""
        return 0 if block in self.global_attn_indexes else self.window_size

    def macs(self, *, padded: bool = True) -> int:
        """Return the multiply-adds for one slice.

        `padded` counts the projections on the padded grid (64x64 tokens become 70x70), as the
        reference computes them. At 1024x1024 that is 486, 1,493 and 2,981 billion for vit_b,
        vit_l and vit_h; without padding 471, 1,425 and 2,833.
        """
        rows, columns = self.grid
        tokens, width = rows * columns, self.embed_dim
        total = tokens * width * 3 * self.patch_size**2
        for block in range(self.depth):
            total += self._attention(self.window_of(block), padded=padded)
            total += 2 * tokens * width * int(width * self.mlp_ratio)
        return total + tokens * self.out_chans * (width + 9 * self.out_chans)

    def _attention(self, window: int, *, padded: bool) -> int:
        """Projections, scores, values and relative positions of one block."""
        (rows, columns), width = self.grid, self.embed_dim
        high, wide = (window, window) if window else (rows, columns)
        tokens = -(-rows // high) * -(-columns // wide) * high * wide
        projections = (tokens if padded else rows * columns) * width * 4 * width
        products = 2 * tokens * high * wide * width
        return projections + products + tokens * (high + wide) * width


VITS = (
    VitEncoder(
        name="vit_b", embed_dim=768, depth=12, num_heads=12, global_attn_indexes=(2, 5, 8, 11)
    ),
    VitEncoder(
        name="vit_l", embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)
    ),
    VitEncoder(
        name="vit_h", embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)
    ),
    # For the demo and the tests: no published weights exist for it. The 16x16 grid does not divide
    # by the window, so padding is exercised; both kinds of block are present.
    VitEncoder(
        name="vit_tiny",
        embed_dim=96,
        depth=4,
        num_heads=3,
        global_attn_indexes=(1, 3),
        window_size=7,
        image_size=(256, 256),
    ),
)
