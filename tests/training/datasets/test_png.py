from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autosam_deploy.errors import UsageError, VolumeError
from autosam_deploy.training.datasets.loading import load_dataset
from autosam_deploy.training.datasets.pairs import find_dataset
from autosam_deploy.training.datasets.png import natural_key, png_slices, read_grey, read_slices

RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4)


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path)
    return path


def save_palette(path: Path, indices: np.ndarray, colours: list[int], **options: Any) -> Path:
    image = Image.fromarray(indices)
    image = image.convert("P") if image.mode != "P" else image
    image.putdata(indices.ravel().tolist())
    image.putpalette(colours)
    image.save(path, **options)
    return path


def save_raw(path: Path, *, size: tuple[int, int], bits: int, colour: int, rows: bytes) -> Path:
    """Write a PNG of a kind that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">2I5B", *size, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def write_reference_set(folder: Path, count: int = 11) -> Path:
    """Write one volume as convert_to_imgs.py does, but without zeros before slice numbers."""
    for number in range(count):
        name = f"frame01_{number}.png"
        save(folder / "imgs" / "patient001_frame01" / name, RAMP + np.uint8(number), "RGB")
        save(folder / "annotations" / "patient001_frame01" / name, RAMP % 3)
    return folder


def test_natural_order() -> None:
    names = ["a10.png", "a2.png", "b1.png", "a02.png", "a1_10.png", "a1_9.png", "1.png", "a.png"]
    assert sorted(names, key=natural_key) == [
        "1.png",
        "a1_9.png",
        "a1_10.png",
        "a02.png",
        "a2.png",
        "a10.png",
        "a.png",
        "b1.png",
    ]


def test_reference_layout_is_loaded(tmp_path: Path) -> None:
    found = load_dataset(find_dataset(data=write_reference_set(tmp_path)), num_classes=3)
    (volume,) = found.volumes
    assert (volume.name, volume.axis, volume.spacing_mm) == ("patient001_frame01", None, None)
    assert volume.slices.dtype == np.float32
    # Slice 10 comes last, not behind slice 1.
    assert volume.slices[:, 0, 0].tolist() == list(range(11))
    assert volume.slices.shape == volume.labels.shape == (11, 3, 4)
    assert (volume.labels == RAMP % 3).all()
    assert volume.labels.dtype == np.uint8
    assert found.labels_present == {0, 1, 2}


def test_axis_of_png_slices(tmp_path: Path) -> None:
    dataset = find_dataset(data=write_reference_set(tmp_path, 1))
    with pytest.raises(UsageError, match="axis for PNG slices; got k; expected auto"):
        load_dataset(dataset, axis="k")


def test_slices_pair_by_name(tmp_path: Path) -> None:
    dataset = find_dataset(data=write_reference_set(tmp_path, 3))
    (dataset.cases[0].label / "frame01_1.png").unlink()
    with pytest.raises(VolumeError, match=r"do not pair up; got 'frame01_1\.png' without labels"):
        load_dataset(dataset)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_grey_in_any_mode(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "x.png", RAMP * 20, mode)
    assert Image.open(path).mode == mode
    for label in (False, True):
        assert (read_grey(path, label=label) == RAMP * 20).all()


def test_sixteen_bits_of_grey(tmp_path: Path) -> None:
    deep = RAMP.astype(np.uint16) * 5000
    assert (read_grey(save(tmp_path / "x.png", deep)) == deep).all()


def test_one_bit_of_grey(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", RAMP > 5)
    assert Image.open(path).mode == "1"
    assert (read_grey(path, label=True) == (RAMP > 5)).all()


@pytest.mark.parametrize(("bits", "row"), [(2, 0b00011011), (4, 0x01)])
def test_few_bits_of_grey_are_not_stretched(tmp_path: Path, bits: int, row: int) -> None:
    """Pillow reads the labels 0, 1 of a 4-bit file as 0, 17."""
    width = 8 // bits
    path = save_raw(tmp_path / "x.png", size=(width, 1), bits=bits, colour=0, rows=bytes([0, row]))
    assert read_grey(path, label=True).tolist() == [list(range(width))]


def test_palette_labels_are_indices(tmp_path: Path) -> None:
    """Annotation programs give labels colours, in any order and twice if they like."""
    indices = RAMP % 3
    colours = [0, 0, 0, 255, 0, 0, 255, 0, 0]
    path = save_palette(tmp_path / "x.png", indices, colours)
    assert Image.open(path).mode == "P"
    assert (read_grey(path, label=True) == indices).all()
    path = save_palette(tmp_path / "small.png", indices, colours, bits=2)
    assert (read_grey(path, label=True) == indices).all()


def test_palette_images_are_colours(tmp_path: Path) -> None:
    greys = [value for level in (0, 200, 90) for value in (level, level, level)]
    path = save_palette(tmp_path / "x.png", RAMP % 3, greys)
    assert (read_grey(path) == np.array([0, 200, 90])[RAMP % 3]).all()
    path = save_palette(tmp_path / "clear.png", RAMP % 3, greys, transparency=0)
    with pytest.raises(VolumeError, match=r"clear\.png' is transparent in places"):
        read_grey(path)


def test_colour_is_refused(tmp_path: Path) -> None:
    colour = np.stack([RAMP] * 3, axis=-1)
    colour[2, 1, 2] += 1
    path = save(tmp_path / "x.png", colour)
    with pytest.raises(
        VolumeError, match=r"x\.png' has colours; got RGB \(9, 9, 10\) at row 2, column 1; expected"
    ):
        read_grey(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_refused(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RAMP).convert(mode)
    image.putalpha(Image.fromarray(np.where(RAMP == 3, 254, 255).astype(np.uint8)))
    image.save(tmp_path / "x.png")
    with pytest.raises(VolumeError, match="is transparent in places; expected grey values"):
        read_grey(tmp_path / "x.png")


def test_sixteen_bits_of_colour_are_refused(tmp_path: Path) -> None:
    """Pillow would halve them: 0x0102 and 0x0103 would become one grey value."""
    path = save_raw(tmp_path / "x.png", size=(1, 1), bits=16, colour=2, rows=b"\0\1\2\1\3\1\4")
    with pytest.raises(VolumeError, match="several channels of 16 bits; expected one grey"):
        read_grey(path)


def test_damaged_files(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    path = save(tmp_path / "x.png", noise)
    whole = path.read_bytes()
    for name, content in (
        ("short", whole[:900]),
        ("header", whole[:20]),
        ("empty", b""),
        ("flipped", whole[:300] + b"\xff" * 9 + whole[309:]),
        ("text", b"no picture"),
    ):
        (tmp_path / f"{name}.png").write_bytes(content)
        with pytest.raises(VolumeError, match=rf"slice '.*{name}\.png' cannot be read; got"):
            read_grey(tmp_path / f"{name}.png")
    Image.fromarray(noise).save(tmp_path / "photo.png", format="JPEG")
    with pytest.raises(VolumeError, match="expected a complete PNG file"):
        read_grey(tmp_path / "photo.png")


def test_slices_of_one_volume_have_one_size(tmp_path: Path) -> None:
    save(tmp_path / "a_0.png", RAMP)
    save(tmp_path / "a_1.png", RAMP.T)
    assert list(png_slices(tmp_path)) == ["a_0.png", "a_1.png"]
    with pytest.raises(VolumeError, match=r"a_1\.png' has .* got 3x4 pixels; expected 4x3 pixels"):
        read_slices(tmp_path)


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    dataset = find_dataset(data=write_reference_set(tmp_path, 1))
    label = dataset.cases[0].label / "frame01_0.png"
    save(label, (RAMP % 3).T)
    with pytest.raises(VolumeError, match=r"does not fit its volume; got shape \(1, 4, 3\); exp"):
        load_dataset(dataset)
    save(label, RAMP.astype(np.uint16) * 100)
    with pytest.raises(VolumeError, match=r"holds no labels; got value 300 in 9 pixels; expected"):
        load_dataset(dataset)
    # A mask for looking at: foreground is white.
    save(label, np.where(RAMP > 5, 255, 0).astype(np.uint8))
    with pytest.raises(
        VolumeError, match=r"an unknown label; got 255 \(6 voxels\); expected 0\.\.1"
    ):
        load_dataset(dataset, num_classes=2)
