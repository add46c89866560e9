"""Every lowering and every rewrite around attention against SAM's own code, in float64."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention, Block
from torch import Tensor

from autosam_deploy.encoders import ENCODERS, EncoderSpec, VitEncoder
from autosam_deploy.fused.attention import (
    LOWERINGS,
    WIDTH_MULTIPLE,
    RelPosAttention,
    one_hot_coordinates,
    query_blocks,
)
from autosam_deploy.fused.encoders import vit as fused_encoder
from autosam_deploy.fused.windows import merge_heads, split_heads

TOLERANCE = 1e-10


def close(actual: Tensor, expected: Tensor) -> bool:
    return float((actual - expected).abs().max() / expected.abs().max()) <= TOLERANCE


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * (
            0.5 if parameter.ndim > 1 else 0.2
        )
    return module.double().eval().requires_grad_(False)


def block_spec(*, heads: int, head_dim: int, grid: tuple[int, int], window: int) -> EncoderSpec:
    return VitEncoder(
        name="block",
        embed_dim=heads * head_dim,
        depth=1,
        num_heads=heads,
        global_attn_indexes=() if window else (0,),
        window_size=window or 14,
        patch_size=4,
        image_size=(grid[0] * 4, grid[1] * 4),
    )


def reference_block(spec: EncoderSpec) -> torch.nn.Module:
    window = spec.window_of(0)
    block = Block(
        dim=spec.embed_dim,
        num_heads=spec.num_heads,
        use_rel_pos=True,
        window_size=window,
        input_size=spec.grid,
        norm_layer=lambda dim: torch.nn.LayerNorm(dim, eps=1e-6),
    )
    return randomise(block)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("grid", [(6, 6), (4, 7), (9, 5)])
@pytest.mark.parametrize(("heads", "head_dim"), [(2, 8), (1, 80)])
@pytest.mark.parametrize("window", [0, 4])
def test_block_equals_sam(
    lowering: str, grid: tuple[int, int], heads: int, head_dim: int, window: int
) -> None:
    spec = block_spec(heads=heads, head_dim=head_dim, grid=grid, window=window)
    truth = reference_block(spec)
    state = {f"blocks.0.{name}": value for name, value in truth.state_dict().items()}
    fused = fused_encoder.Block(state, spec, index=0, lowering=lowering)
    x = torch.randn(3, *grid, spec.embed_dim, dtype=torch.float64)
    assert close(fused(x), truth(x))


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_query_blocks_change_nothing(lowering: str) -> None:
    grid, heads, head_dim = (6, 4), 2, 8
    truth = randomise(
        Attention(heads * head_dim, num_heads=heads, use_rel_pos=True, input_size=grid)
    )
    core = RelPosAttention(
        lowering=lowering,
        rel_pos_h=truth.rel_pos_h,
        rel_pos_w=truth.rel_pos_w,
        grid=grid,
        num_heads=heads,
        scale=0.25,
    )
    q, k, v = torch.randn(3, 2, heads, 24, head_dim, dtype=torch.float64)
    results = []
    for blocks in (1, 2, 6):
        core.blocks = blocks
        results.append(core(q, k, v))
    assert close(results[1], results[0])
    assert close(results[2], results[0])


def test_interpolated_relative_positions() -> None:
    """Tables made for another grid are interpolated exactly as SAM does it."""
    grid, heads, head_dim = (5, 3), 2, 8
    truth = randomise(
        Attention(heads * head_dim, num_heads=heads, use_rel_pos=True, input_size=(8, 8))
    )
    core = RelPosAttention(
        lowering="explicit",
        rel_pos_h=truth.rel_pos_h,
        rel_pos_w=truth.rel_pos_w,
        grid=grid,
        num_heads=heads,
        scale=head_dim**-0.5,
    )
    x = torch.randn(2, *grid, heads * head_dim, dtype=torch.float64)
    q, k, v = truth.qkv(x).chunk(3, dim=-1)
    q, k, v = (split_heads(t, num_heads=heads, window=0) for t in (q, k, v))
    out = truth.proj(merge_heads(core(q * head_dim**-0.5, k, v), grid=grid, window=0))
    assert close(out, truth(x))


@pytest.mark.parametrize("grid", [(6, 6), (4, 7), (8, 3)])
@pytest.mark.parametrize("window", [0, 4])
def test_merge_undoes_split(grid: tuple[int, int], window: int) -> None:
    x = torch.randn(2, *grid, 12)
    heads = split_heads(x, num_heads=3, window=window)
    assert torch.equal(merge_heads(heads, grid=grid, window=window), x)


def test_blocks_bound_the_scores_of_a_big_grid() -> None:
    assert query_blocks((14, 14), 12) == 1
    blocks = query_blocks((64, 64), 12)
    assert blocks > 1
    assert 64 % blocks == 0
    assert 12 * 4096 * 4096 / blocks <= 2**25


def test_blocks_divide_an_awkward_grid() -> None:
    assert query_blocks((67, 67), 12) == 67


@pytest.mark.parametrize("window", [0, 14])
@pytest.mark.parametrize("heads", [3, 8, 10])
def test_blocks_in_parts_equal_sam(heads: int, window: int) -> None:
    spec = block_spec(heads=heads, head_dim=4, grid=(33, 32), window=window)
    truth = reference_block(spec)
    state = {f"blocks.0.{name}": value for name, value in truth.state_dict().items()}
    fused = fused_encoder.Block(state, spec, index=0, lowering="augmented")
    assert len(fused.channel_groups) > 1 or heads == 3
    assert len(fused.row_groups) == 4
    x = torch.randn(1, *spec.grid, spec.embed_dim, dtype=torch.float64)
    assert close(fused(x), truth(x))


def test_large_grids_are_worked_on_in_parts() -> None:
    lowering, spec = LOWERINGS["augmented"], ENCODERS["vit_b"]
    assert lowering.channel_groups(spec, window=0) == [slice(s, s + 256) for s in (0, 256, 512)]
    assert lowering.channel_groups(spec, window=14) == [slice(0, 384), slice(384, 768)]
    assert lowering.row_groups(spec) == [slice(s, s + 16) for s in (0, 16, 32, 48)]
    small = block_spec(heads=12, head_dim=64, grid=(14, 14), window=0)
    assert lowering.channel_groups(small, window=0) == [slice(0, 768)]
    assert lowering.row_groups(small) == [slice(0, 14)]


def test_parts_need_not_divide() -> None:
    lowering = LOWERINGS["augmented"]
    spec = block_spec(heads=10, head_dim=2, grid=(33, 33), window=0)
    groups = lowering.channel_groups(spec, window=0)
    assert groups == [slice(0, 8), slice(8, 16), slice(16, 20)]
    assert [rows.stop - rows.start for rows in lowering.row_groups(spec)] == [9, 9, 9, 6]


@pytest.mark.parametrize("lowering", ["explicit", "masked"])
def test_other_lowerings_take_all_at_once(lowering: str) -> None:
    spec = ENCODERS["vit_b"]
    assert LOWERINGS[lowering].channel_groups(spec, window=0) == [slice(0, 768)]
    assert LOWERINGS[lowering].row_groups(spec) == [slice(0, 64)]


@pytest.mark.parametrize(
    ("grid", "width", "total"), [((14, 14), 64, 96), ((64, 64), 64, 192), ((64, 64), 80, 208)]
)
def test_widened_keys_fit_the_kernels(grid: tuple[int, int], width: int, total: int) -> None:
    widening = one_hot_coordinates(grid, width)
    assert width + widening.shape[-1] == total
    assert total % WIDTH_MULTIPLE == 0
    assert bool((widening.sum(dim=-1) == 2).all())  # one row, one column, zeros
