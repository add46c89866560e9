"""Sizes behind the attention kernels: head widths, windows, padding, strides, programs.

Pure arithmetic, shared by who launches the kernels (`relpos.py`) and who compiles them ahead of
time (`relpos_triton.ahead_cases`), so that both hand over the same constants.

A *unit* is one head of one window of one slice (of the whole grid where there are no windows);
units are numbered with the head fastest, then the window in row-major order, then the slice. A
*side* is the number of tokens of a unit along one axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autosam_deploy.errors import BackendInputError
from autosam_deploy.kernels.tiles import Tiles

#: Operands of a matrix instruction are at least so long along every axis.
LEAST = 16
#: Longest supported side, and most channels of a head. A tile of whole token rows and a head have
#: to fit the registers; SAM has 64 x 64 tokens and 64 or 80 channels.
MOST_SIDE, MOST_WIDTH = 128, 128


def power_of_two(count: int) -> int:
    """Return the smallest power of two that is at least `count` and at least `LEAST`."""
    return max(LEAST, 1 << (count - 1).bit_length())


def supported_widths() -> tuple[int, ...]:
    """Return the numbers of channels per head that the kernels take, ascending."""
    return tuple(width for width in range(1, MOST_WIDTH + 1) if _parts(width) is not None)


def _parts(width: int) -> tuple[int, int] | None:
    if width < LEAST:
        return LEAST, 0
    first = 1 << (width.bit_length() - 1)
    rest = width - first
    fits = rest == 0 or (rest >= LEAST and rest & (rest - 1) == 0)
    return (first, rest) if fits else None


def split_width(width: int) -> tuple[int, int]:
    """Cut a head's channels into two parts that matrix instructions take.

    Args:
        width: channels d of a head.

    Returns:
        The largest power of two that is not above d, and what is left: 0 or a power of two from 16
        on. Below 16 channels the first part is 16, padded by masks.

    Raises:
        BackendInputError: d cannot be cut so.
    """
    parts = _parts(width) if 1 <= width <= MOST_WIDTH else None
    if parts is None:
        listed = ", ".join(str(one) for one in supported_widths() if one >= LEAST)
        raise BackendInputError(
            "attention kernels do not take this head width",
            got=f"{width} channels a head",
            expected=f"1 to {LEAST - 1}, or one of {listed}",
            todo="use another lowering",
        )
    return parts


@dataclass(frozen=True)
class Layout:
    """Where the tokens of q, k and v lie: strides in elements, and whether rows are aligned.

    rows: stride between token rows of q, k, v. columns: between neighbours in a row. aligned:
    every head of every token starts at a multiple of 16 bytes, so it can be copied 16 bytes at a
    time.
    """

    rows: tuple[int, int, int]
    columns: tuple[int, int, int]
    aligned: bool

    @classmethod
    def of_thirds(cls, width: int, channels: int) -> Layout:
        """Return the layout of q, k, v as aligned thirds of one (B, h, w, 3C) projection."""
        return cls((3 * width * channels,) * 3, (3 * channels,) * 3, True)


@dataclass(frozen=True)
class Plan:
    """One call's sizes.

    height, width: the token grid. window: its side, 0 for none. heads, channels: C = heads *
    channels. itemsize: bytes of an element (2, or 4 for float32). widen: compute products on
    float32 copies, which Triton's interpreter needs for bf16.
    """

    height: int
    width: int
    window: int
    heads: int
    channels: int
    itemsize: int = 2
    widen: bool = False

    @property
    def sides(self) -> tuple[int, int]:
        """Tokens of a unit along both axes."""
        return (self.window, self.window) if self.window else (self.height, self.width)

    @property
    def pads(self) -> tuple[int, int]:
        """Both sides, padded to powers of two."""
        return power_of_two(self.sides[0]), power_of_two(self.sides[1])

    @property
    def tokens(self) -> int:
        """Tokens of a unit, padded ones included."""
        return self.sides[0] * self.sides[1]

    @property
    def windows(self) -> tuple[int, int]:
        """Windows along both axes; one where there are none."""
        return -(-self.height // self.sides[0]), -(-self.width // self.sides[1])

    def units(self, batch: int) -> int:
        """Return the number of units of a batch."""
        return batch * self.windows[0] * self.windows[1] * self.heads

    def bias_elements(self, batch: int) -> tuple[int, int]:
        """Return the elements of bias_h (unit, key row, token) and bias_w (unit, token, pad)."""
        tokens = self.units(batch) * self.tokens
        return tokens * self.sides[0], tokens * self.pads[1]

    def bias_programs(self, batch: int, tiles: Tiles) -> int:
        """Return the programs of the bias kernel: one per line of tokens and tile of positions."""
        positions = self.units(batch) * max(self.pads)
        return -(-positions // tiles.block_m) * sum(self.sides)

    def attention_programs(self, batch: int, tiles: Tiles) -> int:
        """Return the programs of the attention kernel: one per unit and tile of its queries."""
        return self.units(batch) * -(-self.tokens // tiles.block_m)

    def bias_constants(self, layout: Layout, tiles: Tiles) -> dict[str, Any]:
        """Return the compile-time arguments of `relpos_bias`."""
        return {
            **self._common(layout, tiles),
            "pad_h": self.pads[0],
            "q_row": layout.rows[0],
            "q_col": layout.columns[0],
        }

    def attention_constants(self, layout: Layout, tiles: Tiles) -> dict[str, Any]:
        """Return the compile-time arguments of `relpos_attention`."""
        names = ("q_row", "k_row", "v_row", "q_col", "k_col", "v_col")
        # A tile holds whole rows of keys: at least one, and no more than the unit has, rounded up.
        most = 1 << (self.sides[0] - 1).bit_length()
        return {
            **self._common(layout, tiles),
            **dict(zip(names, (*layout.rows, *layout.columns), strict=True)),
            "tile_rows": min(max(1, tiles.block_n // self.pads[1]), most),
        }

    def _common(self, layout: Layout, tiles: Tiles) -> dict[str, Any]:
        first, rest = split_width(self.channels)
        return {
            "height": self.height,
            "width": self.width,
            "side_h": self.sides[0],
            "side_w": self.sides[1],
            "pad_w": self.pads[1],
            "aligned": layout.aligned,
            "block_m": tiles.block_m,
            "heads": self.heads,
            "channels": self.channels,
            "first": first,
            "rest": rest,
            "widen": self.widen,
            # Rounding float32 operands to TF32 would lose the precision that was asked for.
            "precision": "ieee" if self.itemsize == 4 or self.widen else "tf32",
        }
