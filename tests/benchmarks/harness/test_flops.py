from __future__ import annotations

import pytest

from autosam_deploy.benchmarks.harness.flops import head_macs, model_flops
from autosam_deploy.encoders import ENCODERS
from autosam_deploy.spec import (
    AutosamHead,
    CnnHead,
    HeadSpec,
    LinearHead,
    ModelSpec,
    default_classes,
)


@pytest.mark.parametrize(("name", "gmac"), [("vit_b", 486), ("vit_l", 1493), ("vit_h", 2981)])
def test_encoders_of_sam(name: str, gmac: float) -> None:
    """Known figures; EfficientViT-SAM publishes 2973 GMAC for vit_h."""
    assert ENCODERS[name].macs() / 1e9 == pytest.approx(gmac, abs=0.6)


@pytest.mark.parametrize(
    ("head", "gmac", "within"),
    [
        (AutosamHead(num_classes=4), 4 * 1.74, 0.02),
        (CnnHead(num_classes=2), 91.0, 0.001),
        (LinearHead(num_classes=4), 0.48, 0.01),
    ],
)
def test_heads(head: HeadSpec, gmac: float, within: float) -> None:
    assert head_macs(head, ENCODERS["vit_b"]) / 1e9 == pytest.approx(gmac, rel=within)


def test_counted_against_torch_profiler() -> None:
    """Matrix products and convolutions as torch itself counts them."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from autosam_deploy.models.segmenter import seeded_segmenter

    for head in (
        AutosamHead(num_classes=3),
        CnnHead(num_classes=3, depth=3, top_channels=8),
        LinearHead(num_classes=3),
    ):
        spec = ModelSpec(encoder=ENCODERS["vit_tiny"], head=head, classes=default_classes(3))
        segmenter = seeded_segmenter(spec)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            segmenter(torch.rand(1, 1, 256, 256))
        assert model_flops(spec) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_least_work_leaves_out_padding_alone() -> None:
    spec = ENCODERS["vit_b"]
    padding = 70 * 70 - 64 * 64
    saved = 8 * padding * 4 * 768 * 768  # eight windowed blocks, four projections each
    assert spec.macs() - spec.macs(padded=False) == saved
    whole = spec.model_copy(update={"global_attn_indexes": tuple(range(12))})
    assert whole.macs() == whole.macs(padded=False)
