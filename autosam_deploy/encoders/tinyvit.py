"""TinyViT (Wu et al. 2022) with SAM's neck: the image encoder of MobileSAM and LiteMedSAM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autosam_deploy.encoders.base import Encoder

Four = Annotated[tuple[int, int, int, int], Field(strict=False)]
Three = Annotated[tuple[int, int, int], Field(strict=False)]

#: Resolution of each stage, relative to the stem's: the last stage keeps that of the third
#: (mobile_sam/modeling/tiny_vit_sam.py, PatchMerging).
_SHRUNK = (1, 2, 4, 4)


class TinyVitEncoder(Encoder):
    """A stage of MBConv blocks, three of windowed attention, and SAM's neck.

    embed_dims, depths: channels and blocks of the four stages. num_heads, window_sizes: of the
    three stages of attention. stem_stride: pixels along the side of a token of the first stage: 4
    is two 3x3 convolutions of stride 2 (MobileSAM), 1 two 1x1 convolutions (LiteMedSAM).
    expand_ratio: of the MBConv blocks.
    """

    kind: Literal["tinyvit"] = "tinyvit"
    embed_dims: Four
    depths: Four
    num_heads: Three
    window_sizes: Three = (7, 14, 7)
    stem_stride: Literal[1, 4] = 4
    mlp_ratio: float = Field(default=4.0, gt=0)
    expand_ratio: float = Field(default=4.0, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        sizes = (*self.embed_dims, *self.depths, *self.num_heads, *self.window_sizes)
        if min(sizes) < 1:
            raise ValueError("widths, depths, heads and windows must be positive")
        for width, heads in zip(self.embed_dims[1:], self.num_heads, strict=True):
            if width % heads:
                raise ValueError(f"num_heads {heads} does not divide {width}")
        if self.embed_dims[0] % 2:
            raise ValueError(f"embed_dims must begin with an even number, not {self.embed_dims[0]}")
        return self

    @property
    def pixels_per_token(self) -> int:
        """Four times the stride of the stem."""
        return _SHRUNK[-1] * self.stem_stride

    @property
    def largest_window(self) -> int:
        """Side of the largest window, in tokens of the embedding."""
        scaled = zip(self.window_sizes, _SHRUNK[1:], strict=True)
        return max(-(-window * shrunk // _SHRUNK[-1]) for window, shrunk in scaled)

    @property
    def attentions(self) -> int:
        """All blocks but those of the first stage."""
        return sum(self.depths[1:])

    def stage_grid(self, stage: int) -> tuple[int, int]:
        """Return the tokens (h, w) of a stage 0..3."""
        height, width = self.image_size
        pixels = self.stem_stride * _SHRUNK[stage]
        return height // pixels, width // pixels

    def stride_into(self, stage: int) -> int:
        """Return the stride of the merging before a stage 1..3."""
        return _SHRUNK[stage] // _SHRUNK[stage - 1]

    def macs(self, *, padded: bool = True) -> int:
        """Return the multiply-adds for one slice.

        `padded` counts the projections on grids padded to whole windows, as the reference computes
        them: LiteMedSAM at 256x256 and MobileSAM at 1024x1024 have 37.4 and 38.8 billion.
        """
        return sum(self._parts(padded=padded))

    def _parts(self, *, padded: bool) -> Iterator[int]:
        tokens = [rows * columns for rows, columns in map(self.stage_grid, range(4))]
        first = self.embed_dims[0]
        if self.stem_stride == 1:
            yield tokens[0] * (3 * first // 2 + first // 2 * first)
        else:
            yield 9 * (4 * tokens[0] * 3 * first // 2 + tokens[0] * first // 2 * first)
        hidden = int(first * self.expand_ratio)
        yield self.depths[0] * tokens[0] * hidden * (2 * first + 9)
        for stage in (1, 2, 3):
            width, before = self.embed_dims[stage], self.embed_dims[stage - 1]
            yield tokens[stage - 1] * before * width + tokens[stage] * width * (9 + width)
            mlp = 2 * tokens[stage] * width * int(width * self.mlp_ratio)
            block = self._attention(stage, padded=padded) + 9 * tokens[stage] * width + mlp
            yield self.depths[stage] * block
        yield tokens[3] * self.out_chans * (self.embed_dims[3] + 9 * self.out_chans)

    def _attention(self, stage: int, *, padded: bool) -> int:
        (rows, columns), width = self.stage_grid(stage), self.embed_dims[stage]
        window = self.window_sizes[stage - 1]
        tokens = -(-rows // window) * -(-columns // window) * window**2
        projected = tokens if padded else rows * columns
        return projected * 4 * width**2 + 2 * tokens * window**2 * width


_LITEMEDSAM = TinyVitEncoder(
    name="litemedsam",
    embed_dims=(64, 128, 160, 320),
    depths=(2, 2, 6, 2),
    num_heads=(4, 5, 10),
    stem_stride=1,
    image_size=(256, 256),
)
_MOBILESAM = {"name": "mobilesam", "stem_stride": 4, "image_size": (1024, 1024)}
TINYVITS = (
    _LITEMEDSAM,
    TinyVitEncoder.model_validate({**_LITEMEDSAM.model_dump(), **_MOBILESAM}),
    # For the tests: windows that pad, every kind of block, both rules of merging.
    TinyVitEncoder(
        name="tinyvit_tiny",
        embed_dims=(16, 24, 32, 48),
        depths=(1, 1, 2, 1),
        num_heads=(2, 2, 3),
        window_sizes=(3, 5, 3),
        image_size=(64, 64),
        stem_stride=1,
    ),
)
