from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autosam_deploy.errors import VolumeError
from autosam_deploy.volumes.read import read_volume


def patched_nifti(path: Path, layout: str, at: int, *values: float) -> Path:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones((3, 6, 7), np.int16)), str(path))
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, at, *values)
    path.write_bytes(content)
    return path


def test_no_voxels(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nifti = patched_nifti(tmp_path / "x.nii", "<h", 42, 0)
    nrrd, mha = tmp_path / "x.nrrd", tmp_path / "x.mha"
    nrrd.write_text("NRRD0004\ntype: short\ndimension: 3\nsizes: 0 6 7\nencoding: raw\n\n")
    mha.write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 0 6 7\nElementType = MET_SHORT\n"
        "ElementDataFile = LOCAL\n"
    )
    for path, message in (
        (nifti, "is empty; got size 0x6x3"),
        (nrrd, "axis 0 size is zero"),
        (mha, "is empty"),
    ):
        with pytest.raises(VolumeError, match=message):
            read_volume(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("size", [0.0, float("nan")])
def test_voxels_without_size(tmp_path: Path, size: float) -> None:
    """ITK takes 1 mm for it without a word."""
    path = patched_nifti(tmp_path / "x.nii", "<f", 80, size)
    with pytest.raises(VolumeError, match=rf"how large its voxels are; got {size:g} x 1 x 1"):
        read_volume(path)


def test_header_that_claims_too_much(tmp_path: Path) -> None:
    path = patched_nifti(tmp_path / "x.nii", "<2h", 42, 30_000, 30_000)
    with pytest.raises(VolumeError, match=r"got 252 bytes of voxels; expected 5400000000"):
        read_volume(path)
