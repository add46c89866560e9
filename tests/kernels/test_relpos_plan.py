"""Sizes behind the attention kernels: heads cut in parts, units, tables, programs, constants."""

from __future__ import annotations

import pytest

from autosam_deploy.errors import BackendInputError
from autosam_deploy.kernels.relpos_plan import (
    Layout,
    Plan,
    power_of_two,
    split_width,
    supported_widths,
)
from autosam_deploy.kernels.tiles import Tiles

TILES = Tiles(64, 64, 4, 2)


@pytest.mark.parametrize(
    ("width", "parts"),
    [(8, (16, 0)), (16, (16, 0)), (32, (32, 0)), (48, (32, 16)), (64, (64, 0)), (80, (64, 16))],
)
def test_split_width(width: int, parts: tuple[int, int]) -> None:
    assert split_width(width) == parts


@pytest.mark.parametrize("width", [0, -1, 17, 24, 72, 112, 129, 256])
def test_widths_that_cannot_be_split(width: int) -> None:
    assert width not in supported_widths()
    with pytest.raises(BackendInputError, match=f"got {width} channels a head; expected 1 to 15, "):
        split_width(width)


def test_supported_widths_are_those_that_can_be_split() -> None:
    assert supported_widths() == (*range(1, 17), 32, 48, 64, 80, 96, 128)


def test_power_of_two() -> None:
    assert [power_of_two(count) for count in (1, 14, 16, 17, 64, 65)] == [16, 16, 16, 32, 64, 128]


def test_sizes_of_vit_b() -> None:
    whole, windows = Plan(64, 64, 0, 12, 64), Plan(64, 64, 14, 12, 64)
    assert (whole.windows, windows.windows) == ((1, 1), (5, 5))
    assert (whole.units(2), windows.units(2)) == (24, 600)
    assert whole.bias_elements(1) == (4096 * 12 * 64, 4096 * 12 * 64)
    assert windows.bias_elements(1) == (25 * 196 * 12 * 14, 25 * 196 * 12 * 16)
    # A program for 64 queries of a unit; for 64 positions, one head here, of each of 128 lines.
    assert whole.attention_programs(1, TILES) == 12 * 64
    assert whole.bias_programs(1, TILES) == 12 * 128
    assert windows.attention_programs(1, TILES) == 300 * 4
    assert windows.bias_programs(1, TILES) == 300 // 4 * 28


@pytest.mark.parametrize(
    ("grid", "window", "rows"),
    [((64, 64), 0, 1), ((32, 32), 0, 2), ((64, 128), 0, 1), ((64, 64), 14, 4), ((3, 8), 0, 4)],
)
def test_rows_of_keys_in_a_tile(grid: tuple[int, int], window: int, rows: int) -> None:
    layout = Layout.of_thirds(grid[1], 768)
    assert Plan(*grid, window, 12, 64).attention_constants(layout, TILES)["tile_rows"] == rows


def test_only_halves_may_use_fast_products() -> None:
    layout = Layout.of_thirds(8, 16)

    def precision(**options: int) -> object:
        plan = Plan(8, 8, 0, 1, 16, **options)
        return plan.attention_constants(layout, TILES)["precision"]

    assert precision() == "tf32"
    assert precision(itemsize=4) == precision(widen=True) == "ieee"
