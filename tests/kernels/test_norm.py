"""The layer-norm kernel against float64, on the GPU or in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autosam_deploy.errors import BackendInputError
from autosam_deploy.kernels.norm import (
    DTYPES,
    MOST_CHANNELS,
    layer_norm,
    layer_norm_reference,
    row_axes,
)

pytest.importorskip("triton")

EPS = 1e-6
#: Below a program's tile, no powers of two, exactly one tile, several warps.
CHANNELS = [1, 8, 48, 256, 768, 1280, 2048, 5000]


def rows(*shape: int, seed: int = 0) -> Tensor:
    """Rows of different levels and spreads."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    line = torch.randn((*shape[:-1], 2), generator=generator)
    return x * line[..., :1].exp() + 3 * line[..., 1:]


def parameters(channels: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(channels)
    return torch.randn(channels, generator=generator), torch.randn(channels, generator=generator)


def compare(
    x: Tensor, device: torch.device, dtype: torch.dtype, *, slack: float = 16.0
) -> tuple[Tensor, Tensor]:
    """Check against float64; returns what was found and the truth.

    The result is rounded once to its dtype (the interpreter cuts bf16 off: a whole unit of the last
    place), and float32 arithmetic may cost `slack` units of a standard deviation's last place.
    """
    weight, bias = (one.to(device) for one in parameters(x.shape[-1]))
    x = x.to(device)
    found = layer_norm(x, weight, bias, eps=EPS, dtype=dtype)
    truth = layer_norm_reference(x.double(), weight, bias, eps=EPS, dtype=torch.float64)
    assert found.dtype == dtype
    assert found.shape == x.shape
    assert found.is_contiguous()
    largest = float((truth - bias).abs().max() + bias.abs().max())
    bound = (torch.finfo(dtype).eps + slack * torch.finfo(torch.float32).eps) * largest
    assert float((found.double() - truth).abs().max()) <= bound
    return found, truth


@pytest.mark.parametrize("source", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(source: torch.dtype, dtype: torch.dtype, device: torch.device) -> None:
    compare(rows(7, 48).to(source), device, dtype)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_channels(channels: int, dtype: torch.dtype, device: torch.device) -> None:
    compare(rows(5, channels).to(dtype), device, dtype)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 31, 100])
@pytest.mark.parametrize("channels", [48, 256, 768])
def test_numbers_of_rows(count: int, channels: int, device: torch.device) -> None:
    compare(rows(count, channels), device, torch.float32)


def test_longest_row(device: torch.device) -> None:
    compare(rows(2, MOST_CHANNELS).half(), device, torch.float16)


@pytest.mark.parametrize("shape", [(48,), (2, 3, 5, 48), (1, 1, 48), (2, 1, 3, 1, 48)], ids=str)
def test_dimensions(shape: tuple[int, ...], device: torch.device) -> None:
    compare(rows(*shape), device, torch.float32)


def test_no_rows(device: torch.device) -> None:
    x, weight = torch.zeros(0, 4, 8, device=device), torch.ones(8, device=device)
    found = layer_norm(x, weight, weight, eps=EPS, dtype=torch.float16)
    assert found.shape == (0, 4, 8)
    assert found.dtype == torch.float16


def strided() -> dict[str, Tensor]:
    whole = rows(3, 4, 5, 64, seed=1)
    return {
        "slice of the channels": whole[..., 16:40],
        "third of a projection": whole.view(3, 4, 5, 64).chunk(2, dim=-1)[1],
        "rows and columns changed": whole.transpose(1, 2),
        "batch last": whole.permute(1, 2, 0, 3),
        "every second row": whole[:, ::2],
        "one row for all": whole[:1, :1, :1].expand(3, 4, 5, 64),
        "backward": whole.flip(0).transpose(0, 1),
        "an address that 16 does not divide": whole.flatten()[1 : 1 + 3 * 64].view(3, 64),
    }


@pytest.mark.parametrize("name", list(strided()))
def test_strides(name: str, device: torch.device) -> None:
    x = strided()[name]
    # `to` would make another layout of some of them.
    moved = (
        x
        if device.type == "cpu"
        else torch.empty_strided(x.shape, x.stride(), device=device).copy_(x)
    )
    assert moved.stride() == x.stride()
    compare(moved, device, torch.float32)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.empty(2, 3, 4, 8), ((1, 1, 24), (0, 0, 8))),
        (torch.empty(2, 3, 4, 8)[..., :5], ((1, 1, 24), (0, 0, 8))),
        (torch.empty(2, 3, 4, 8)[:, :2], ((1, 2, 8), (0, 96, 8))),
        (torch.empty(2, 3, 4, 8).permute(2, 1, 0, 3), ((4, 3, 2), (8, 32, 96))),
        (torch.empty(8), ((1, 1, 1), (0, 0, 0))),
        (torch.empty(1, 7, 1, 8), ((1, 1, 7), (0, 0, 8))),
    ],
    ids=["contiguous", "sliced", "cropped", "permuted", "one row", "ones"],
)
def test_dimensions_are_joined(
    tensor: Tensor, expected: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    assert row_axes(tensor) == expected


@pytest.mark.parametrize("channels", [8, 768])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1e4, 65504.0])
def test_rows_of_one_value_give_the_bias(channels: int, value: float, device: torch.device) -> None:
    weight, bias = (one.to(device) for one in parameters(channels))
    x = torch.full((3, channels), value, dtype=torch.float16, device=device)
    found = layer_norm(x, weight, bias, eps=EPS, dtype=torch.float32)
    assert torch.equal(found, bias.expand(3, channels))


def test_large_halves(device: torch.device) -> None:
    """Sums and squares of 1e4 are beyond fp16."""
    x = (rows(9, 768).sign() * 1e4).half()
    x[0, 5], x[1, 0] = 65504.0, -65504.0
    compare(x, device, torch.float16)


@pytest.mark.parametrize("channels", [48, 768, 1280])
@pytest.mark.parametrize(("level", "spread"), [(1e3, 1e-2), (-1e3, 1e-2), (1e6, 1.0), (0.0, 1e-3)])
def test_small_contrast_on_a_high_level(
    channels: int, level: float, spread: float, device: torch.device
) -> None:
    """Where a difference of squares, and a mean that is rounded at the level itself, would fail."""
    x = level + spread * torch.randn(5, channels, generator=torch.Generator().manual_seed(2))
    compare(x, device, torch.float32)


@pytest.mark.parametrize("place", [0, 17])
def test_one_value_far_out(place: int, device: torch.device) -> None:
    """Also as the first value, which the others are taken relative to."""
    x = torch.randn(4, 768, generator=torch.Generator().manual_seed(3))
    x[:, place] = 1e6
    # sqrt(768) = 28 standard deviations apart.
    compare(x, device, torch.float32, slack=28.0)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("place", [0, 5])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_spoils_its_row_alone(
    place: int, value: float, device: torch.device
) -> None:
    weight, bias = (one.to(device) for one in parameters(48))
    x = rows(6, 48).to(device)
    clean = layer_norm(x, weight, bias, eps=EPS, dtype=torch.float32)
    x[2, place] = value
    found = layer_norm(x, weight, bias, eps=EPS, dtype=torch.float32)
    assert bool(found[2].isnan().all())
    others = torch.arange(6) != 2
    assert torch.equal(found[others], clean[others])


def test_as_good_as_pytorch(device: torch.device) -> None:
    """The norm of the typed graph: float32 in the middle, a cast on either side."""
    x = rows(50, 768).half()
    weight, bias = parameters(768)
    found, truth = compare(x, device, torch.float16)
    plain = layer_norm_reference(x, weight, bias, eps=EPS, dtype=torch.float16)
    apart = float((plain.double() - truth.cpu()).abs().max())
    assert float((found.double() - truth).abs().max()) <= apart + 1e-6


def call(**change: Any) -> Tensor:
    given: dict[str, Any] = {
        **{"x": torch.zeros(2, 3, 8), "weight": torch.ones(8), "bias": torch.zeros(8)},
        **{"eps": EPS, "dtype": torch.float16},
        **change,
    }
    return layer_norm(given.pop("x"), given.pop("weight"), given.pop("bias"), **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 8).double()}, r"these dtypes; got torch\.float64 to torch\.float16"),
        ({"x": torch.zeros(2, 8).int()}, r"these dtypes; got torch\.int32 to"),
        ({"dtype": torch.int8}, r"got torch\.float32 to torch\.int8; expected of torch\.float16"),
        ({"x": torch.tensor(1.0)}, r"this shape; got \(\); expected \(\.\.\., C\), C from 1 to"),
        ({"x": torch.zeros(2, 0)}, r"this shape; got \(2, 0\)"),
        ({"x": torch.zeros(2, MOST_CHANNELS + 1)}, rf"this shape; got \(2, {MOST_CHANNELS + 1}\)"),
        ({"x": torch.zeros(8, 8).T}, "do not lie side by side; got stride 8; expected 1"),
        ({"x": torch.zeros(2, 9)}, r"weight does not fit; got torch\.float32 \(8,\) with strides"),
        ({"weight": torch.ones(8).half()}, r"weight does not fit; got torch\.float16 \(8,\)"),
        ({"bias": torch.ones(1)}, r"bias does not fit; .* expected contiguous torch\.float32 \(8,"),
        ({"bias": torch.ones(16)[::2]}, r"bias does not fit; .* with strides \(2,\)"),
        (
            {"x": torch.zeros(2, 3, 4, 5, 8).permute(3, 2, 1, 0, 4)},
            r"these strides; got .* of \(5, 4, 3, 2, 8\); expected at most 3 dimensions",
        ),
        ({"x": torch.zeros(2, 8, requires_grad=True)}, "no backward pass; got an input that"),
        ({"weight": torch.ones(8, requires_grad=True)}, "no backward pass"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendInputError, match=message):
        call(**change)


def test_operator_is_well_behaved(device: torch.device) -> None:
    weight, bias = (one.to(device) for one in parameters(48))
    given = (rows(3, 4, 48).to(device), weight, bias, EPS, torch.float16)
    torch.library.opcheck(torch.ops.autosam.layer_norm.default, given)


def test_compiled_graph_is_one_piece(device: torch.device) -> None:
    weight, bias = (one.to(device) for one in parameters(48))

    def twice(x: Tensor) -> Tensor:
        return layer_norm(x, weight, bias, eps=EPS, dtype=torch.float32) * 2

    x = rows(3, 48).to(device)
    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), twice(x))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [768, 1024, 1280])
def test_real_sizes_in_a_cuda_graph(
    channels: int, dtype: torch.dtype, device: torch.device
) -> None:
    if device.type != "cuda":
        pytest.skip("no GPU")
    x = rows(2, 64, 64, channels).to(device, dtype)
    warm, _ = compare(x, device, dtype)
    weight, bias = (one.to(device) for one in parameters(channels))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = layer_norm(x, weight, bias, eps=EPS, dtype=dtype)
    graph.replay()
    assert torch.equal(found, warm)
