from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from autosam_deploy.errors import BackendInputError
from autosam_deploy.fused.image import ImageInput
from autosam_deploy.kernels.tokens import (
    OPERANDS,
    SOURCES,
    slices_to_tokens,
    slices_to_tokens_reference,
)
from autosam_deploy.spec import PreprocessSpec

pytest.importorskip("triton")

IMAGE, PATCH = (48, 64), 8
STATS = ("slice-minmax", "slice-zscore")
#: Odd sizes, one line, several blocks of statistics with a rest, larger than the image.
SHAPES = [(1, 1, 33, 47), (2, 1, 1, 5), (1, 1, 5, 1), (5, 1, 20, 9), (2, 1, 91, 70)]


def recipe(intensity: str, **fields: Any) -> PreprocessSpec:
    if intensity == "window":
        fields |= {"window_level": 40.0, "window_width": 400.0}
    return PreprocessSpec.model_validate({"intensity": intensity, **fields})


def raw(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, *, seed: int = 0) -> Tensor:
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    if dtype == torch.float32:
        return values * 900 - 300
    return (values * torch.iinfo(dtype).max).to(dtype)


def assert_same(found: Tensor, slices: Tensor, spec: PreprocessSpec, dtype: torch.dtype) -> None:
    """Compare with float64: one rounding of the result, and float32 positions of the taps."""
    options: dict[str, Any] = {"image_size": IMAGE, "patch": PATCH}
    truth = slices_to_tokens_reference(slices.double(), spec, dtype=torch.float64, **options)
    largest, side = float(truth.abs().max()), max(*slices.shape[2:], *IMAGE)
    # The interpreter cuts bf16 off where the GPU rounds: a whole unit of the last place.
    bound = torch.finfo(dtype).eps * largest + 2 * side * torch.finfo(torch.float32).eps * largest
    assert found.dtype == dtype
    assert found.shape == truth.shape
    assert found.is_contiguous()
    assert float((found.double() - truth).abs().max()) <= bound


@pytest.mark.parametrize("intensity", [*STATS, "window", "none"])
@pytest.mark.parametrize("resize", ["stretch", "longest-side"])
@pytest.mark.parametrize("shape", SHAPES)
def test_recipes(intensity: str, resize: str, shape: tuple[int, ...], device: torch.device) -> None:
    spec = recipe(intensity, resize=resize)
    slices = raw(shape).to(device)
    found = slices_to_tokens(slices, spec, image_size=IMAGE, patch=PATCH, dtype=torch.float32)
    assert_same(found, slices, spec, torch.float32)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("dtype", OPERANDS)
def test_dtypes(source: torch.dtype, dtype: torch.dtype, device: torch.device) -> None:
    spec = recipe("slice-zscore")
    slices = raw((2, 1, 33, 47), source).to(device)
    found = slices_to_tokens(slices, spec, image_size=IMAGE, patch=PATCH, dtype=dtype)
    assert_same(found, slices, spec, dtype)


@pytest.mark.parametrize(("height", "width"), [(33, 47), (47, 20)])
@pytest.mark.parametrize("patch", [8, 4, 16])
def test_padding_is_marked(height: int, width: int, patch: int, device: torch.device) -> None:
    """The second channel, and a product that equals the convolution."""
    spec = recipe(
        "slice-minmax", resize="longest-side", pixel_mean=(0.4,) * 3, pixel_std=(0.2,) * 3
    )
    slices = raw((2, 1, height, width)).to(device)
    operand = slices_to_tokens(slices, spec, image_size=IMAGE, patch=patch, dtype=torch.float32)
    weight = torch.randn((7, 2, patch, patch), generator=torch.Generator().manual_seed(1))
    image = ImageInput(spec, IMAGE)(slices)
    expected = F.conv2d(image, weight.to(device), stride=patch).permute(0, 2, 3, 1)
    found = operand @ weight.to(device).flatten(1).T
    assert operand.shape[-1] == 2 * patch * patch
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_patches_that_are_no_power_of_two(device: torch.device) -> None:
    spec, slices = recipe("slice-minmax"), raw((1, 1, 30, 40)).to(device)
    options: dict[str, Any] = {"image_size": (42, 28), "patch": 14, "dtype": torch.float32}
    found = slices_to_tokens(slices, spec, **options)
    torch.testing.assert_close(found, slices_to_tokens_reference(slices, spec, **options))


@pytest.mark.parametrize("intensity", STATS)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4, 300.7, 1e30])
def test_flat_slices_are_zeros(intensity: str, value: float, device: torch.device) -> None:
    slices = raw((3, 1, 91, 70)).to(device)
    slices[1] = value
    found = slices_to_tokens(
        slices, recipe(intensity), image_size=IMAGE, patch=PATCH, dtype=torch.float16
    )
    assert int(found[1].count_nonzero()) == 0
    assert int(found[0].count_nonzero()) > 0
    assert int(found[2].count_nonzero()) > 0


@pytest.mark.parametrize(
    ("intensity", "low", "high"),
    [
        ("slice-minmax", -1e4, 1e4),
        ("slice-minmax", -1e30, 1e30),
        ("slice-minmax", 0.0, 1e-30),
        ("slice-zscore", -1e4, 1e4),
        ("slice-zscore", 1e4, 1e4 + 1),
        ("slice-zscore", 1e7, 1e7 + 50),
        ("none", -1e4, 1e4),
    ],
)
def test_extremes(intensity: str, low: float, high: float, device: torch.device) -> None:
    """A high level above a small contrast is where a difference of squares would fail."""
    spec = recipe(intensity)
    slices = (raw((2, 1, 91, 70)) + 300) / 900 * (high - low) + low
    found = slices_to_tokens(
        slices.to(device), spec, image_size=IMAGE, patch=PATCH, dtype=torch.float32
    )
    assert bool(found.isfinite().all())
    assert_same(found, slices.to(device), spec, torch.float32)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("intensity", [*STATS, "window", "none"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite(intensity: str, value: float, device: torch.device) -> None:
    spec, slices = recipe(intensity), raw((2, 1, 33, 47)).to(device)
    slices[0, 0, 7, 9] = value
    options: dict[str, Any] = {"image_size": IMAGE, "patch": PATCH, "dtype": torch.float32}
    found = slices_to_tokens(slices, spec, **options)
    expected = slices_to_tokens_reference(slices, spec, **options)
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("intensity", STATS)
def test_large_blocks(
    intensity: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autosam_deploy.kernels import tokens_triton

    monkeypatch.setattr(tokens_triton, "LARGE", 0)
    spec, slices = recipe(intensity), raw((2, 1, 150, 130)).to(device)
    found = slices_to_tokens(slices, spec, image_size=IMAGE, patch=PATCH, dtype=torch.float32)
    assert_same(found, slices, spec, torch.float32)


@pytest.mark.parametrize("view", ["transposed", "every second", "expanded", "a channel"])
def test_strides(view: str, device: torch.device) -> None:
    spec = recipe("slice-minmax")
    base = raw((2, 3, 66, 94)).to(device)
    slices = {
        "transposed": base[:, :1].transpose(2, 3),
        "every second": base[:, 1:2, ::2, ::2],
        "expanded": base[:1, :1].expand(3, -1, -1, -1),
        "a channel": base[:, 2:],
    }[view]
    options: dict[str, Any] = {"image_size": IMAGE, "patch": PATCH, "dtype": torch.float32}
    found = slices_to_tokens(slices, spec, **options)
    expected = slices_to_tokens(slices.contiguous(), spec, **options)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_runs_are_the_same_to_the_last_bit(device: torch.device) -> None:
    spec, slices = recipe("slice-zscore"), raw((3, 1, 91, 70)).to(device)
    options: dict[str, Any] = {"image_size": IMAGE, "patch": PATCH, "dtype": torch.float32}
    first = slices_to_tokens(slices, spec, **options)
    assert torch.equal(first, slices_to_tokens(slices, spec, **options))
    # A slice does not depend on its batch either.
    assert torch.equal(first[1:2], slices_to_tokens(slices[1:2], spec, **options))


def test_no_slices(device: torch.device) -> None:
    slices = torch.empty((0, 1, 5, 5), device=device)
    found = slices_to_tokens(
        slices, recipe("none"), image_size=IMAGE, patch=PATCH, dtype=torch.float16
    )
    assert found.shape == (0, 6, 8, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slices": torch.zeros(2, 3, 4, 4)}, r"wrong shape; got \(2, 3, 4, 4\)"),
        ({"slices": torch.zeros(4, 4)}, r"wrong shape; got \(4, 4\)"),
        ({"slices": torch.zeros(1, 1, 0, 4)}, r"got \(1, 1, 0, 4\).*no empty slice"),
        ({"slices": torch.zeros(1, 1, 4, 4).double()}, r"wrong dtype; got torch\.float64"),
        ({"slices": torch.zeros(1).expand(1, 1, 1 << 16, 1 << 15)}, "too large; got 65536 x 32768"),
        ({"dtype": torch.float64}, r"tokens cannot have this dtype; got torch\.float64"),
        ({"image_size": (48, 60)}, "do not tile.*got 48 x 60 in patches of 8"),
        ({"patch": 0}, "patches of 0"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"slices": torch.zeros(1, 1, 4, 4), "image_size": IMAGE, "patch": PATCH}
    given |= {"spec": recipe("none"), "dtype": torch.float32}
    with pytest.raises(BackendInputError, match=message):
        slices_to_tokens(**(given | change))


def test_is_an_operator_of_torch(device: torch.device) -> None:
    """Schema, fake tensors and dispatch agree."""
    torch.library.opcheck(
        torch.ops.autosam.slices_to_tokens.default,
        (raw((2, 1, 9, 11)).to(device), list(IMAGE), PATCH, torch.float16),
        {
            **{"intensity": "slice-minmax", "level": 0.0, "window": 1.0},
            **{"longest": True, "marks": True},
        },
    )


def test_compiles_in_one_graph(device: torch.device) -> None:
    spec = recipe("slice-minmax")

    def embed(slices: Tensor) -> Tensor:
        return slices_to_tokens(slices, spec, image_size=IMAGE, patch=PATCH, dtype=torch.float16)

    slices = raw((1, 1, 9, 11)).to(device)
    compiled = torch.compile(embed, fullgraph=True, backend="eager")
    assert torch.equal(compiled(slices), embed(slices))
