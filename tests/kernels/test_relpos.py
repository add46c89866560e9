"""Attention kernels against plain PyTorch in float64, on the GPU or in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autosam_deploy.errors import BackendInputError
from autosam_deploy.fused.attention import RelPosAttention
from autosam_deploy.fused.windows import merge_heads, split_heads
from autosam_deploy.kernels.relpos import relpos_attention, relpos_attention_reference
from autosam_deploy.kernels.relpos_plan import MOST_SIDE
from autosam_deploy.kernels.tiles import Tiles

HALVES = [torch.float16, torch.bfloat16]
#: Batch, grid, window, heads, channels of a head.
Shape = tuple[int, tuple[int, int], int, int, int]
SHAPES: list[Shape] = [
    (1, (8, 8), 0, 2, 8),
    (5, (8, 8), 0, 1, 16),
    (2, (16, 16), 0, 1, 32),
    (1, (16, 16), 0, 2, 64),
    (1, (6, 20), 0, 2, 48),
    (3, (5, 7), 0, 1, 80),
    (1, (3, 33), 0, 1, 16),
    (2, (8, 8), 3, 2, 8),
    (1, (8, 8), 4, 1, 80),
    (1, (16, 16), 14, 1, 64),
    (1, (14, 28), 14, 1, 16),
    (1, (5, 7), 14, 1, 16),
    (1, (17, 9), 8, 2, 16),
]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def inputs(shape: Shape, *, dtype: torch.dtype, device: torch.device, loud: float = 2.0) -> Inputs:
    """Thirds of one projection, so strided, and tables as large as the scores."""
    batch, grid, window, heads, width = shape
    generator = torch.Generator().manual_seed(sum(grid) + window + width)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    sides = (window, window) if window else grid
    qkv = random(batch, *grid, 3 * heads * width)
    qkv[..., : heads * width] *= loud * width**-0.5
    q, k, v = qkv.to(device, dtype).chunk(3, dim=-1)
    tables = [random(side, width, side).to(device, dtype) for side in sides]
    return q, k, v, tables[0], tables[1]


def run(
    function: Callable[..., Tensor], given: Inputs, shape: Shape, tiles: Tiles | None = None
) -> Tensor:
    cut = {} if tiles is None else {"tiles": tiles}
    return function(*given, num_heads=shape[3], window=shape[2], **cut)


def truth(given: Inputs, shape: Shape) -> Tensor:
    exact = tuple(one.double() for one in given)
    return run(relpos_attention_reference, exact, shape)


def worst(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).abs().max())


def explicit(given: Inputs, shape: Shape) -> Tensor:
    """The plain lowering through `split_heads` and `merge_heads`, in the inputs' dtype."""
    _, grid, window, heads, width = shape
    sides = (window, window) if window else grid
    node = RelPosAttention(
        lowering="explicit",
        rel_pos_h=torch.zeros(2 * sides[0] - 1, width),
        rel_pos_w=torch.zeros(2 * sides[1] - 1, width),
        grid=sides,
        num_heads=heads,
        scale=1.0,
    )
    node.table_h.data, node.table_w.data = given[3], given[4]
    parts = (split_heads(one, num_heads=heads, window=window) for one in given[:3])
    return merge_heads(node(*parts), grid=grid, window=window)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reference_equals_the_plain_lowering(shape: Shape) -> None:
    given = inputs(shape, dtype=torch.float64, device=torch.device("cpu"))
    assert worst(truth(given, shape), explicit(given, shape)) <= 1e-12


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_algebra_in_float32(shape: Shape, device: torch.device) -> None:
    given = inputs(shape, dtype=torch.float32, device=device)
    found, expected = run(relpos_attention, given, shape), truth(given, shape)
    assert found.dtype == torch.float32
    assert found.shape == given[0].shape
    assert found.is_contiguous()
    # Scores of up to 20 are rounded to 24 bits, sums of a few hundred terms follow.
    assert worst(found, expected) <= 2e-5 * float(expected.abs().max())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_halves_are_as_good_as_the_plain_lowering(
    shape: Shape, dtype: torch.dtype, device: torch.device
) -> None:
    given = inputs(shape, dtype=dtype, device=device)
    found, expected = run(relpos_attention, given, shape), truth(given, shape)
    assert found.dtype == dtype
    # Twice what the same dtype costs in plain PyTorch, and one rounding of the result.
    floor = float(expected.abs().max()) * torch.finfo(dtype).eps
    assert worst(found, expected) <= 2 * worst(explicit(given, shape), expected) + floor


@pytest.mark.parametrize(
    "tiles", [Tiles(16, 16, 1, 1), Tiles(32, 64, 2, 2), Tiles(64, 128, 4, 3)], ids=str
)
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[5], SHAPES[7], SHAPES[10]], ids=str)
def test_tiles_change_nothing(shape: Shape, tiles: Tiles, device: torch.device) -> None:
    given = inputs(shape, dtype=torch.float32, device=device)
    found, expected = run(relpos_attention, given, shape, tiles), truth(given, shape)
    assert worst(found, expected) <= 2e-5 * float(expected.abs().max())


def test_strides_are_free_but_the_last(device: torch.device) -> None:
    shape = (2, (6, 5), 4, 2, 16)
    given = inputs(shape, dtype=torch.float32, device=device)
    expected = truth(given, shape)
    # Columns before rows, and an address that 16 does not divide.
    q = given[0].transpose(1, 2).contiguous().transpose(1, 2)
    k = torch.empty(given[1].numel() + 1, device=device)[1:].view(given[1].shape)
    k.copy_(given[1])
    v = given[2].flip(0).contiguous().flip(0)
    tables = (one.transpose(0, 1).contiguous().transpose(0, 1) for one in given[3:])
    found = relpos_attention(q, k, v, *tables, num_heads=2, window=4)
    assert worst(found, expected) <= 2e-5 * float(expected.abs().max())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("window", [0, 3])
def test_large_scores_stay_finite(window: int, dtype: torch.dtype, device: torch.device) -> None:
    shape = (1, (8, 8), window, 1, 16)
    q, k, v, table_h, table_w = inputs(shape, dtype=dtype, device=device)
    # Scores of +-1e4 from products and from either table, some in the first tile, some in the last.
    k, q = k.clone(), torch.full_like(q, 25.0)
    k[:, 0, 0], k[:, 0, 1], k[:, 7, 7] = 25.0, -25.0, 25.0
    table_h[:, :, 0], table_w[:, :, -1] = -25.0, 25.0
    given = (q, k, v, table_h, table_w)
    found, expected = run(relpos_attention, given, shape), truth(given, shape)
    assert torch.isfinite(found).all()
    # Scores of 2e4 are rounded to 16 (fp16) or 128 (bf16) before they are compared: only what is
    # far ahead counts, and it is one key in a query's softmax.
    assert worst(found, expected) <= float(v.abs().max()) * 4 * torch.finfo(dtype).eps


def test_scores_far_below_zero_weigh_alike(device: torch.device) -> None:
    shape = (1, (4, 4), 3, 1, 16)
    q, k, v, table_h, table_w = inputs(shape, dtype=torch.float16, device=device)
    given = (torch.full_like(q, 25.0), k * 0, v, table_h * 0 - 25.0, table_w * 0)
    found = run(relpos_attention, given, shape)
    # Every key scores -1e4, the padded ones of the corner too.
    assert worst(found[0, 3, 3], v[0, 3, 3].double() / 9) <= 1e-3


def test_empty_batch(device: torch.device) -> None:
    q = torch.zeros(0, 4, 4, 16, device=device, dtype=torch.float16)
    table = torch.zeros(4, 16, 4, device=device, dtype=torch.float16)
    assert relpos_attention(q, q, q, table, table, num_heads=1, window=0).shape == q.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(1, 4, 5, 32)}, r"q, k and v do not fit; got \(1, 4, 4, 32\), \(1, 4, 5"),
        ({"q": torch.zeros(4, 4, 32)}, r"expected one \(B, h, w, C\)"),
        ({"num_heads": 3}, "cannot be cut into heads; got 32 channels, 3 heads"),
        ({"num_heads": 0}, "cannot be cut into heads; got 32 channels, 0 heads"),
        ({"window": -1}, "do not take this grid; got 4 x 4 tokens, windows of -1"),
        ({"window": MOST_SIDE + 1}, f"expected 1 to {MOST_SIDE} tokens a side"),
        ({"window": 2}, r"table_h does not fit; got \(4, 16, 4\); expected \(2, 16, 2\)"),
        ({"table_w": torch.zeros(4, 16, 5)}, "table_w does not fit"),
        ({"v": torch.zeros(1, 4, 4, 32).double()}, r"got torch\.float32, torch\.float64; expected"),
        ({"q": torch.zeros(1, 4, 32, 4).transpose(2, 3)}, "strides of q do not fit"),
        ({"k": torch.zeros(1, 4, 4, 32, requires_grad=True)}, "no backward pass"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_errors(change: dict[str, Tensor | int], message: str, device: torch.device) -> None:
    given: dict[str, Tensor | int] = {
        **{name: torch.zeros(1, 4, 4, 32) for name in "qkv"},
        "table_h": torch.zeros(4, 16, 4),
        "table_w": torch.zeros(4, 16, 4),
        "num_heads": 2,
        "window": 0,
        **change,
    }
    moved = {
        name: one.detach().to(device).requires_grad_(one.requires_grad)
        if isinstance(one, Tensor)
        else one
        for name, one in given.items()
    }
    with pytest.raises(BackendInputError, match=message):
        relpos_attention(**moved)  # type: ignore[arg-type]


def test_head_width_that_cannot_be_cut(device: torch.device) -> None:
    q = torch.zeros(1, 4, 4, 72, device=device)
    with pytest.raises(BackendInputError, match=r"72 channels a head; expected .* 64, 80, 96, 128"):
        relpos_attention(q, q, q, q[0], q[0], num_heads=1, window=0)


def test_operator_is_well_behaved(device: torch.device) -> None:
    shape = SHAPES[7]
    given = inputs(shape, dtype=torch.float32, device=device)
    operator = torch.ops.autosam.relpos_attention.default
    torch.library.opcheck(operator, given, {"num_heads": shape[3], "window": shape[2]})


def test_compiled_graph_is_one_piece(device: torch.device) -> None:
    shape = SHAPES[7]
    given = inputs(shape, dtype=torch.float32, device=device)

    def twice(*tensors: Tensor) -> Tensor:
        return run(relpos_attention, tensors, shape) * 2  # type: ignore[arg-type]

    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*given), twice(*given))


@pytest.mark.slow
def test_real_grid_of_one_head(device: torch.device) -> None:
    shape = (1, (64, 64), 0, 1, 64)
    given = inputs(shape, dtype=torch.float16, device=device)
    found = run(relpos_attention, given, shape)
    expected = run(relpos_attention_reference, given, shape).double()
    assert worst(found, expected) <= 0.01


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("window", [0, 14])
@pytest.mark.parametrize(("heads", "width"), [(12, 64), (16, 80)])
def test_real_sizes_in_a_cuda_graph(
    window: int, heads: int, width: int, dtype: torch.dtype, device: torch.device
) -> None:
    if device.type != "cuda":
        pytest.skip("no GPU")
    shape = (2, (64, 64), window, heads, width)
    given = inputs(shape, dtype=dtype, device=device)
    warm = run(relpos_attention, given, shape)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run(relpos_attention, given, shape)
    graph.replay()
    assert torch.equal(found, warm)
    expected = run(relpos_attention_reference, given, shape).double()
    floor = float(expected.abs().max()) * torch.finfo(dtype).eps
    assert worst(found, expected) <= 2 * worst(explicit(given, shape), expected) + floor
