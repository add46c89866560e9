from __future__ import annotations

import pytest
import torch

from autosam_deploy.errors import CheckpointError
from autosam_deploy.models.heads import (
    POSITION_KEY,
    Head,
    head_shapes,
    initialise_from_sam,
    seeded_head_state,
)
from autosam_deploy.spec import AutosamHead, CnnHead, HeadSpec, LinearHead

HEADS: list[HeadSpec] = [
    AutosamHead(num_classes=3, embed_dim=32, num_heads=4, mlp_dim=40),
    CnnHead(num_classes=3, embed_dim=32, depth=2, top_channels=8),
    LinearHead(num_classes=3, embed_dim=32),
]


@pytest.mark.parametrize("spec", HEADS, ids=lambda spec: spec.kind)
def test_seeded_weights_load_strictly_and_none_is_zero(spec: HeadSpec) -> None:
    state, other = seeded_head_state(spec, 0), seeded_head_state(spec, 1)
    Head(spec).load_state_dict(state, strict=True)
    assert all((tensor != 0).float().mean() > 0.99 for tensor in state.values())
    assert not any(torch.equal(state[name], other[name]) for name in state)
    assert all(torch.equal(state[name], seeded_head_state(spec, 0)[name]) for name in state)


@pytest.mark.parametrize("spec", HEADS, ids=lambda spec: spec.kind)
def test_float64_all_the_way(spec: HeadSpec) -> None:
    head = Head(spec)
    head.load_state_dict(seeded_head_state(spec, 0))
    embedding = torch.randn(2, 32, 3, 4, generator=torch.Generator().manual_seed(0))
    single = head(embedding)
    double = head.double()(embedding.double())
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)
    assert not torch.equal(single.double(), double)


def test_deep_heads_keep_logits_of_the_order_of_one() -> None:
    spec = CnnHead(num_classes=3, embed_dim=32, depth=6, top_channels=2)
    head = Head(spec)
    head.load_state_dict(seeded_head_state(spec, 0))
    assert 0.05 < head(torch.randn(1, 32, 2, 2)).std() < 20


def test_initialising_from_sam_takes_all_but_iou_and_mask_tokens() -> None:
    spec = HEADS[0]
    state, sam = seeded_head_state(spec, 0), seeded_head_state(spec, 1)
    sam["mask_decoder.output_hypernetworks_mlps.3.layers.0.weight"] = torch.zeros(1)
    found = initialise_from_sam(state, sam)
    kept = {name for name in state if torch.equal(found[name], state[name])}
    assert found.keys() == head_shapes(spec).keys()
    assert kept == {
        POSITION_KEY,
        "mask_decoder.iou_token.weight",
        "mask_decoder.mask_tokens.weight",
        *(
            f"mask_decoder.iou_prediction_head.layers.{layer}.{part}"
            for layer in range(3)
            for part in ("weight", "bias")
        ),
    }


def test_initialising_refuses_another_width() -> None:
    wide = AutosamHead(num_classes=3, embed_dim=64, num_heads=4, mlp_dim=40)
    with pytest.raises(CheckpointError, match="does not fit the head"):
        initialise_from_sam(seeded_head_state(HEADS[0], 0), seeded_head_state(wide, 0))
