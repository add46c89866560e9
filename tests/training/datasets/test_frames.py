from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autosam_deploy.errors import VolumeError
from autosam_deploy.training.datasets.dataset import Pair
from autosam_deploy.training.datasets.frames import count_dimensions, read_frame, read_pair
from autosam_deploy.volumes.read import read_volume

VALUES = np.arange(4 * 3 * 5 * 6).reshape(4, 3, 5, 6)


def write(path: Path, values: np.ndarray) -> Path:
    """Write a cine (T, Z, Y, X) that lies oblique, and its frames beside it."""
    frames = []
    for number, one in enumerate(values):
        image = SimpleITK.GetImageFromArray(one)
        image.SetSpacing((1.25, 1.5, 8.0))
        image.SetOrigin((-10.0, 4.0, 30.0))
        cos, sin = 0.8, 0.6
        image.SetDirection((cos, -sin, 0, sin, cos, 0, 0, 0, 1))
        SimpleITK.WriteImage(image, str(path.with_name(f"{number}.nii.gz")))
        frames.append(image)
    cine = SimpleITK.JoinSeries(frames, 0.0, 25.0)
    direction = np.eye(4)
    direction[:3, :3] = np.reshape(frames[0].GetDirection(), (3, 3))
    cine.SetDirection(direction.ravel().tolist())
    SimpleITK.WriteImage(cine, str(path))
    return path


@pytest.mark.parametrize("frame", range(4))
def test_a_frame_is_the_volume_that_was_joined(tmp_path: Path, frame: int) -> None:
    path = write(tmp_path / "cine.nii.gz", VALUES.astype(np.int16))
    found, expected = read_frame(path, frame), read_volume(tmp_path / f"{frame}.nii.gz")
    np.testing.assert_array_equal(found.array, VALUES[frame])
    assert found.array.dtype == np.int16
    for name in ("spacing", "origin", "direction"):
        np.testing.assert_allclose(
            getattr(found.geometry, name), getattr(expected.geometry, name), atol=1e-6
        )
    assert (found.name, count_dimensions(path)) == ("cine", 4)


def test_image_and_labels_of_a_frame(tmp_path: Path) -> None:
    (tmp_path / "gt").mkdir()
    image = write(tmp_path / "cine.nii.gz", VALUES.astype(np.int16))
    label = write(tmp_path / "gt" / "gt.nii.gz", (VALUES % 4).astype(np.float64))
    volume, truth = read_pair(Pair("x", image, label, frame=2))
    np.testing.assert_array_equal(volume.array, VALUES[2])
    np.testing.assert_array_equal(truth.array, VALUES[2] % 4)
    assert truth.array.dtype == np.uint8
    label = write(tmp_path / "gt" / "gt.nii.gz", (VALUES % 4) * 0.5)
    with pytest.raises(
        VolumeError, match=r"gt\.nii\.gz' \(frame 2\) is no label volume; got value 0\.5 in 45 vox"
    ):
        read_pair(Pair("x", image, label, frame=2))
    first = tmp_path / "0.nii.gz"
    assert read_pair(Pair("x", first, first.with_name("1.nii.gz")))[0].array.shape == (3, 5, 6)


def test_refusals(tmp_path: Path) -> None:
    path = write(tmp_path / "cine.nii.gz", VALUES.astype(np.float32))
    with pytest.raises(VolumeError, match=r"no such time point in .* got frame 4; expected 0\.\.3"):
        read_frame(path, 4)
    with pytest.raises(VolumeError, match=r"holds no time points; got 3-D of size 6x5x3; expected"):
        read_frame(tmp_path / "0.nii.gz", 0)
    with pytest.raises(VolumeError, match="no volume at"):
        read_frame(tmp_path / "none.nii.gz", 0)
    broken = VALUES.astype(np.float32)
    broken[3, 0, 0, 0] = np.nan
    with pytest.raises(VolumeError, match="not finite; got 1 NaN"):
        read_frame(write(tmp_path / "nan.nii.gz", broken), 0)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VolumeError, match=r"cine\.nii\.gz' cannot be read"):
        read_frame(path, 0)
    (tmp_path / "empty.nii.gz").touch()
    with pytest.raises(VolumeError, match=r"empty\.nii\.gz' cannot be read"):
        count_dimensions(tmp_path / "empty.nii.gz")
