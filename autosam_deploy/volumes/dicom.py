"""DICOM series: which files are one volume, and whether all of its slices are there.

ITK's series reader stacks whatever it is given: it drops files that it cannot parse, takes the
pixel size and the pixel type of the first file for all, and calls a sheared stack a straight one,
all without a word. So what it assumes is checked here first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.errors import VolumeError
from autosam_deploy.volumes.itk import quiet_itk, simpleitk

#: Gaps between slices may differ by this share or by this many mm; scanners round positions.
_RELATIVE_GAP, _ABSOLUTE_GAP = 0.01, 0.05

#: Below this many mm two images lie at one position.
_SAME_POSITION = 1e-4

#: A stack may lean by this much per mm of height (0.06 degrees: rounded cosines, not a tilt).
_LEAN = 1e-3

_SUFFIXES = (".dcm", ".ima")
_PREAMBLE = 128


@dataclass(frozen=True)
class Series:
    """Files of one series in slice order; `ignored` counts the folder's other files.

    mixed: the files have different pixel types, so that the first one's cannot hold all.
    """

    files: tuple[str, ...]
    ignored: int
    mixed: bool


@dataclass(frozen=True)
class _Slice:
    """Where one file's slice lies (mm, LPS) and what its pixels are."""

    position: NDArray[np.float64]
    cosines: NDArray[np.float64]
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    pixel: int


def is_dicom_folder(folder: Path) -> bool:
    """Tell whether a folder holds DICOM files itself (not in folders below it)."""
    with quiet_itk():
        return bool(simpleitk().ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def is_dicom_file(path: Path) -> bool:
    """Tell whether a file starts as DICOM files do."""
    return _start(path)[_PREAMBLE : _PREAMBLE + 4] == b"DICM"


def find_series(folder: Path) -> Series:
    """Return a folder's one DICOM series.

    Files that are no images of it (notes, an index, reports) are counted; one that should be but
    cannot be read is an error, since the volume would lack a slice.

    Raises:
        VolumeError: no series, more than one, a damaged file, a missing slice, uneven spacing,
            several images at one position, slices that differ in size or orientation or that are
            not stacked straight.
    """
    reader = simpleitk().ImageSeriesReader
    with quiet_itk():
        found: tuple[str, ...] = reader.GetGDCMSeriesIDs(str(folder))
        files = {uid: reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in found}
    if not found:
        raise VolumeError(
            f"no DICOM series in '{folder}'",
            got=f"{sum(1 for _ in folder.iterdir())} entries, none a DICOM image",
            expected="the files of one series",
        )
    if len(found) > 1:
        listed = ", ".join(f"{uid} ({len(names)} files)" for uid, names in files.items())
        raise VolumeError(
            f"'{folder}' holds {len(found)} DICOM series",
            got=listed,
            expected="one",
            todo="put each series into a folder of its own",
        )
    names: tuple[str, ...] = files[found[0]]
    ignored = _count_ignored(folder, names)
    slices = [_read_slice(name) for name in names] if len(names) > 1 else []
    if slices:
        _check_alike(folder, names, slices)
        _check_spacing(folder, names, slices)
    return Series(names, ignored, mixed=len({entry.pixel for entry in slices}) > 1)


def _count_ignored(folder: Path, names: tuple[str, ...]) -> int:
    """Count files outside the series; refuse one that was meant to be in it."""
    inside = {Path(name).name for name in names}
    others = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in inside and not path.name.startswith(".")
    ]
    kind = _storage_class(Path(names[0]))
    for path in others:
        if is_dicom_file(path):
            # Of another class are indexes, reports, presentation states: rightly not in a volume.
            damaged = _storage_class(path) in (kind, None)
        else:
            damaged = path.suffix.lower() in _SUFFIXES
        if damaged:
            raise VolumeError(
                f"DICOM file '{path}' cannot be read",
                got=f"{path.stat().st_size} bytes that are no complete image",
                expected="every file of the series intact",
                todo="fetch the series again",
            )
    return len(others)


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(1024)
    except OSError as error:
        raise VolumeError(f"'{path}' cannot be read", got=error.strerror) from error


def _storage_class(path: Path) -> bytes | None:
    """Return MediaStorageSOPClassUID (0002,0002) from the file's meta group, explicit VR."""
    start = _start(path)
    at = start.find(b"\x02\x00\x02\x00UI")
    if at < 0:
        return None
    length = int.from_bytes(start[at + 6 : at + 8], "little")
    return start[at + 8 : at + 8 + length].rstrip(b"\0 ")


def _read_slice(path: str) -> _Slice:
    reader = simpleitk().ImageFileReader()
    reader.SetFileName(path)
    try:
        with quiet_itk():
            reader.ReadImageInformation()
        position, cosines = (
            np.array([float(part) for part in reader.GetMetaData(tag).split("\\")])
            for tag in ("0020|0032", "0020|0037")
        )
    except (RuntimeError, ValueError) as error:
        raise VolumeError(
            f"DICOM file '{path}' does not say where it lies",
            expected="ImagePositionPatient and ImageOrientationPatient",
        ) from error
    size, spacing = reader.GetSize()[:2], reader.GetSpacing()[:2]
    return _Slice(position, cosines, size, spacing, reader.GetPixelID())


def _check_alike(folder: Path, names: tuple[str, ...], slices: list[_Slice]) -> None:
    first = slices[0]
    for name, entry in zip(names, slices, strict=True):
        if not np.allclose(entry.cosines, first.cosines, atol=1e-4):
            raise VolumeError(
                f"slices of '{folder}' have different orientations", expected="parallel slices"
            )
        same = np.allclose(entry.spacing, first.spacing, rtol=1e-4, atol=0)
        if entry.size != first.size or not same:
            raise VolumeError(
                f"slices of '{folder}' differ",
                got=f"{_grid(entry)} in {Path(name).name}, {_grid(first)} in {Path(names[0]).name}",
                expected="one size",
            )


def _grid(entry: _Slice) -> str:
    (width, height), (x, y) = entry.size, entry.spacing
    return f"{width}x{height} pixels of {x:.4g}x{y:.4g} mm"


def _check_spacing(folder: Path, names: tuple[str, ...], slices: list[_Slice]) -> None:
    cosines = slices[0].cosines
    normal = np.cross(cosines[:3], cosines[3:])
    positions = np.array([entry.position for entry in slices])
    heights = positions @ normal
    gaps = np.abs(np.diff(heights))
    if (gaps < _SAME_POSITION).any():
        raise VolumeError(
            f"'{folder}' holds several images at one position",
            got=f"{len(names)} images at {len(names) - int((gaps < _SAME_POSITION).sum())}",
            expected="one a position",
            todo="put each time point, echo or phase into a folder of its own",
        )
    _check_gaps(folder, names, gaps)
    rise = heights - heights[0]
    aside = np.linalg.norm(positions - positions[0] - rise[:, None] * normal, axis=1)
    if (aside > _ABSOLUTE_GAP + _LEAN * np.abs(rise)).any():
        raise VolumeError(
            f"slices of '{folder}' are not stacked straight",
            got=f"{aside.max():.2f} mm to the side over {np.abs(rise).max():.2f} mm",
            expected="a stack along the slices' normal (no tilted gantry)",
            todo="resample it to a straight stack",
        )


def _check_gaps(folder: Path, names: tuple[str, ...], gaps: NDArray[np.float64]) -> None:
    # The lower of two medians: with a slice missing from a short stack it is the true one.
    usual = float(np.percentile(gaps, 50, method="lower"))
    tolerance = max(_RELATIVE_GAP * usual, min(_ABSOLUTE_GAP, usual / 4))
    odd = np.abs(gaps - usual) > tolerance
    if not odd.any():
        return
    index = int(np.argmax(odd))
    gap = float(gaps[index])
    where = f"{gap:.2f} mm between {Path(names[index]).name} and {Path(names[index + 1]).name}"
    multiple = round(gap / usual)
    missing = multiple >= 2 and abs(gap - multiple * usual) <= _RELATIVE_GAP * gap + tolerance
    raise VolumeError(
        f"slices are missing in '{folder}'" if missing else f"uneven slices in '{folder}'",
        got=f"{where}; {int(odd.sum())} odd gap{'s' if odd.sum() > 1 else ''} in all",
        expected=f"{usual:.2f} mm everywhere",
        todo="fetch the whole series again" if missing else "resample it to even spacing",
    )
