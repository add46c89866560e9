from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from autosam_deploy.benchmarks.efficiency.result import summary
from autosam_deploy.benchmarks.efficiency.tables import (
    Table,
    dice_table,
    distance_table,
    seconds_table,
    size_table,
)


def cell(method: str, volumes: int, seed: int, dice: float | None, **fields: Any) -> dict[str, Any]:
    """The record of a cell; without a Dice it failed."""
    record = {"method": method, "volumes": volumes, "seed": seed, "seconds": 12.0}
    record["image_size"] = fields.pop("image_size", None if method.startswith("unet") else [96, 96])
    if dice is None:
        return {**record, "failed": "the head died"}
    scores = {"dice": dice, "hd95_mm": 10 - 10 * dice, "assd_mm": 1.0, "classes": {}}
    counts = {"structures": 4, "missed": 0, "invented": 0, "steps": 8, "parameters": 9}
    return {**record, "failed": None, **scores, **counts, **fields}


def result(*cells: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary(cells), "cells": cells}


def rows(table: Table) -> list[list[str]]:
    """The cells of the Markdown table."""
    lines = table.markdown().splitlines()
    return [[part.strip() for part in line.strip("|").split("|")] for line in lines]


def test_mean_and_spread_are_over_seeds() -> None:
    found = result(
        *(cell("cnn", 1, seed, dice) for seed, dice in enumerate((0.5, 0.6, 0.7))),
        *(cell("unet", 1, seed, dice) for seed, dice in enumerate((0.3, 0.3, 0.6))),
        *(cell("cnn", 4, seed, dice) for seed, dice in enumerate((0.8, 0.8, 0.8))),
        *(cell("unet", 4, seed, dice) for seed, dice in enumerate((0.9, 0.9, 0.9))),
    )
    # Sample standard deviations: of 0.5, 0.6, 0.7 it is 0.1; of 0.3, 0.3, 0.6 the root of 0.03.
    assert rows(dice_table(found)) == [
        ["method", "N = 1", "N = 4"],
        ["---", "---:", "---:"],
        ["cnn", "**0.600 ± 0.100**", "0.800 ± 0.000"],
        ["unet", "0.400 ± 0.173", "**0.900 ± 0.000**"],
    ]
    assert rows(distance_table(found))[2:] == [
        ["cnn", "**4.00 ± 1.00**", "2.00 ± 0.00"],
        ["unet", "6.00 ± 1.73", "**1.00 ± 0.00**"],
    ]
    assert rows(seconds_table(found))[2:] == [["cnn", "12", "12"], ["unet", "12", "12"]]


def test_columns_are_in_order_of_volumes() -> None:
    found = result(cell("cnn", 16, 0, 0.5), cell("cnn", 2, 0, 0.4))
    assert rows(dice_table(found))[0] == ["method", "N = 2", "N = 16"]


def test_one_seed_has_no_spread() -> None:
    assert rows(dice_table(result(cell("cnn", 1, 0, 0.5))))[2] == ["cnn", "**0.500**"]


def test_equal_methods_are_both_best() -> None:
    found = rows(dice_table(result(cell("cnn", 1, 0, 0.5), cell("unet", 1, 0, 0.5))))
    assert found[2:] == [["cnn", "**0.500**"], ["unet", "**0.500**"]]


def test_failed_seeds_show_and_their_rest_does_not_compete() -> None:
    found = result(
        *(cell("cnn", 1, seed, dice) for seed, dice in enumerate((0.9, None, 0.7))),
        *(cell("linear", 1, seed, None) for seed in range(3)),
        *(cell("unet", 1, seed, 0.2) for seed in range(3)),
    )
    assert rows(dice_table(found))[2:] == [
        ["cnn", "0.800 ± 0.141 (1 of 3 failed)"],
        ["linear", "failed"],
        ["unet", "**0.200 ± 0.000**"],
    ]
    assert rows(seconds_table(found))[2:] == [["cnn", "12"], ["linear", "-"], ["unet", "12"]]


def test_distances_of_what_was_found_do_not_beat_those_of_everything() -> None:
    found = result(
        cell("cnn", 1, 0, 0.5, hd95_mm=1.0, missed=3),
        cell("unet", 1, 0, 0.5, hd95_mm=7.0),
        cell("linear", 1, 0, 0.0, hd95_mm=None, missed=4),
    )
    assert rows(distance_table(found))[2:] == [
        ["cnn", "1.00 (3 of 4 missed)"],
        ["unet", "**7.00**"],
        ["linear", "- (4 of 4 missed)"],
    ]


def test_sizes_are_rows_of_their_own_and_compared_seed_by_seed() -> None:
    small = {"image_size": [48, 64]}
    found = result(
        *(cell("cnn", 1, seed, dice) for seed, dice in enumerate((0.5, 0.7, 0.9))),
        *(cell("cnn", 1, seed, dice, **small) for seed, dice in enumerate((0.4, 0.7, 0.8))),
        *(cell("cnn", 4, seed, dice) for seed, dice in enumerate((0.5, None, 0.5))),
        *(cell("cnn", 4, seed, dice, **small) for seed, dice in enumerate((0.75, 0.1, None))),
        *(cell("unet", count, seed, 0.6) for count in (1, 4) for seed in range(3)),
    )
    assert [row[0] for row in rows(dice_table(found))[2:]] == [
        "cnn at 96x96",
        "cnn at 48x64",
        "unet",
    ]
    sizes = size_table(found)
    assert sizes is not None
    assert sizes.title == "Difference in Dice to 96x96"
    # -0.1, 0, -0.1: a mean of -1/15, a deviation of 0.0577; the Dice themselves spread by 0.2.
    assert rows(sizes)[2:] == [["cnn at 48x64", "-0.067 ± 0.058", "+0.250 (1 of 3 seeds)"]]


def test_one_size_is_not_compared_nor_named() -> None:
    found = result(cell("cnn", 1, 0, 0.5), cell("unet", 1, 0, 0.4))
    assert size_table(found) is None
    assert [row[0] for row in rows(dice_table(found))[2:]] == ["cnn", "unet"]


def test_sizes_that_failed_have_no_difference() -> None:
    found = result(cell("cnn", 1, 0, 0.5), cell("cnn", 1, 0, None, image_size=[48, 48]))
    sizes = size_table(found)
    assert sizes is not None
    assert rows(sizes)[2:] == [["cnn at 48x48", "-"]]


@pytest.mark.parametrize("width", [48, 100])
def test_terminal_says_the_same(width: int) -> None:
    """However narrow it is, no digit is cut off."""
    found = result(
        *(cell("cnn", count, seed, 0.5) for count in (1, 2, 4) for seed in range(2)),
        cell("unet-pretrained", 1, 0, None),
        cell("unet-pretrained", 1, 1, 0.25),
        *(cell("unet-pretrained", count, seed, 0.75) for count in (2, 4) for seed in range(2)),
    )
    stream = io.StringIO()
    Console(file=stream, width=width).print(dice_table(found).rich())
    words = stream.getvalue().split()
    assert words.count("0.500") == 3
    assert words.count("0.750") == 2
    assert words.count("0.250") == 1
    assert "…" not in stream.getvalue()
    assert {"failed", "unet-pretrained"} <= set(words)
