from __future__ import annotations

import math

import pytest
import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.mask_decoder import MaskDecoder
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import Tensor, nn

from autosam_deploy.models.heads import Head, head_shapes, seeded_head_state
from autosam_deploy.models.heads.autosam import PositionEncoding
from autosam_deploy.spec import AutosamHead

SPEC = AutosamHead(num_classes=3, embed_dim=32, num_heads=4, mlp_dim=40)


def make_head(spec: AutosamHead = SPEC, seed: int = 1) -> Head:
    head = Head(spec)
    head.load_state_dict(seeded_head_state(spec, seed))
    return head.eval().requires_grad_(False)


def expected_names(depth: int) -> set[str]:
    """Names of AutoSamSeg without `image_encoder.*` (models/AutoSamSeg.py, sam_decoder.py)."""

    def attention(name: str) -> set[str]:
        return {
            f"{name}.{projection}_proj.{part}"
            for projection in ("q", "k", "v", "out")
            for part in ("weight", "bias")
        }

    names = set()
    for index in range(depth):
        layer = f"transformer.layers.{index}"
        for block in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token"):
            names |= attention(f"{layer}.{block}")
        for module in ("norm1", "norm2", "norm3", "norm4", "mlp.lin1", "mlp.lin2"):
            names |= {f"{layer}.{module}.weight", f"{layer}.{module}.bias"}
    names |= attention("transformer.final_attn_token_to_image")
    modules = ["transformer.norm_final_attn"]
    modules += [f"output_upscaling.{index}" for index in (0, 1, 3)]
    modules += [f"output_hypernetworks_mlps.{m}.layers.{i}" for m in (0, 1) for i in range(3)]
    modules += [f"iou_prediction_head.layers.{i}" for i in range(3)]
    names |= {f"{module}.{part}" for module in modules for part in ("weight", "bias")}
    names |= {"iou_token.weight", "mask_tokens.weight"}
    return {f"mask_decoder.{name}" for name in names} | {
        "pe_layer.positional_encoding_gaussian_matrix"
    }


def test_names_and_shapes_are_the_references() -> None:
    shapes = head_shapes(AutosamHead(num_classes=4))
    assert shapes.keys() == expected_names(2)
    assert shapes["pe_layer.positional_encoding_gaussian_matrix"] == (2, 128)
    assert shapes["mask_decoder.iou_token.weight"] == (4, 256)
    assert shapes["mask_decoder.mask_tokens.weight"] == (8, 256)
    assert shapes["mask_decoder.transformer.layers.0.mlp.lin1.weight"] == (2048, 256)
    assert shapes["mask_decoder.transformer.layers.1.self_attn.q_proj.weight"] == (256, 256)
    cross = "mask_decoder.transformer.layers.1.cross_attn_token_to_image.q_proj.weight"
    assert shapes[cross] == (128, 256)
    assert shapes["mask_decoder.output_upscaling.3.weight"] == (64, 32, 2, 2)
    assert shapes["mask_decoder.output_hypernetworks_mlps.1.layers.2.weight"] == (32, 256)
    assert shapes["mask_decoder.iou_prediction_head.layers.2.weight"] == (2, 256)


def test_each_class_is_sams_own_decoder_with_that_class_tokens() -> None:
    head, (batch, grid) = make_head().double(), (2, (3, 5))
    embedding = torch.randn(batch, 32, *grid, generator=torch.Generator().manual_seed(2)).double()
    logits = head(embedding)
    assert logits.shape == (batch, 3, 12, 20)
    state = {
        name.removeprefix("mask_decoder."): tensor
        for name, tensor in head.state_dict().items()
        if name.startswith("mask_decoder.")
    }
    for label in range(3):
        sam = MaskDecoder(
            transformer_dim=32,
            transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=40, num_heads=4),
            num_multimask_outputs=1,
        )
        own = {
            "iou_token.weight": state["iou_token.weight"][label : label + 1],
            "mask_tokens.weight": state["mask_tokens.weight"][2 * label : 2 * label + 2],
        }
        sam.double().load_state_dict({**state, **own})
        for item in range(batch):
            masks, _ = sam.predict_masks(
                image_embeddings=embedding[item : item + 1],
                image_pe=head.pe_layer(grid)[None],
                sparse_prompt_embeddings=torch.zeros(1, 0, 32).double(),
                dense_prompt_embeddings=torch.zeros(1, 32, *grid),
            )
            torch.testing.assert_close(logits[item, label], masks[0, 0], rtol=1e-9, atol=1e-9)


class RecordingTransformer(nn.Module):
    """Stands in for the two-way transformer; returns its inputs."""

    def forward(self, image: Tensor, position: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        self.image, self.position, self.tokens = image, position, tokens
        return tokens, image.flatten(2).transpose(1, 2)


def test_the_batch_runs_class_fastest_and_mask_token_0_makes_the_map() -> None:
    head, recorder = make_head(), RecordingTransformer()
    decoder = head.mask_decoder
    decoder.transformer = recorder
    embedding = torch.stack([torch.full((32, 2, 2), 1.0), torch.full((32, 2, 2), 2.0)])
    logits = head(embedding)
    assert recorder.image[:, 0, 0, 0].tolist() == [1, 1, 1, 2, 2, 2]
    assert recorder.position.shape == (6, 32, 2, 2)
    for row in range(6):
        label = row % 3
        assert torch.equal(recorder.tokens[row, 0], decoder.iou_token.weight[label])
        assert torch.equal(recorder.tokens[row, 1:], decoder.mask_tokens.weight[2 * label :][:2])
    hyper = decoder.output_hypernetworks_mlps[0](decoder.mask_tokens.weight[::2])
    upscaled = decoder.output_upscaling(embedding)
    torch.testing.assert_close(logits, torch.einsum("kc,bchw->bkhw", hyper, upscaled))


@pytest.mark.parametrize(
    ("part", "matters"),
    [
        ("output_hypernetworks_mlps.0", True),
        ("output_hypernetworks_mlps.1", False),
        ("iou_prediction_head", False),
        ("iou_token", True),
    ],
)
def test_what_the_logits_depend_on(part: str, *, matters: bool) -> None:
    embedding = torch.randn(1, 32, 2, 2, generator=torch.Generator().manual_seed(0))
    head = make_head()
    before = head(embedding)
    for name, weight in head.named_parameters():
        if name.startswith(f"mask_decoder.{part}."):
            weight.mul_(1.5)
    assert torch.equal(head(embedding), before) is not matters


@pytest.mark.parametrize("grid", [(64, 64), (5, 9)])
def test_position_equals_sams(grid: tuple[int, int]) -> None:
    ours, sams = PositionEncoding(16), PositionEmbeddingRandom(16)
    sams.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(grid), sams(grid), rtol=0, atol=1e-5)


def test_position_by_hand() -> None:
    position = PositionEncoding(1).double()
    position.positional_encoding_gaussian_matrix.copy_(torch.tensor([[0.3], [0.7]]))
    encoded = position((2, 4))
    assert encoded.shape == (2, 2, 4)
    # Row 1 of 2 is at y = 0.75, column 0 of 4 at x = 0.125; both are mapped to [-1, 1].
    angle = 2 * math.pi * (0.3 * (2 * 0.125 - 1) + 0.7 * (2 * 0.75 - 1))
    assert encoded[:, 1, 0].tolist() == pytest.approx([math.sin(angle), math.cos(angle)])


def test_position_follows_the_dtype_of_its_matrix() -> None:
    position = PositionEncoding(16)
    exact = position((64, 64))
    assert position.double()((64, 64)).dtype == torch.float64
    rounded = position.half()((64, 64))
    assert rounded.dtype == torch.float16
    # Only the matrix is rounded (2 pi 4 2**-11 at most for entries below 4), not the angle.
    assert (rounded.float() - exact).abs().max() < 0.02
