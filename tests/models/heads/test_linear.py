from __future__ import annotations

import torch

from autosam_deploy.models.heads import Head, head_shapes, seeded_head_state
from autosam_deploy.spec import LinearHead


def test_names_and_shapes_are_the_references() -> None:
    shapes = head_shapes(LinearHead(num_classes=4))
    modules = ("output_upscaling.0", "output_upscaling.1", "output_upscaling.3")
    modules += ("final.0", "final.2")
    assert shapes.keys() == {f"mask_decoder.{m}.{p}" for m in modules for p in ("weight", "bias")}
    assert shapes["mask_decoder.output_upscaling.0.weight"] == (256, 64, 2, 2)
    assert shapes["mask_decoder.output_upscaling.1.weight"] == (64,)
    assert shapes["mask_decoder.output_upscaling.3.weight"] == (64, 32, 2, 2)
    assert shapes["mask_decoder.final.0.weight"] == (32, 32, 1, 1)
    assert shapes["mask_decoder.final.2.weight"] == (4, 32, 1, 1)


def test_the_final_relu_clips_logits_and_nothing_else() -> None:
    embedding = torch.randn(2, 32, 3, 5, generator=torch.Generator().manual_seed(0))
    logits = {}
    for final_relu in (True, False):
        spec = LinearHead(num_classes=3, embed_dim=32, final_relu=final_relu)
        head = Head(spec)
        head.load_state_dict(seeded_head_state(spec, 0))
        logits[final_relu] = head(embedding)
    assert logits[True].shape == (2, 3, 12, 20)
    assert logits[False].min() < 0
    assert torch.equal(logits[True], logits[False].clamp(min=0))


def test_where_all_classes_are_clipped_background_wins() -> None:
    head = Head(LinearHead(num_classes=3, embed_dim=32, final_relu=True))
    with torch.no_grad():
        head.mask_decoder.final[2].weight.zero_()
        head.mask_decoder.final[2].bias.copy_(torch.tensor([-2.0, -1.0, -3.0]))
    assert head(torch.rand(1, 32, 2, 2)).argmax(dim=1).unique().tolist() == [0]
