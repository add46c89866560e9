"""What ITK's NIfTI reader does not tell: voxels that are not finite, and files that end early.

It replaces NaN and infinity by zeros, fills what is missing at the end of a file, and takes 1 mm
for a voxel size of 0, all without a word. So header and payload are looked at here, in one pass
with bounded memory.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from autosam_deploy.errors import VolumeError

_CHUNK = 1 << 22
_GZIP_MAGIC = b"\x1f\x8b"

#: NIfTI datatype code -> numpy letter of the floating types.
_FLOATS = {16: "f4", 64: "f8", 32: "f4", 1792: "f8"}


@dataclass(frozen=True)
class _Header:
    order: str
    dims: tuple[int, ...]
    spacing: tuple[float, ...]
    datatype: int
    offset: int
    bytes: int


def check_payload(path: Path) -> None:
    """Refuse a NIfTI file that ends early, holds voxels that are not finite, or lacks their size.

    A file that is no NIfTI at all is left to the reader, which says so.

    Args:
        path: `.nii` or `.nii.gz` (told apart by content).

    Raises:
        VolumeError: as above.
    """
    try:
        with _open(path) as stream:
            header = _read_header(stream)
            if header is not None:
                _check_header(path, header)
                _check(path, stream, header)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(
            f"volume '{path}' cannot be read",
            got=f"a damaged gzip stream ({error})",
            expected="a complete NIfTI, NRRD or MetaImage file, or a DICOM series folder",
        ) from error


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        packed = stream.read(2) == _GZIP_MAGIC
    return cast("BinaryIO", gzip.open(path)) if packed else path.open("rb")


def _read_header(stream: BinaryIO) -> _Header | None:
    """Parse the few fields that are needed (nifti1.h, nifti2.h); None if it is no NIfTI."""
    start = stream.read(348)
    if len(start) < 348:
        return None
    for order in "<>":
        size = struct.unpack_from(f"{order}i", start, 0)[0]
        if size == 348:
            dims = struct.unpack_from(f"{order}8h", start, 40)
            spacing = struct.unpack_from(f"{order}3f", start, 80)
            datatype, bits = struct.unpack_from(f"{order}2h", start, 70)
            offset = int(struct.unpack_from(f"{order}f", start, 108)[0])
        elif size == 540:
            datatype, bits = struct.unpack_from(f"{order}2h", start, 12)
            dims = struct.unpack_from(f"{order}8q", start, 16)
            spacing = struct.unpack_from(f"{order}3d", start, 112)
            offset = struct.unpack_from(f"{order}q", start, 168)[0]
        else:
            continue
        if not 1 <= dims[0] <= 7:
            return None
        dims = dims[1 : dims[0] + 1]
        voxels = math.prod(max(1, dim) for dim in dims)
        return _Header(order, dims, spacing[: len(dims)], datatype, offset, voxels * bits // 8)
    return None


def _check_header(path: Path, header: _Header) -> None:
    if min(header.dims) < 1:
        raise VolumeError(
            f"volume '{path}' is empty",
            got=f"size {'x'.join(map(str, header.dims))}",
            expected="at least one voxel",
        )
    if not all(math.isfinite(size) and size != 0 for size in header.spacing):
        raise VolumeError(
            f"volume '{path}' does not say how large its voxels are",
            got=" x ".join(f"{size:g}" for size in header.spacing),
            expected="mm above 0 (pixdim)",
        )


def _check(path: Path, stream: BinaryIO, header: _Header) -> None:
    skip = max(0, header.offset - 348)
    while skip:
        found = stream.read(min(skip, _CHUNK))
        if not found:
            break
        skip -= len(found)
    left, bad = header.bytes, 0
    letter = _FLOATS.get(header.datatype)
    while left and (chunk := stream.read(min(left, _CHUNK))):
        left -= len(chunk)
        if letter is not None:
            whole = len(chunk) - len(chunk) % int(letter[1])
            values = np.frombuffer(chunk[:whole], f"{header.order}{letter}")
            bad += values.size - int(np.isfinite(values).sum())
    if left:
        raise VolumeError(
            f"volume '{path}' cannot be read",
            got=f"{header.bytes - left} bytes of voxels",
            expected=f"{header.bytes}: the file ends early",
            todo="copy it again",
        )
    if bad:
        raise not_finite(path, bad)


def not_finite(path: Path, count: int) -> VolumeError:
    """Return the error about voxels that are NaN or infinite."""
    return VolumeError(
        f"volume '{path}' holds voxels that are not finite",
        got=f"{count} NaN or infinite",
        todo="replace them before segmenting",
    )
