"""Preview pictures: slices with their labels on top, for a first look at a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from autosam_deploy.files import atomic_file
from autosam_deploy.spec import ClassSpec
from autosam_deploy.volumes.slices import ARRAY_AXIS, slices_along
from autosam_deploy.volumes.volume import Volume

MAX_TILES = 12
_COLUMNS = 4
_TILE = 240  # pixels of a tile's longer side
_GAP = 6
_BACKGROUND = (18, 20, 24)
_TEXT = (232, 234, 237)
_FILL = 0.38  # opacity of a label's area; its outline is opaque


def write_preview(
    path: Path,
    volume: Volume,
    labels: NDArray[np.uint8],
    *,
    classes: tuple[ClassSpec, ...],
    axis: Literal["i", "j", "k"],
) -> None:
    """Write a PNG with up to 12 slices, their labels and a legend.

    Slices are chosen evenly among those that hold a foreground label; without any, among all.

    Args:
        path: the .png file.
        volume: the image (z, y, x).
        labels: labels (z, y, x) uint8.
        classes: names and colours by label value.
        axis: image axis that slices are taken along.

    Raises:
        OutputError: the file cannot be written.
    """
    stack, marks = slices_along(volume.array, axis), slices_along(labels, axis)
    chosen = choose_slices(marks)
    aspect = _aspect(volume.geometry.spacing, axis)
    low, high = np.percentile(stack, (0.5, 99.5))
    tiles = [
        _tile(_grey(stack[index], low, high), marks[index], classes, aspect, f"{axis} = {index}")
        for index in chosen
    ]
    with atomic_file(path) as temporary:
        _sheet(tiles, volume.name, classes).save(temporary, format="PNG")


def choose_slices(marks: NDArray[np.uint8]) -> list[int]:
    """Return up to `MAX_TILES` slice numbers, evenly spread over the labelled part."""
    labelled = np.flatnonzero(marks.reshape(len(marks), -1).any(axis=1))
    pool = labelled if labelled.size else np.arange(len(marks))
    count = min(MAX_TILES, pool.size)
    return [int(pool[index]) for index in np.linspace(0, pool.size - 1, count).round().astype(int)]


def _aspect(spacing: tuple[float, float, float], axis: str) -> tuple[float, float]:
    """Return mm per pixel of a slice, (rows, columns)."""
    by_array_axis = spacing[::-1]
    kept = [by_array_axis[index] for index in range(3) if index != ARRAY_AXIS[axis]]
    return kept[0], kept[1]


def _grey(slice_: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    scaled = (slice_.astype(np.float32) - low) / max(high - low, 1e-6)
    return np.asarray(np.clip(scaled, 0, 1) * 255, dtype=np.uint8)


def _tile(
    grey: NDArray[np.uint8],
    marks: NDArray[np.uint8],
    classes: tuple[ClassSpec, ...],
    aspect: tuple[float, float],
    caption: str,
) -> Image.Image:
    height, width = grey.shape[0] * aspect[0], grey.shape[1] * aspect[1]
    scale = _TILE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    pixels = np.asarray(image).astype(np.float32)
    big = np.asarray(Image.fromarray(marks).resize(size, Image.Resampling.NEAREST))
    for value in range(1, len(classes)):
        area = big == value
        colour = np.array(_rgb(classes[value].colour), np.float32)
        pixels[area] = (1 - _FILL) * pixels[area] + _FILL * colour
        pixels[area & _edge(area)] = colour
    tile = Image.new("RGB", (_TILE, _TILE), _BACKGROUND)
    shown = Image.fromarray(pixels.round().astype(np.uint8))
    tile.paste(shown, ((_TILE - size[0]) // 2, (_TILE - size[1]) // 2))
    draw = ImageDraw.Draw(tile)
    draw.text((7, 5), caption, fill=_TEXT, font=_font(13), stroke_width=2, stroke_fill=(0, 0, 0))
    return tile


def _edge(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of an area that touch something else."""
    padded = np.pad(area, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return ~inside


def _sheet(tiles: list[Image.Image], title: str, classes: tuple[ClassSpec, ...]) -> Image.Image:
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    grid_width = columns * _TILE + (columns + 1) * _GAP
    legend = _legend_lines(classes, max(grid_width, 2 * _TILE))
    width = max(grid_width, 2 * _TILE)
    top, line = 34, 24
    height = top + rows * (_TILE + _GAP) + _GAP + line * len(legend) + 8
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP + 4, 8), title, fill=_TEXT, font=_font(17))
    for index, tile in enumerate(tiles):
        x = _GAP + (index % columns) * (_TILE + _GAP)
        sheet.paste(tile, (x, top + (index // columns) * (_TILE + _GAP)))
    y = top + rows * (_TILE + _GAP) + _GAP
    for entries in legend:
        x = _GAP + 4
        for entry in entries:
            draw.rounded_rectangle((x, y + 3, x + 14, y + 17), 3, fill=entry.colour)
            draw.text((x + 20, y + 2), entry.name, fill=_TEXT, font=_font(14))
            x += _entry_width(entry)
        y += line
    return sheet


def _entry_width(entry: ClassSpec) -> int:
    return 20 + round(_font(14).getlength(entry.name)) + 22


def _legend_lines(classes: tuple[ClassSpec, ...], width: int) -> list[list[ClassSpec]]:
    """Break the legend into lines that fit."""
    lines: list[list[ClassSpec]] = [[]]
    used = 0
    for entry in classes[1:]:
        needed = _entry_width(entry)
        if lines[-1] and used + needed > width - 2 * _GAP:
            lines.append([])
            used = 0
        lines[-1].append(entry)
        used += needed
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
