"""Reading volumes: one 3-D scalar image from a file or a DICOM series folder, or a clear no."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autosam_deploy.errors import VolumeError
from autosam_deploy.volumes.dicom import Series, find_series
from autosam_deploy.volumes.itk import quiet_itk, simpleitk
from autosam_deploy.volumes.nifti import check_payload, not_finite
from autosam_deploy.volumes.packed import check_metaimage, check_nrrd
from autosam_deploy.volumes.volume import Geometry, Volume

#: What SimpleITK reads as one 3-D image in one file.
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")

_EXPECTED = "a complete NIfTI, NRRD or MetaImage file, or a DICOM series folder"

#: ITK's readers that are let in: others lose geometry (TIFF, PNG) or NaN (pairs of NIfTI files).
_READERS = ("NiftiImageIO", "NrrdImageIO", "MetaImageIO", "GDCMImageIO")


def case_name(path: Path) -> str:
    """Return a file's or folder's name without the suffix of an image."""
    # "." and ".." have names only where they lie.
    name = path.name if path.name not in ("", "..") else path.resolve().name
    for suffix in (*SUFFIXES, ".dcm"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


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
    series = None
    try:
        if source.is_dir():
            series = find_series(source)
        else:
            _check_file(source)
    except OSError as error:
        raise VolumeError(
            f"volume '{source}' cannot be read", got=error.strerror or str(error)
        ) from error
    image = _read_image(source, series)
    _check_image(image, source)
    array = simpleitk().GetArrayFromImage(image)
    if array.dtype.kind == "f" and (bad := array.size - int(np.isfinite(array).sum())):
        raise not_finite(source, bad)
    notes: tuple[str, ...] = ()
    if series is not None and series.ignored:
        notes = (f"{series.ignored} files of the folder are no images of the series",)
    return Volume(array, geometry_of(image), case_name(source), notes)


def read_labels(path: Path | str) -> Volume:
    """Read a label volume as uint8.

    Labels stored as floats are accepted where every value is a whole number.

    Raises:
        VolumeError: as `read_volume`; values that are negative, over 255 or not whole.
    """
    return as_labels(read_volume(path), f"'{path}'")


def as_labels(volume: Volume, what: str) -> Volume:
    """Return a volume of whole numbers as uint8.

    Args:
        volume: of any dtype.
        what: how the message calls it.

    Raises:
        VolumeError: values that are negative, over 255 or not whole.
    """
    labels = volume.array.astype(np.uint8)
    if not np.array_equal(labels, volume.array):
        wrong = volume.array[labels != volume.array]
        raise VolumeError(
            f"{what} is no label volume",
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


def _check_file(source: Path) -> None:
    """Refuse a file of a format that loses something, or whose voxels are not all there."""
    if source.stat().st_size == 0:
        raise VolumeError(
            f"volume '{source}' cannot be read", got="an empty file (0 bytes)", expected=_EXPECTED
        )
    nifti = source.name.lower().endswith((".nii", ".nii.gz"))
    if nifti:
        check_payload(source)
    reader = simpleitk().ImageFileReader.GetImageIOFromFileName(str(source))
    if reader and (reader not in _READERS or (reader == "NiftiImageIO" and not nifti)):
        raise VolumeError(
            f"'{source}' is no file of a volume",
            got=f"the format of ITK's {reader}",
            expected=_EXPECTED,
            todo="convert it to .nii.gz",
        )
    if reader == "MetaImageIO":
        check_metaimage(source)
    elif reader == "NrrdImageIO":
        check_nrrd(source)


def _read_image(source: Path, series: Series | None) -> Any:
    sitk = simpleitk()
    try:
        with quiet_itk():
            if series is None:
                return sitk.ReadImage(str(source))
            reader = sitk.ImageSeriesReader()
            reader.SetFileNames(list(series.files))
            if series.mixed:
                # Left alone, ITK squeezes every slice into the type of the first.
                reader.SetOutputPixelType(sitk.sitkFloat64)
            return reader.Execute()
    except RuntimeError as error:
        raise VolumeError(
            f"volume '{source}' cannot be read", got=reason_of(error), expected=_EXPECTED
        ) from error


def reason_of(error: RuntimeError) -> str:
    """Return the end of an ITK report, which names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # MetaIO and others put what they were doing on one line and a bare errno on the next.
    last = lines[-2:] if lines and lines[-1].startswith("Reason:") else lines[-1:]
    return " ".join(last)[-300:] or "no reason given"


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
