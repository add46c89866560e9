"""Writing volumes: the geometry to the last digit that the format holds, whole or not at all.

NRRD and MetaImage hold SimpleITK's doubles exactly. NIfTI holds float32: a geometry that came from
a NIfTI file survives exactly, one from DICOM is rounded by some micrometres, which SimpleITK's
comparison of physical spaces already tells apart.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.errors import OutputError
from autosam_deploy.files import atomic_file
from autosam_deploy.volumes.itk import quiet_itk, simpleitk
from autosam_deploy.volumes.read import geometry_of, reason_of
from autosam_deploy.volumes.volume import FLOAT32_MM, Geometry, Volume, near_space

#: One file, scalar, with geometry. (.mhd would be two files, which cannot be replaced as one.)
WRITABLE = (".nii.gz", ".nii", ".nrrd", ".mha")


def check_writable_suffix(path: Path) -> None:
    """Refuse file names whose format is not written.

    Raises:
        OutputError: naming the formats.
    """
    # In small letters: ITK refuses .NII, and writes another file than it was told for .MHA.
    if not path.name.endswith(WRITABLE):
        raise OutputError(
            f"'{path.name}' has no known format", expected=" ".join(WRITABLE), got=path.suffix
        )


def write_volume(path: Path, volume: Volume) -> None:
    """Write a volume, compressed where the format can.

    Raises:
        OutputError: unknown format, not writable, disk full.
    """
    check_writable_suffix(path)
    sitk = simpleitk()
    image = sitk.GetImageFromArray(volume.array)
    image.SetSpacing(volume.geometry.spacing)
    image.SetOrigin(volume.geometry.origin)
    image.SetDirection(volume.geometry.direction)
    with atomic_file(path) as temporary:
        packed = not path.name.endswith(".nii")
        try:
            with quiet_itk():
                sitk.WriteImage(image, str(temporary), useCompression=packed)
        except RuntimeError as error:
            raise OutputError(
                f"cannot write '{path}'",
                got=reason_of(error),
                todo="free space or choose another output path; nothing was changed",
            ) from error
        _check_complete(temporary, path, volume)


def _check_complete(temporary: Path, path: Path, volume: Volume) -> None:
    """Read the file back: on a full disk ITK's writers may lose bytes without an error."""
    sitk = simpleitk()
    try:
        with quiet_itk():
            image = sitk.ReadImage(str(temporary))
    except RuntimeError as error:
        raise OutputError(
            f"cannot write '{path}'",
            got="an incomplete file",
            todo="free space on the disk; nothing was changed",
        ) from error
    if not np.array_equal(sitk.GetArrayFromImage(image), volume.array):
        raise OutputError(
            f"cannot write '{path}'",
            got="other voxels when read back",
            todo="free space on the disk, or check it; nothing was changed",
        )
    if not near_space(geometry_of(image), volume.geometry):
        raise OutputError(
            f"'{path.name}' cannot hold the geometry of '{volume.name}'",
            expected=f"voxels within {FLOAT32_MM} mm of their place",
            todo="write .nrrd or .mha, which hold it exactly",
        )


def write_labels(path: Path, labels: NDArray[np.uint8], geometry: Geometry) -> None:
    """Write labels uint8 (z, y, x) in the geometry of their volume (see `write_volume`)."""
    write_volume(path, Volume(labels, geometry, path.name))
