"""Preview pictures: slices with their labels on top, for a first look at a result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from autosam_deploy.files import atomic_file
from autosam_deploy.spec import ClassSpec
from autosam_deploy.volumes.orientation import View, view_along
from autosam_deploy.volumes.slices import ARRAY_AXIS, slices_along
from autosam_deploy.volumes.volume import Volume

MAX_TILES = 12
_WIDTH = 990  # pixels that a full row of tiles fills at most
_GAP = 6
_TOP, _LINE = 58, 24
_LONGEST_NAME = 40
_BACKGROUND = (18, 20, 24)
_TEXT = (232, 234, 237)
_MUTED = (154, 160, 166)
_FILL = 0.38  # opacity of a label's area; its outline is opaque

#: uint8 holds so many.
_LABELS = 256


@dataclass(frozen=True)
class _Entry:
    """One class of the legend."""

    text: str
    colour: str

    @property
    def width(self) -> int:
        return 20 + round(_font(14).getlength(self.text)) + 22


def write_preview(
    path: Path,
    volume: Volume,
    labels: NDArray[np.uint8],
    *,
    classes: tuple[ClassSpec, ...],
    axis: Literal["i", "j", "k"],
) -> None:
    """Write a PNG with up to 12 slices, their labels and a legend with the classes' millilitres.

    Slices are chosen evenly among those that hold a foreground label; without any, among all.
    They are turned as radiologists look at them (see `orientation.view_along`).

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
    view = view_along(volume.geometry, axis)
    low, high = np.percentile(stack, (0.5, 99.5))
    longest = _tile_side(len(chosen))
    size = _tile_size(view.turn(marks[0]).shape, _aspect(volume, axis, view), longest)
    tiles = []
    for index in chosen:
        grey, areas = _grey(stack[index], low, high), marks[index]
        tile = _tile(view.turn(grey), view.turn(areas), classes, size)
        tiles.append(_annotate(tile, f"{axis} = {index}", view))
    # Plane by plane: numpy counts in a copy of 8 bytes a voxel.
    counts = np.zeros(_LABELS, np.int64)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=_LABELS)
    legend = [
        _Entry(f"{_short(entry.name)}  {count * volume.voxel_ml:.4g} ml", entry.colour)
        for entry, count in zip(classes[1:], counts[1:], strict=False)
    ]
    with atomic_file(path) as temporary:
        _sheet(tiles, volume, legend).save(temporary, format="PNG")


def choose_slices(marks: NDArray[np.uint8]) -> list[int]:
    """Return up to `MAX_TILES` slice numbers, evenly spread over the labelled part."""
    labelled = np.flatnonzero(marks.any(axis=(1, 2)))
    pool = labelled if labelled.size else np.arange(len(marks))
    count = min(MAX_TILES, pool.size)
    return [int(pool[index]) for index in np.linspace(0, pool.size - 1, count).round().astype(int)]


def _tile_side(count: int) -> int:
    """Return the pixels of a tile's longer side: the fewer tiles, the larger."""
    if count <= 2:
        return 480
    return 322 if count in (3, 5, 6) else 240


def _aspect(volume: Volume, axis: str, view: View) -> tuple[float, float]:
    """Return mm per pixel of a slice as shown, (rows, columns)."""
    by_array_axis = volume.geometry.spacing[::-1]
    rows, columns = [by_array_axis[index] for index in range(3) if index != ARRAY_AXIS[axis]]
    return (columns, rows) if view.transpose else (rows, columns)


def _tile_size(
    shape: tuple[int, ...], aspect: tuple[float, float], longest: int
) -> tuple[int, int]:
    """Return a slice's (width, height) in pixels of the picture, true to scale."""
    height, width = shape[0] * aspect[0], shape[1] * aspect[1]
    scale = longest / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _grey(slice_: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    scaled = (slice_.astype(np.float32) - low) / max(high - low, 1e-6)
    return np.asarray(np.clip(scaled, 0, 1) * 255, dtype=np.uint8)


def _tile(
    grey: NDArray[np.uint8],
    marks: NDArray[np.uint8],
    classes: tuple[ClassSpec, ...],
    size: tuple[int, int],
) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(grey))
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC).convert("RGB"))
    pixels = pixels.astype(np.float32)
    areas = Image.fromarray(np.ascontiguousarray(marks))
    big = np.asarray(areas.resize(size, Image.Resampling.NEAREST))
    for value in range(1, len(classes)):
        area = big == value
        colour = np.array(_rgb(classes[value].colour), np.float32)
        pixels[area] = (1 - _FILL) * pixels[area] + _FILL * colour
        pixels[area & _edge(area)] = colour
    return Image.fromarray(pixels.round().astype(np.uint8))


def _edge(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of an area that touch something else."""
    padded = np.pad(area, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return ~inside


def _annotate(shown: Image.Image, caption: str, view: View) -> Image.Image:
    """Put a slice into its cell, with its number and the patient's sides."""
    # A cell is wide enough for the caption and the letters, however thin the slice.
    cell = max(shown.width, 84), max(shown.height, 60)
    tile = Image.new("RGB", cell, _BACKGROUND)
    tile.paste(shown, ((cell[0] - shown.width) // 2, (cell[1] - shown.height) // 2))
    draw = ImageDraw.Draw(tile)
    font = _font(13)
    for place, text, colour, anchor in (
        ((7, 5), caption, _TEXT, "la"),
        ((cell[0] // 2, 5), view.top, _MUTED, "ma"),
        ((7, cell[1] // 2), view.left, _MUTED, "lm"),
    ):
        draw.text(place, text, fill=colour, font=font, anchor=anchor, stroke_width=2, stroke_fill=0)
    return tile


def _sheet(tiles: list[Image.Image], volume: Volume, legend: list[_Entry]) -> Image.Image:
    tile_width, tile_height = tiles[0].size
    columns = min(len(tiles), max(1, (_WIDTH - _GAP) // (tile_width + _GAP)))
    rows = -(-len(tiles) // columns)
    # As many in each row as possible: 6 + 6 rather than 9 + 3.
    columns = -(-len(tiles) // rows)
    width = max(columns * (tile_width + _GAP) + _GAP, _WIDTH // 2)
    lines = _legend_lines(legend, width)
    height = _TOP + rows * (tile_height + _GAP) + _GAP + _LINE * len(lines) + 8
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP + 4, 8), _short(volume.name), fill=_TEXT, font=_font(17))
    draw.text((_GAP + 4, 34), _facts(volume), fill=_MUTED, font=_font(13))
    for index, tile in enumerate(tiles):
        x = _GAP + (index % columns) * (tile_width + _GAP)
        sheet.paste(tile, (x, _TOP + (index // columns) * (tile_height + _GAP)))
    y = _TOP + rows * (tile_height + _GAP) + _GAP
    for entries in lines:
        x = _GAP + 4
        for entry in entries:
            draw.rounded_rectangle((x, y + 3, x + 14, y + 17), 3, fill=entry.colour)
            draw.text((x + 20, y + 2), entry.text, fill=_TEXT, font=_font(14))
            x += entry.width
        y += _LINE
    return sheet


def _facts(volume: Volume) -> str:
    size = " x ".join(str(count) for count in volume.array.shape[::-1])
    return f"{size} voxels of {' x '.join(f'{mm:.3g}' for mm in volume.geometry.spacing)} mm"


def _legend_lines(legend: list[_Entry], width: int) -> list[list[_Entry]]:
    """Break the legend into lines that fit."""
    lines: list[list[_Entry]] = [[]]
    used = 0
    for entry in legend:
        if lines[-1] and used + entry.width > width - 2 * _GAP:
            lines.append([])
            used = 0
        lines[-1].append(entry)
        used += entry.width
    return lines


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
