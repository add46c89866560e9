"""Folders of PNG slices, as the reference implementation writes and reads its data sets.

Its layout (dataset/prepare_dataset/convert_to_imgs.py): `imgs/VOLUME/NAME_000.png`, grey values as
RGB, and `annotations/VOLUME/NAME_000.png` with the labels as pixel values. There is no geometry,
and slices may be missing where there was nothing to label.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autosam_deploy.errors import VolumeError

_SUFFIX = ".png"

#: What Pillow raises for a damaged file, by what is damaged.
_DAMAGED = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

#: Where a PNG file says how many bits a channel has (its header comes first, always).
_BITS_AT = 24

#: Pillow stretches grey values of 2 and 4 bits to 0..255, by these factors.
_STRETCHED = {b"\x02": 85, b"\x04": 17}

_OPAQUE = 255


def png_folders(folder: Path) -> dict[str, Path]:
    """Return the folders below `folder` that hold PNG files themselves, by name."""
    return {entry.name: entry for entry in entries(folder) if entry.is_dir() and png_slices(entry)}


def png_slices(folder: Path) -> dict[str, Path]:
    """Return the PNG files of a folder by name, slice 2 before slice 10."""
    found = [path for path in entries(folder) if path.suffix.lower() == _SUFFIX]
    return {path.name: path for path in sorted(found, key=lambda path: natural_key(path.name))}


def entries(folder: Path) -> list[Path]:
    """Return what a folder holds, without hidden files.

    Raises:
        VolumeError: it cannot be read.
    """
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise VolumeError(f"'{folder}' cannot be read", got=error.strerror) from error


def natural_key(name: str) -> tuple[tuple[tuple[int, str], ...], str]:
    """Return a key that sorts the numbers in names by value, and equal ones by the name."""
    # The even parts are text and the odd ones digits, so that like is compared with like.
    parts = re.split(r"(\d+)", name)
    return tuple(
        (int(p) if n % 2 else 0, p if n % 2 == 0 else "") for n, p in enumerate(parts)
    ), name


def read_slices(folder: Path, *, label: bool = False) -> NDArray[np.uint16]:
    """Read a volume's slices, slice 2 before slice 10.

    Args:
        folder: of PNG files.
        label: see `read_grey`.

    Returns:
        Values (N, H, W).

    Raises:
        VolumeError: as `read_grey`; slices that differ in size.
    """
    slices: list[NDArray[np.uint16]] = []
    for path in png_slices(folder).values():
        slices.append(read_grey(path, label=label))
        if slices[-1].shape != slices[0].shape:
            raise VolumeError(
                f"slice '{path}' has another size than the first of its volume",
                got=size_of(slices[-1]),
                expected=size_of(slices[0]),
            )
    return np.stack(slices)


def size_of(slice_: NDArray[np.uint16]) -> str:
    """Return the size of a slice (H, W) as image programs write it."""
    height, width = slice_.shape
    return f"{width}x{height} pixels"


def read_grey(path: Path, *, label: bool = False) -> NDArray[np.uint16]:
    """Read one slice as it is stored.

    Args:
        path: PNG with grey values, in one channel or in three equal ones, or with a palette.
        label: the values are labels: of a palette the index counts, not the colour.

    Returns:
        Values (H, W).

    Raises:
        VolumeError: damaged or no PNG, colour, transparency, 16 bits in several channels.
    """
    try:
        with path.open("rb") as stream:
            bits = stream.read(_BITS_AT + 1)[-1:]
        with Image.open(path, formats=["PNG"]) as image:
            mode = image.mode
            if mode == "P" and not label:
                mode = "RGBA" if "transparency" in image.info else "RGB"
            array = np.asarray(image if mode == image.mode else image.convert(mode))
    except _DAMAGED as error:
        raise VolumeError(
            f"slice '{path}' cannot be read", got=str(error), expected="a complete PNG file"
        ) from error
    if array.ndim == 3:
        if bits == b"\x10":
            # Of 16 bits a channel Pillow drops the lower 8 without a word.
            raise VolumeError(
                f"slice '{path}' has several channels of 16 bits",
                expected="one grey channel, or three equal ones of 8 bits",
            )
        return _grey(path, mode, array).astype(np.uint16)
    stretch = _STRETCHED.get(bits, 1) if mode == "L" else 1
    return array.astype(np.uint16) // np.uint16(stretch)


def _grey(path: Path, mode: str, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the one channel that three equal ones, or a channel and alpha, stand for."""
    if mode in ("LA", "RGBA") and (array[..., -1] != _OPAQUE).any():
        raise VolumeError(
            f"slice '{path}' is transparent in places", expected="grey values, all opaque"
        )
    grey = array[..., 0]
    if mode != "LA" and (coloured := (array[..., :3] != grey[..., None]).any(axis=-1)).any():
        row, column = np.argwhere(coloured)[0]
        raise VolumeError(
            f"slice '{path}' has colours",
            got=f"RGB {tuple(array[row, column, :3].tolist())} at row {row}, column {column}",
            expected="grey values: one channel, or three equal ones",
        )
    return grey
