from __future__ import annotations

import pytest
import torch
from torch import nn

from autosam_deploy.models.heads import Head, head_shapes, seeded_head_state
from autosam_deploy.models.heads.cnn import upsampling_factor
from autosam_deploy.spec import CnnHead


def convolutions(*names: str) -> set[str]:
    return {f"mask_decoder.{name}.{part}" for name in names for part in ("weight", "bias")}


def test_names_and_shapes_are_the_references_at_depth_4() -> None:
    shapes = head_shapes(CnnHead(num_classes=5))
    assert shapes.keys() == convolutions(
        "input_block.0", "input_block.2", "blocks.0.0", "blocks.0.2", "blocks.1.0", "blocks.1.2"
    ) | convolutions(
        "blocks.2.0", "blocks.2.2", "blocks.2.4", "blocks.3.0", "blocks.3.2", "blocks.3.4"
    ) | convolutions("final.0", "final.1")
    assert shapes["mask_decoder.input_block.0.weight"] == (1024, 256, 1, 1)
    assert shapes["mask_decoder.blocks.0.2.weight"] == (512, 1024, 3, 3)
    assert shapes["mask_decoder.blocks.1.2.weight"] == (256, 512, 3, 3)
    assert shapes["mask_decoder.blocks.2.2.weight"] == (256, 256, 3, 3)
    assert shapes["mask_decoder.blocks.2.4.weight"] == (256, 128, 2, 2)
    assert shapes["mask_decoder.blocks.3.4.weight"] == (128, 64, 2, 2)
    assert shapes["mask_decoder.final.1.weight"] == (5, 64, 1, 1)


def test_number_of_weights_at_depth_4() -> None:
    weights = sum(shape.numel() for shape in head_shapes(CnnHead(num_classes=4)).values())
    assert weights == pytest.approx(20.7e6, rel=5e-3)


@pytest.mark.parametrize(("depth", "factor"), [(1, 2), (2, 4), (3, 2), (4, 4), (5, 8), (6, 16)])
def test_the_first_two_blocks_keep_the_size_when_there_are_more(depth: int, factor: int) -> None:
    spec = CnnHead(num_classes=2, embed_dim=8, depth=depth, top_channels=1)
    head = Head(spec)
    assert upsampling_factor(depth) == factor
    assert head(torch.rand(1, 8, 3, 2)).shape == (1, 2, 3 * factor, 2 * factor)
    upsamples = [
        any(isinstance(layer, nn.ConvTranspose2d) for layer in block)
        for block in head.mask_decoder.blocks
    ]
    assert upsamples == [depth <= 2 or index >= 2 for index in range(depth)]


def test_there_is_no_activation_between_the_last_two_convolutions() -> None:
    head = Head(CnnHead(num_classes=2, embed_dim=4, depth=1, top_channels=2))
    with torch.no_grad():
        for weight in head.parameters():
            weight.zero_()
        head.mask_decoder.final[0].bias.copy_(torch.tensor([-3.0, 1.0]))
        head.mask_decoder.final[1].weight.copy_(torch.eye(2)[:, :, None, None])
    logits = head(torch.rand(1, 4, 2, 2))
    assert logits[0, :, 1, 1].tolist() == [-3.0, 1.0]


def test_every_other_convolution_is_followed_by_a_relu() -> None:
    spec = CnnHead(num_classes=2, embed_dim=4, depth=3, top_channels=2)
    head = Head(spec)
    head.load_state_dict(seeded_head_state(spec, 0))
    decoder = head.mask_decoder
    for block in (decoder.input_block, *decoder.blocks):
        layers = list(block)
        for layer, behind in zip(layers, [*layers[1:], None], strict=True):
            if isinstance(layer, nn.Conv2d):
                assert isinstance(behind, nn.ReLU)
