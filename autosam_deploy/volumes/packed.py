"""Compressed voxels of NRRD and MetaImage files, checked before ITK reads them.

ITK's MetaImage reader returns garbage for a damaged stream after a note on stderr, and its NRRD
reader leaves the checksum out. Both streams carry one, so it is looked at here, in bounded memory.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import BinaryIO

from autosam_deploy.errors import VolumeError

_CHUNK = 1 << 20
_HEADER = 1 << 16
_EITHER_GZIP_OR_ZLIB = 47  # zlib's window bits with the container recognised by its first bytes

#: Bytes a value by the formats' names for types; of others only the checksum is looked at.
_META_BYTES = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}
_NRRD_BYTES = {
    "signed char": 1,
    "unsigned char": 1,
    "uint8": 1,
    "int8": 1,
    "short": 2,
    "unsigned short": 2,
    "int16": 2,
    "uint16": 2,
    "int": 4,
    "unsigned int": 4,
    "int32": 4,
    "uint32": 4,
    "float": 4,
    "double": 8,
}


def check_metaimage(path: Path) -> None:
    """Refuse a MetaImage file (.mha, or .mhd with its data file) whose compressed voxels are bad.

    Raises:
        VolumeError: the stream is damaged, or not as long as the header says.
    """
    with path.open("rb") as stream:
        text = stream.read(_HEADER)
        fields: dict[str, str] = {}
        at = 0
        while at < len(text) and "ElementDataFile" not in fields:
            line, _, _ = text[at:].partition(b"\n")
            at += len(line) + 1
            key, _, value = line.decode("latin-1").partition("=")
            fields[key.strip()] = value.strip()
        if fields.get("CompressedData", "").lower() != "true":
            return
        size = _META_BYTES.get(fields.get("ElementType", ""), 0)
        parts = _product(fields.get("ElementNumberOfChannels", "1"))
        expected = size * parts * _product(fields.get("DimSize", ""))
        name = fields.get("ElementDataFile", "")
        if name.upper() == "LOCAL":
            stream.seek(at)
            _check(path, stream, expected)
        elif (data := path.parent / name).is_file():
            with data.open("rb") as beside:
                _check(path, beside, expected)


def check_nrrd(path: Path) -> None:
    """Refuse an NRRD file whose gzip-compressed voxels are damaged.

    Raises:
        VolumeError: the stream is damaged, or not as long as the header says.
    """
    with path.open("rb") as stream:
        fields: dict[str, str] = {}
        while (line := stream.readline(_HEADER).strip()) and stream.tell() < _HEADER:
            key, _, value = line.decode("latin-1").partition(":")
            fields[key.strip().lower()] = value.strip()
        detached = "data file" in fields or "datafile" in fields
        if fields.get("encoding", "").lower() in ("gzip", "gz") and not detached:
            size = _NRRD_BYTES.get(fields.get("type", "").lower(), 0)
            _check(path, stream, size * _product(fields.get("sizes", "")))


def _product(text: str) -> int:
    """Multiply the numbers of a header's line; 0 if it is none (the reader says what is wrong)."""
    words = text.split()
    return math.prod(map(int, words)) if words and all(w.isdecimal() for w in words) else 0


def _check(path: Path, stream: BinaryIO, expected: int) -> None:
    """Decompress to nowhere; `expected` is the number of bytes, 0 if unknown."""
    unpacker = zlib.decompressobj(_EITHER_GZIP_OR_ZLIB)
    count, packed = 0, b""
    try:
        while not unpacker.eof:
            packed = unpacker.unconsumed_tail or stream.read(_CHUNK)
            # Without input there may still be output that the last call held back.
            values = unpacker.decompress(packed, _CHUNK)
            if not packed and not values:
                break
            count += len(values)
    except zlib.error as error:
        raise _damaged(path, f"a damaged stream of voxels ({error})") from error
    if not unpacker.eof:
        raise _damaged(path, "compressed voxels that end early")
    if expected and count != expected:
        raise _damaged(path, f"{count} bytes of voxels where its header says {expected}")


def _damaged(path: Path, got: str) -> VolumeError:
    return VolumeError(
        f"volume '{path}' cannot be read", got=got, expected="a complete file", todo="copy it again"
    )
