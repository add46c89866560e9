from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autosam_deploy.errors import VolumeError
from autosam_deploy.volumes.read import read_volume


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".mhd"])
def test_damaged_voxels(tmp_path: Path, suffix: str) -> None:
    """ITK's own readers let some or all of these pass with other voxels."""
    random = np.random.default_rng(1)
    array = random.normal(0, 500, (6, 40, 50)).astype(np.int16)
    path = tmp_path / f"x{suffix}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path), useCompression=True)
    assert (read_volume(path).array == array).all()
    data = tmp_path / "x.zraw" if suffix == ".mhd" else path
    whole = data.read_bytes()
    for _ in range(12):
        broken = bytearray(whole)
        broken[random.integers(len(whole) // 4, len(whole) - 10)] ^= 1 << int(random.integers(8))
        data.write_bytes(broken)
        with pytest.raises(VolumeError, match="cannot be read; got"):
            read_volume(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_voxels_that_compress_well(tmp_path: Path, suffix: str) -> None:
    """More output than input: the check must empty its buffers before it judges."""
    array = np.zeros((40, 300, 301), np.int16)
    path = tmp_path / f"x{suffix}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path), useCompression=True)
    assert read_volume(path).array.shape == array.shape
    path.write_bytes(path.read_bytes().replace(b"301 300 40", b"301 300 41"))
    with pytest.raises(VolumeError, match=r"7224000 bytes of voxels where its header says 7404600"):
        read_volume(path)
