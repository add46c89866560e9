"""The fused TinyViT is the reference in float64, to 1e-10."""

from __future__ import annotations

import pytest
import torch

from autosam_deploy.encoders import ENCODERS, EncoderSpec, TinyVitEncoder
from autosam_deploy.fused.embedder import FusedEmbedder
from autosam_deploy.fused.encoders import score_shapes
from autosam_deploy.fused.encoders.tinyvit import fold_norm
from autosam_deploy.models.encoders import build_encoder, seeded_encoder_state
from autosam_deploy.models.encoders.tinyvit import ConvNorm
from autosam_deploy.models.preprocess import to_encoder_input
from autosam_deploy.spec import PreprocessSpec

TINY = ENCODERS["tinyvit_tiny"]
STRIDED = TinyVitEncoder.model_validate(
    {**TINY.model_dump(), "name": "strided", "stem_stride": 4, "image_size": (80, 112)}
)
RECIPES = {
    "plain": PreprocessSpec(),
    "stretch": PreprocessSpec(pixel_mean=(0.4, 0.5, 0.6), pixel_std=(0.2, 0.3, 0.4)),
    "longest-side": PreprocessSpec(
        resize="longest-side", pixel_mean=(0.4, 0.5, 0.6), pixel_std=(0.2, 0.3, 0.4)
    ),
}


@pytest.mark.parametrize("lowering", ["explicit", "masked", "augmented"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    "spec", [TINY, TINY.resized((40, 28)), STRIDED], ids=["tiny", "odd grid", "strided"]
)
def test_equal_in_float64(spec: EncoderSpec, recipe: str, lowering: str) -> None:
    state = {name: one.double() for name, one in seeded_encoder_state(spec, 0).items()}
    encoder = build_encoder(spec).double()
    encoder.load_state_dict(state, strict=True)
    fused = FusedEmbedder(state, spec, preprocess=RECIPES[recipe], lowering=lowering)
    slices = torch.rand(2, 1, 37, 52, dtype=torch.float64) * 900 - 200
    with torch.no_grad():
        wanted = encoder(to_encoder_input(slices, RECIPES[recipe], spec.image_size))
        found = fused(slices)
    assert found.shape == (2, 256, *spec.grid)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_a_folded_norm_is_convolution_and_norm() -> None:
    layer = ConvNorm(6, 6, 3, groups=6).double()
    for number, one in enumerate(layer.state_dict().values()):
        torch.manual_seed(number)
        one.copy_(torch.rand_like(one) + 0.5)
    weight, bias = fold_norm({f"x.{name}": one for name, one in layer.state_dict().items()}, "x.")
    image = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    folded = torch.nn.functional.conv2d(image, weight, bias, padding=1, groups=6)
    torch.testing.assert_close(folded, layer(image), rtol=1e-12, atol=1e-12)


def test_scores_are_within_windows() -> None:
    assert score_shapes(ENCODERS["litemedsam"], "masked") == {(4, 49), (5, 196), (10, 49)}
    assert score_shapes(ENCODERS["vit_b"], "explicit") == {(12, 196), (12, 4096)}
