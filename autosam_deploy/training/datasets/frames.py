"""One time point of a 4-D file, as M&Ms stores its cine series, as a 3-D volume in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autosam_deploy.errors import VolumeError
from autosam_deploy.training.datasets.dataset import Pair
from autosam_deploy.volumes.itk import quiet_itk, simpleitk
from autosam_deploy.volumes.nifti import check_payload
from autosam_deploy.volumes.read import (
    as_labels,
    case_name,
    geometry_of,
    read_labels,
    read_volume,
    reason_of,
)
from autosam_deploy.volumes.volume import Volume


def read_pair(case: Pair) -> tuple[Volume, Volume]:
    """Read the image and the labels of a case, of its time point where the files are 4-D.

    Returns:
        Image (z, y, x) in the file's own dtype, labels (z, y, x) as uint8.

    Raises:
        VolumeError: as `read_volume`, `read_labels` and `read_frame`.
    """
    if case.frame is None:
        return read_volume(case.image), read_labels(case.label)
    labels = as_labels(read_frame(case.label, case.frame), case.where)
    return read_frame(case.image, case.frame), labels


def read_frame(path: Path, frame: int) -> Volume:
    """Read one time point of a 4-D NIfTI file.

    Args:
        path: `.nii` or `.nii.gz`.
        frame: counted from 0.

    Returns:
        Array (z, y, x) in the file's own dtype; its geometry is that of the file's first three
        axes.

    Raises:
        VolumeError: missing, unreadable, not 4-D, not scalar, not finite (in any frame), no such
            frame.
    """
    if not path.is_file():
        raise VolumeError(f"no volume at '{path}'", todo="check the path")
    check_payload(path)
    reader = _open(path)
    try:
        with quiet_itk():
            size = list(reader.GetSize())
            _check(path, size, reader.GetNumberOfComponents(), frame)
            reader.SetExtractSize([*size[:3], 0])
            reader.SetExtractIndex([0, 0, 0, frame])
            image = reader.Execute()
    except RuntimeError as error:
        raise VolumeError(f"volume '{path}' cannot be read", got=reason_of(error)) from error
    return Volume(simpleitk().GetArrayFromImage(image), geometry_of(image), case_name(path))


def count_dimensions(path: Path) -> int:
    """Return how many dimensions an image file has, from its header alone.

    Raises:
        VolumeError: it cannot be read.
    """
    return int(_open(path).GetDimension())


def _open(path: Path) -> Any:
    """Return ITK's reader of a file whose header it has read."""
    reader = simpleitk().ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise VolumeError(f"volume '{path}' cannot be read", got=reason_of(error)) from error
    return reader


def _check(path: Path, size: list[int], components: int, frame: int) -> None:
    if len(size) != 4 or components != 1:
        raise VolumeError(
            f"volume '{path}' holds no time points",
            got=f"{len(size)}-D of size {'x'.join(map(str, size))}"
            + (f" with {components} components a voxel" if components != 1 else ""),
            expected="4-D, one grey value a voxel",
        )
    if not 0 <= frame < size[3]:
        raise VolumeError(
            f"no such time point in '{path}'",
            got=f"frame {frame}",
            expected=f"0..{size[3] - 1}",
            todo="compare with the data set's table of frames",
        )
