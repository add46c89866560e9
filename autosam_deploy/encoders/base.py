"""What every image encoder says of itself, whatever its kind."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

from pydantic import Field, model_validator

from autosam_deploy.strict import Pair, Strict, parse_spec

#: Name of an encoder whose shapes are none of the published ones.
CUSTOM = "custom"

#: Multiply-adds from which on a CPU takes seconds a slice: vit_b at 1024x1024 has more, at 512x512
#: a quarter of it.
_BIG = 400_000_000_000


class Encoder(Strict):
    """A frozen image encoder: (B, 3, H, W) -> embedding (B, out_chans, *grid).

    name: of a published encoder (`ENCODERS`), or `CUSTOM`. out_chans: channels of the embedding.
    image_size: (height, width) in pixels of the image that enters the encoder.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    out_chans: int = Field(default=256, gt=0)
    image_size: Pair

    @model_validator(mode="after")
    def _whole_tokens(self) -> Self:
        if any(side <= 0 or side % self.pixels_per_token for side in self.image_size):
            raise ValueError(
                f"image_size {self.image_size} must be positive multiples of "
                f"{self.pixels_per_token}, the pixels of a token of the embedding"
            )
        return self

    @property
    @abstractmethod
    def pixels_per_token(self) -> int:
        """Pixels along the side of one token of the embedding."""

    @property
    @abstractmethod
    def largest_window(self) -> int:
        """Side of the largest window of attention, in tokens of the embedding; 0 without any."""

    @property
    @abstractmethod
    def attentions(self) -> int:
        """Blocks that have attention."""

    @abstractmethod
    def macs(self, *, padded: bool = True) -> int:
        """Return the multiply-adds for one slice: products and convolutions, nothing else.

        Args:
            padded: with those of padded tokens, as in the reference; without, it is the least that
                has to be computed.
        """

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens (Sh, Sw) of the embedding (B, out_chans, Sh, Sw)."""
        height, width = self.image_size
        return height // self.pixels_per_token, width // self.pixels_per_token

    @property
    def is_big(self) -> bool:
        """Whether a CPU takes many seconds a slice."""
        return self.macs(padded=False) > _BIG

    @property
    def smallest_side(self) -> int:
        """Pixels of a side below which a smaller image leaves more padding and nothing else."""
        return self.pixels_per_token * max(1, self.largest_window)

    def resized(self, image_size: tuple[int, int]) -> Self:
        """Return the same encoder for another input size (height, width) in pixels.

        Raises:
            SpecError: the sides are no multiples of `pixels_per_token`.
        """
        return parse_spec(type(self), {**self.model_dump(), "image_size": image_size})
