"""The fused encoder by itself against the segmenter's embedding, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from autosam_deploy.errors import ExportError
from autosam_deploy.fused.attention import LOWERINGS
from autosam_deploy.fused.embedder import FusedEmbedder
from autosam_deploy.models.segmenter import seeded_segmenter
from autosam_deploy.spec import ModelSpec, PreprocessSpec

RECIPES = (
    PreprocessSpec(),
    PreprocessSpec(intensity="slice-zscore", resize="longest-side"),
    PreprocessSpec(pixel_mean=(0.4, 0.5, 0.6), pixel_std=(0.2, 0.3, 0.4), resize="longest-side"),
)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("preprocess", RECIPES, ids=["minmax", "zscore", "pixel-mean"])
@pytest.mark.parametrize("image_size", [(48, 48), (32, 64)])
def test_embedder_is_exact(
    model_spec: Callable[..., ModelSpec],
    lowering: str,
    preprocess: PreprocessSpec,
    image_size: tuple[int, int],
) -> None:
    spec = model_spec("linear", image_size=image_size, preprocess=preprocess)
    truth = seeded_segmenter(spec).double()
    fused = FusedEmbedder(
        truth.image_encoder.state_dict(), spec.encoder, preprocess=preprocess, lowering=lowering
    )
    slices = torch.rand(2, 1, 31, 45, dtype=torch.float64) * 900
    with torch.no_grad():
        wanted, found = truth.embed(slices), fused(slices)
    assert found.shape == (2, spec.encoder.out_chans, *spec.encoder.grid)
    assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max()


def test_unknown_lowering(model_spec: Callable[..., ModelSpec]) -> None:
    spec = model_spec("linear")
    state = seeded_segmenter(spec).image_encoder.state_dict()
    with pytest.raises(ExportError, match=r"unknown lowering; got 'flash'; expected augmented \|"):
        FusedEmbedder(state, spec.encoder, preprocess=spec.preprocess, lowering="flash")
