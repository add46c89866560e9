from __future__ import annotations

import pytest
import torch
from segment_anything.modeling.image_encoder import get_rel_pos

from autosam_deploy.encoders import ENCODERS, EncoderSpec
from autosam_deploy.errors import CheckpointError
from autosam_deploy.models.encoders import (
    build_encoder,
    encoder_shapes,
    resize_encoder_state,
    seeded_encoder_state,
)


def test_names_and_shapes_are_those_of_sam(tiny_encoder: EncoderSpec) -> None:
    shapes = encoder_shapes(tiny_encoder)
    block = {f"{m}.{p}" for m in ("norm1", "norm2") for p in ("weight", "bias")}
    block |= {f"attn.{m}.{p}" for m in ("qkv", "proj") for p in ("weight", "bias")}
    block |= {f"mlp.{m}.{p}" for m in ("lin1", "lin2") for p in ("weight", "bias")}
    block |= {"attn.rel_pos_h", "attn.rel_pos_w"}
    expected = {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    expected |= {f"blocks.{index}.{name}" for index in range(3) for name in block}
    # Neither neck convolution has a bias.
    expected |= {"neck.0.weight", "neck.1.weight", "neck.1.bias"}
    expected |= {"neck.2.weight", "neck.3.weight", "neck.3.bias"}
    assert shapes.keys() == expected
    assert shapes["pos_embed"] == (1, 6, 6, 48)
    assert shapes["blocks.0.attn.rel_pos_h"] == (2 * 4 - 1, 16)  # windowed: by the window
    assert shapes["blocks.1.attn.rel_pos_h"] == (2 * 6 - 1, 16)  # global: by the grid


@pytest.mark.parametrize(
    ("name", "parameters"), [("vit_b", 89.7e6), ("vit_l", 308.3e6), ("vit_h", 637.0e6)]
)
def test_variants_have_the_published_number_of_weights(name: str, parameters: float) -> None:
    shapes = encoder_shapes(ENCODERS[name])
    assert sum(shape.numel() for shape in shapes.values()) == pytest.approx(parameters, rel=1e-3)


def test_layer_norms_use_sams_epsilon(tiny_encoder: EncoderSpec) -> None:
    encoder = build_encoder(tiny_encoder)
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == 2 * tiny_encoder.depth
    assert {norm.eps for norm in norms} == {1e-6}


def test_square_and_other_grids(tiny_encoder: EncoderSpec) -> None:
    for image_size in ((48, 48), (40, 72), (72, 40)):
        spec = tiny_encoder.resized(image_size)
        encoder = build_encoder(spec)
        encoder.load_state_dict(seeded_encoder_state(spec, 0), strict=True)
        embedding = encoder(torch.rand(2, 3, *image_size))
        assert embedding.shape == (2, 32, *spec.grid)


def test_an_encoder_without_windows(tiny_encoder: EncoderSpec) -> None:
    spec = tiny_encoder.model_copy(update={"window_size": 0, "image_size": (40, 64)})
    encoder = build_encoder(spec)
    assert encoder(torch.rand(1, 3, 40, 64)).shape == (1, 32, 5, 8)
    assert encoder.state_dict()["blocks.0.attn.rel_pos_w"].shape == (15, 16)


def test_seeded_weights_depend_on_seed_and_name_only(tiny_encoder: EncoderSpec) -> None:
    first, again = (seeded_encoder_state(tiny_encoder, 3) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    deeper = tiny_encoder.model_copy(update={"depth": 4})
    assert torch.equal(seeded_encoder_state(deeper, 3)["neck.2.weight"], first["neck.2.weight"])
    other = seeded_encoder_state(tiny_encoder, 4)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert all((tensor != 0).float().mean() > 0.99 for tensor in first.values())


def test_weights_that_fit_are_returned_as_they_are(tiny_encoder: EncoderSpec) -> None:
    state = seeded_encoder_state(tiny_encoder, 0)
    resized = resize_encoder_state(state, tiny_encoder)
    assert all(resized[name] is state[name] for name in state)


@pytest.mark.parametrize("image_size", [(64, 64), (32, 32), (40, 80)])
def test_relative_tables_are_resized_as_segment_anything_does_at_run_time(
    tiny_encoder: EncoderSpec, image_size: tuple[int, int]
) -> None:
    state = seeded_encoder_state(tiny_encoder, 0)
    spec = tiny_encoder.resized(image_size)
    resized = resize_encoder_state(state, spec)
    for axis, side in zip("hw", spec.grid, strict=True):
        name = f"blocks.1.attn.rel_pos_{axis}"
        expected = get_rel_pos(side, side, state[name])
        assert torch.equal(get_rel_pos(side, side, resized[name]), expected)
        windowed = f"blocks.0.attn.rel_pos_{axis}"
        assert resized[windowed] is state[windowed]


@pytest.mark.parametrize("image_size", [(32, 32), (40, 56)])
def test_a_smaller_encoder_is_what_sam_computes_with_its_own_tables(
    tiny_encoder: EncoderSpec, image_size: tuple[int, int]
) -> None:
    """The package's forward pass interpolates relative tables that were left at their length."""
    state, spec = seeded_encoder_state(tiny_encoder, 0), tiny_encoder.resized(image_size)
    resized = resize_encoder_state(state, spec)
    ours, theirs = build_encoder(spec), build_encoder(spec)
    ours.load_state_dict(resized)
    theirs.load_state_dict(resized)
    for axis in "hw":
        left = torch.nn.Parameter(state[f"blocks.1.attn.rel_pos_{axis}"])
        setattr(theirs.blocks[1].attn, f"rel_pos_{axis}", left)
    image = torch.rand(2, 3, *image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=1e-6)


def test_the_absolute_table_is_resized_bicubically(tiny_encoder: EncoderSpec) -> None:
    state = seeded_encoder_state(tiny_encoder, 0)
    table = state["pos_embed"]
    resized = resize_encoder_state(state, tiny_encoder.resized((48, 96)))["pos_embed"]
    assert resized.shape == (1, 6, 12, 48)
    # Column 4 of 12 lies at (4 + 0.5) / 2 - 0.5 = 1.75 of 6: Keys' kernel with a = -0.75.
    near, far = (0.25, 0.75), (1.25, 1.75)
    inner = [1.25 * d**3 - 2.25 * d**2 + 1 for d in near]
    outer = [-0.75 * (d**3 - 5 * d**2 + 8 * d - 4) for d in far]
    weights = torch.tensor([outer[1], inner[1], inner[0], outer[0]])
    torch.testing.assert_close(resized[0, 2, 4], weights @ table[0, 2, :4], atol=1e-6, rtol=1e-5)


def test_resizing_refuses_other_weights(tiny_encoder: EncoderSpec) -> None:
    state = seeded_encoder_state(tiny_encoder, 0)
    with pytest.raises(CheckpointError, match=r"missing 'neck\.0\.weight'"):
        resize_encoder_state({k: v for k, v in state.items() if k != "neck.0.weight"}, tiny_encoder)
    with pytest.raises(CheckpointError, match=r"unexpected 'adapter'"):
        resize_encoder_state({**state, "adapter": torch.zeros(1)}, tiny_encoder)
    narrow = tiny_encoder.model_copy(update={"window_size": 3})
    with pytest.raises(CheckpointError, match=r"rel_pos_h' does not fit.*got shape \(7, 16\)"):
        resize_encoder_state(state, narrow)
