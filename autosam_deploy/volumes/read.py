"""Reading volumes: one 3-D scalar image from a file or a DICOM series folder, or a clear no."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autosam_deploy.errors import VolumeError
from autosam_deploy.volumes.dicom import series_files
from autosam_deploy.volumes.itk import quiet_itk, simpleitk
from autosam_deploy.volumes.nifti import check_payload, not_finite
from autosam_deploy.volumes.volume import Geometry, Volume

#: What SimpleITK reads as one 3-D image in one file.
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")


def case_name(path: Path) -> str:
    """Return a file's or folder's name without the suffix of an image."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def read_volume(path: Path | str) -> Volume:
    """Read a volume with its pixel type and geometry as they are.

    Args:
        path: NIfTI, NRRD or MetaImage file, or a folder that holds one DICOM series.

    Returns:
        Array (z, y, x) in the file's own dtype.

    Raises:
        VolumeError: missing, unreadable, not 3-D, not scalar, empty, not finite; a DICOM folder
            without exactly one series of evenly spaced slices.
    """
    source = Path(path)
    if not source.exists():
        raise VolumeError(f"no volume at '{source}'", todo="check the path")
    if source.name.lower().endswith((".nii", ".nii.gz")):
        check_payload(source)
    image = _read_image(source, series_files(source) if source.is_dir() else None)
    _check_image(image, source)
    array = simpleitk().GetArrayFromImage(image)
    if array.dtype.kind == "f" and (bad := array.size - int(np.isfinite(array).sum())):
        raise not_finite(source, bad)
    return Volume(array, geometry_of(image), case_name(source))


def read_labels(path: Path | str) -> Volume:
    """Read a label volume as uint8.

    Labels stored as floats are accepted where every value is a whole number.

    Raises:
        VolumeError: as `read_volume`; values that are negative, over 255 or not whole.
    """
    volume = read_volume(path)
    labels = volume.array.astype(np.uint8)
    if not np.array_equal(labels, volume.array):
        wrong = volume.array[labels != volume.array]
        raise VolumeError(
            f"'{path}' is no label volume",
            got=f"value {wrong.flat[0]} in {wrong.size} voxels",
            expected="whole numbers 0..255",
        )
    return Volume(labels, volume.geometry, volume.name)


def geometry_of(image: Any) -> Geometry:
    """Return the geometry of a 3-D SimpleITK image."""
    spacing, origin = image.GetSpacing(), image.GetOrigin()
    return Geometry(
        spacing=(spacing[0], spacing[1], spacing[2]),
        origin=(origin[0], origin[1], origin[2]),
        direction=tuple(image.GetDirection()),
    )


def _read_image(source: Path, series: Sequence[str] | None) -> Any:
    sitk = simpleitk()
    try:
        with quiet_itk():
            if series is None:
                return sitk.ReadImage(str(source))
            reader = sitk.ImageSeriesReader()
            reader.SetFileNames(list(series))
            return reader.Execute()
    except RuntimeError as error:
        raise VolumeError(
            f"volume '{source}' cannot be read",
            got=_reason(error),
            expected="a complete NIfTI, NRRD or MetaImage file, or a DICOM series folder",
        ) from error


def _reason(error: RuntimeError) -> str:
    """Return the last sentence of an ITK report, which names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no reason given"


def _check_image(image: Any, source: Path) -> None:
    size = image.GetSize()
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise VolumeError(
            f"volume '{source}' is not scalar",
            got=f"{image.GetNumberOfComponentsPerPixel()} components a voxel (colour or vector)",
            expected="one grey value a voxel",
        )
    if "complex" in image.GetPixelIDTypeAsString():
        raise VolumeError(f"volume '{source}' is complex", expected="real voxels")
    if image.GetDimension() != 3:
        raise VolumeError(
            f"volume '{source}' is not 3-D",
            got=f"{image.GetDimension()}-D of size {'x'.join(map(str, size))}",
            expected="3-D; one time point, one stack of slices",
            todo="split time points or stack slices into a volume first",
        )
    if 0 in size:
        raise VolumeError(f"volume '{source}' is empty", got=f"size {size}")
