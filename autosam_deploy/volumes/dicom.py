"""DICOM series: which files are one volume, and whether all of its slices are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autosam_deploy.errors import VolumeError
from autosam_deploy.volumes.itk import quiet_itk, simpleitk

#: Gaps between slices may differ by this share or by this many mm; scanners round positions.
_RELATIVE_GAP, _ABSOLUTE_GAP = 0.01, 0.05


def is_dicom_folder(folder: Path) -> bool:
    """Tell whether a folder holds DICOM files itself (not in folders below it)."""
    with quiet_itk():
        return bool(simpleitk().ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def series_files(folder: Path) -> tuple[str, ...]:
    """Return the files of a folder's one DICOM series, in slice order.

    Raises:
        VolumeError: no series, more than one, a missing slice or uneven spacing.
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
    _check_spacing(folder, names)
    return names


def _position(path: str) -> tuple[float, tuple[float, ...]]:
    """Return a slice's position along the stack's normal in mm, and its orientation cosines."""
    reader = simpleitk().ImageFileReader()
    reader.SetFileName(path)
    with quiet_itk():
        reader.ReadImageInformation()
    try:
        position, cosines = (
            tuple(float(part) for part in reader.GetMetaData(tag).split("\\"))
            for tag in ("0020|0032", "0020|0037")
        )
    except (RuntimeError, ValueError) as error:
        raise VolumeError(
            f"DICOM file '{path}' does not say where it lies",
            expected="ImagePositionPatient and ImageOrientationPatient",
        ) from error
    normal = np.cross(cosines[:3], cosines[3:])
    return float(np.dot(position, normal)), cosines


def _check_spacing(folder: Path, names: tuple[str, ...]) -> None:
    if len(names) < 2:
        return
    found = [_position(name) for name in names]
    if any(not np.allclose(cosines, found[0][1], atol=1e-4) for _, cosines in found):
        raise VolumeError(
            f"slices of '{folder}' have different orientations", expected="parallel slices"
        )
    positions = np.array([position for position, _ in found])
    gaps = np.abs(np.diff(positions))
    usual = float(np.median(gaps))
    odd = np.abs(gaps - usual) > max(_ABSOLUTE_GAP, _RELATIVE_GAP * usual)
    if not odd.any():
        return
    index = int(np.argmax(odd))
    gap = float(gaps[index])
    where = f"{gap:.2f} mm between {Path(names[index]).name} and {Path(names[index + 1]).name}"
    multiple = round(gap / usual) if usual > 0 else 0
    missing = multiple >= 2 and abs(gap - multiple * usual) <= _RELATIVE_GAP * gap + _ABSOLUTE_GAP
    raise VolumeError(
        f"slices are missing in '{folder}'" if missing else f"uneven slices in '{folder}'",
        got=f"{where}; {int(odd.sum())} odd gaps in all",
        expected=f"{usual:.2f} mm everywhere",
        todo="fetch the whole series again" if missing else "resample it to even spacing",
    )
