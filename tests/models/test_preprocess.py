from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

from autosam_deploy.models.preprocess import (
    normalise,
    to_encoder_input,
    to_slice_size,
    valid_size,
)
from autosam_deploy.spec import PreprocessSpec

RAW = torch.from_numpy(
    np.random.default_rng(0).integers(-1000, 3000, (2, 1, 9, 7)).astype(np.float32)
)
ZSCORE = PreprocessSpec(intensity="slice-zscore")
SAM = PreprocessSpec(
    intensity="none",
    pixel_mean=(123.675, 116.28, 103.53),
    pixel_std=(58.395, 57.12, 57.375),
    resize="longest-side",
)


def test_minmax_is_by_slice_as_the_reference_dataset() -> None:
    found = normalise(RAW, PreprocessSpec()).numpy()
    for index, raw in enumerate(RAW.numpy()):
        expected = (raw - raw.min()) / (raw.max() - raw.min())
        np.testing.assert_array_equal(found[index], expected)
        assert (found[index].min(), found[index].max()) == (0, 1)


def test_zscore_uses_the_population_deviation_of_each_slice() -> None:
    found = normalise(RAW, ZSCORE).numpy()
    for index, raw in enumerate(RAW.numpy().astype(np.float64)):
        np.testing.assert_allclose(found[index], (raw - raw.mean()) / raw.std(), atol=1e-5)


@pytest.mark.parametrize("intensity", ["slice-minmax", "slice-zscore"])
@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567, 3.0e7])
def test_a_flat_slice_gives_zeros_beside_a_normal_one(intensity: Any, value: float) -> None:
    slices = torch.cat([torch.full((1, 1, 37, 51), value), torch.rand(1, 1, 37, 51)])
    found = normalise(slices, PreprocessSpec(intensity=intensity))
    assert found[0].abs().max() == 0
    assert found[1].std() > 0.1


def test_window_clips_to_level_and_width() -> None:
    spec = PreprocessSpec(intensity="window", window_level=40, window_width=400)
    raw = torch.tensor([-1000.0, -160.0, 40.0, 140.0, 240.0, 3000.0]).reshape(1, 1, 2, 3)
    expected = [0.0, 0.0, 0.5, 0.75, 1.0, 1.0]
    assert normalise(raw, spec).flatten().tolist() == pytest.approx(expected)


def test_none_leaves_intensities_alone() -> None:
    assert torch.equal(normalise(RAW, PreprocessSpec(intensity="none")), RAW)


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [
        (torch.int16, torch.float32),
        (torch.uint8, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_what_is_not_float64_is_computed_in_float32(
    dtype: torch.dtype, computed: torch.dtype
) -> None:
    raw = torch.arange(12).reshape(1, 1, 3, 4).to(dtype)
    found = normalise(raw, PreprocessSpec())
    assert found.dtype == computed
    assert found.flatten()[4].item() == pytest.approx(4 / 11)


def test_int16_does_not_wrap_around() -> None:
    raw = torch.tensor([[-32768, 32767]], dtype=torch.int16).reshape(1, 1, 1, 2)
    assert normalise(raw, PreprocessSpec()).flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("side", [48, 224, 1024])
def test_valid_size_is_sams_for_square_inputs(side: int) -> None:
    for height in (1, 7, 48, 133, 223, 224, 225, 512, 2000):
        for width in (1, 10, 47, 49, 200, 777, 1024, 1999):
            expected = ResizeLongestSide.get_preprocess_shape(height, width, side)
            found = valid_size(height, width, (side, side))
            assert found == (max(1, expected[0]), max(1, expected[1]))


@pytest.mark.parametrize(
    ("slice_size", "expected"),
    [((20, 50), (32, 80)), ((50, 20), (48, 19)), ((48, 80), (48, 80)), ((300, 1), (48, 1))],
)
def test_valid_size_fills_one_side_of_other_inputs(
    slice_size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert valid_size(*slice_size, (48, 80)) == expected


def test_stretch_resizes_three_equal_channels_once() -> None:
    found = to_encoder_input(RAW, PreprocessSpec(), (16, 24))
    expected = F.interpolate(normalise(RAW, PreprocessSpec()), (16, 24), mode="bilinear")
    assert torch.equal(found, expected.expand(-1, 3, -1, -1))


def test_pixel_mean_and_std_come_before_the_padding() -> None:
    raw = torch.full((1, 1, 8, 4), 100.0)
    image = to_encoder_input(raw, SAM, (16, 16))
    assert image.shape == (1, 3, 16, 16)
    inside = [(100 - 123.675) / 58.395, (100 - 116.28) / 57.12, (100 - 103.53) / 57.375]
    for channel, value in enumerate(inside):
        torch.testing.assert_close(image[0, channel, :, :8], torch.full((16, 8), value))
    # The right half is padding.
    assert image[..., 8:].abs().max() == 0


def test_longest_side_matches_sams_own_preprocessing() -> None:
    found = to_encoder_input(RAW, SAM, (32, 32))
    sam = SimpleNamespace(
        image_encoder=SimpleNamespace(img_size=32),
        pixel_mean=torch.tensor(SAM.pixel_mean)[:, None, None],
        pixel_std=torch.tensor(SAM.pixel_std)[:, None, None],
    )
    resized = F.interpolate(RAW.expand(-1, 3, -1, -1), (32, 25), mode="bilinear")
    torch.testing.assert_close(found, Sam.preprocess(sam, resized), rtol=1e-5, atol=1e-4)


def test_stretch_brings_logits_back_with_one_resize() -> None:
    low = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    found = to_slice_size(low, PreprocessSpec(), (16, 24), (9, 7))
    assert torch.equal(found, F.interpolate(low, (9, 7), mode="bilinear", align_corners=False))


@pytest.mark.parametrize("size", [(9, 7), (7, 30), (64, 64)])
def test_longest_side_brings_logits_back_as_sam(size: tuple[int, int]) -> None:
    low = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    sam = SimpleNamespace(image_encoder=SimpleNamespace(img_size=32))
    expected = Sam.postprocess_masks(sam, low, valid_size(*size, (32, 32)), size)
    assert torch.equal(to_slice_size(low, SAM, (32, 32), size), expected)


def test_a_slice_of_the_encoders_size_is_not_touched() -> None:
    slices = torch.rand(1, 1, 16, 24)
    image = to_encoder_input(slices, PreprocessSpec(intensity="none"), (16, 24))
    assert torch.equal(image[:, :1], slices)
