"""The whole fused segmenter, and each rewrite behind the encoder, against the truth in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autosam_deploy.errors import ExportError
from autosam_deploy.fused.attention import LOWERINGS
from autosam_deploy.fused.encoders import fuse_encoder
from autosam_deploy.fused.grey import fold_grey
from autosam_deploy.fused.heads.autosam import FusedAutosamHead
from autosam_deploy.fused.heads.cnn import FusedCnnHead, fold_pointwise
from autosam_deploy.fused.heads.cross_attention import (
    ImageToTokens,
    SelfAttention,
    TokensToImage,
)
from autosam_deploy.fused.heads.linear import FusedLinearHead
from autosam_deploy.fused.heads.upscaling import Upscaling, order_pixels, transposed_to_linear
from autosam_deploy.fused.segmenter import fuse
from autosam_deploy.models.heads import Head, seeded_head_state
from autosam_deploy.models.heads.upscaling import output_upscaling
from autosam_deploy.models.segmenter import Segmenter, seeded_segmenter
from autosam_deploy.spec import (
    HEAD_KINDS,
    AutosamHead,
    CnnHead,
    HeadKind,
    HeadSpec,
    LinearHead,
    ModelSpec,
    PreprocessSpec,
)

TOLERANCE = 1e-10
SpecFactory = Callable[..., ModelSpec]


def close(actual: Tensor, expected: Tensor) -> bool:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max()) <= TOLERANCE


def double(spec: ModelSpec) -> Segmenter:
    return seeded_segmenter(spec, seed=3).double()


def raw_slices(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    slices = torch.rand(shape, generator=generator, dtype=torch.float64) * 1800 - 300
    slices[-1] = 7.0  # a flat slice
    return slices


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("kind", HEAD_KINDS)
@pytest.mark.parametrize("image_size", [(48, 48), (40, 64)])
def test_equals_segmenter(
    model_spec: SpecFactory, kind: HeadKind, lowering: str, image_size: tuple[int, int]
) -> None:
    truth = double(model_spec(kind, image_size=image_size))
    fused = fuse(truth, lowering=lowering)
    for shape in ((1, 1, 37, 51), (3, 1, 64, 40)):
        slices = raw_slices(*shape)
        labels, logits = fused(slices)
        assert close(logits, truth(slices))
        assert torch.equal(labels, truth.labels(slices))


RECIPES = [
    PreprocessSpec(intensity="slice-zscore"),
    PreprocessSpec(intensity="window", window_level=100.0, window_width=900.0),
    PreprocessSpec(
        intensity="none", pixel_mean=(120.0, 110.0, 100.0), pixel_std=(60.0, 50.0, 55.0)
    ),
    PreprocessSpec(resize="longest-side"),
    PreprocessSpec(
        resize="longest-side", pixel_mean=(0.48, 0.45, 0.40), pixel_std=(0.22, 0.23, 0.25)
    ),
]


@pytest.mark.parametrize(
    "recipe", RECIPES, ids=lambda recipe: f"{recipe.intensity}-{recipe.resize}"
)
@pytest.mark.parametrize("size", [(30, 71), (90, 33), (48, 48)])
@pytest.mark.parametrize("image_size", [(48, 48), (40, 64)])
def test_every_recipe_survives_fusing(
    model_spec: SpecFactory,
    recipe: PreprocessSpec,
    size: tuple[int, int],
    image_size: tuple[int, int],
) -> None:
    truth = double(model_spec("linear", preprocess=recipe, image_size=image_size))
    slices = raw_slices(2, 1, *size)
    assert close(fuse(truth).logits(slices), truth(slices))


def test_embedding_equals(model_spec: SpecFactory) -> None:
    truth = double(model_spec("linear"))
    slices = raw_slices(2, 1, 50, 50)
    assert close(fuse(truth).embed(slices), truth.embed(slices))


def test_outputs_follow_the_spec(model_spec: SpecFactory) -> None:
    truth = seeded_segmenter(model_spec("linear"))
    (labels,) = fuse(truth, outputs=("labels",))(torch.rand(2, 1, 20, 30))
    assert labels.dtype == torch.uint8
    assert labels.shape == (2, 20, 30)


def test_unknown_lowering_is_refused(model_spec: SpecFactory) -> None:
    with pytest.raises(ExportError, match="unknown lowering; got 'fast'; expected augmented"):
        fuse(seeded_segmenter(model_spec("linear")), lowering="fast")


def test_fusing_leaves_the_segmenter_alone(model_spec: SpecFactory) -> None:
    truth = seeded_segmenter(model_spec("autosam"))
    before = {name: tensor.clone() for name, tensor in truth.state_dict().items()}
    fuse(truth)
    assert all(torch.equal(before[name], now) for name, now in truth.state_dict().items())


@pytest.mark.parametrize("resize", ["stretch", "longest-side"])
def test_grey_fold(resize: str) -> None:
    weight = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    bias = torch.randn(5, dtype=torch.float64)
    recipe = PreprocessSpec.model_validate(
        {"resize": resize, "pixel_mean": (0.4, 0.5, 0.6), "pixel_std": (0.2, 0.3, 0.25)}
    )
    grey = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    mean, std = (
        torch.tensor(v, dtype=torch.float64)[:, None, None]
        for v in (
            recipe.pixel_mean,
            recipe.pixel_std,
        )
    )
    expected = nn.functional.conv2d((grey.expand(-1, 3, -1, -1) - mean) / std, weight, bias, 4)
    folded, folded_bias = fold_grey(weight, bias, recipe, marked=resize == "longest-side")
    if resize == "longest-side":
        grey = torch.cat([grey, torch.ones_like(grey)], dim=1)
    assert close(nn.functional.conv2d(grey, folded, folded_bias, 4), expected)


def head_of(spec: HeadSpec) -> tuple[Head, dict[str, Tensor]]:
    head = Head(spec)
    head.load_state_dict(seeded_head_state(spec, 5))
    head = head.double().eval().requires_grad_(False)
    return head, head.state_dict()


@pytest.mark.parametrize("relu", [True, False])
def test_linear_head(relu: bool) -> None:
    spec = LinearHead(num_classes=3, embed_dim=32, final_relu=relu)
    head, state = head_of(spec)
    x = torch.randn(2, 32, 3, 5, dtype=torch.float64)
    fused = FusedLinearHead(state, spec, grid=(3, 5))
    assert close(fused(x.permute(0, 2, 3, 1)), head(x))


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_cnn_head(depth: int) -> None:
    spec = CnnHead(num_classes=3, embed_dim=16, depth=depth, top_channels=4)
    head, state = head_of(spec)
    x = torch.randn(2, 16, 3, 5, dtype=torch.float64)
    fused = FusedCnnHead(state, spec, grid=(3, 5))
    assert close(fused(x.permute(0, 2, 3, 1)), head(x))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("classes", [2, 5])
def test_autosam_head(depth: int, classes: int) -> None:
    spec = AutosamHead(
        num_classes=classes, embed_dim=32, num_heads=4, mlp_dim=24, transformer_depth=depth
    )
    head, state = head_of(spec)
    x = torch.randn(3, 32, 4, 6, dtype=torch.float64)
    fused = FusedAutosamHead(state, spec, grid=(4, 6), position=head.pe_layer((4, 6)))
    assert close(fused(x.permute(0, 2, 3, 1)), head(x))


def test_pointwise_fold() -> None:
    first = nn.Conv2d(4, 5, 3, padding=1).double()
    second = nn.Conv2d(5, 3, 1).double()
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    weight, bias = fold_pointwise(first.weight, first.bias, second.weight, second.bias)
    assert close(nn.functional.conv2d(x, weight, bias, padding=1), second(first(x)))


def test_transposed_convolution_is_linear() -> None:
    layer = nn.ConvTranspose2d(4, 3, 2, stride=2).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    weight, bias = transposed_to_linear(layer.weight, layer.bias)
    y = nn.functional.linear(x.permute(0, 2, 3, 1), weight, bias).reshape(2, 5, 6, 2, 2, 3)
    assert close(y.permute(0, 5, 1, 3, 2, 4).reshape(2, 3, 10, 12), layer(x))


def test_upscaling() -> None:
    truth = output_upscaling(32).double()
    state = {f"up.{name}": value for name, value in truth.state_dict().items()}
    x = torch.randn(2, 32, 3, 5, dtype=torch.float64)
    tokens = Upscaling(state, "up.").double()(x.flatten(2).transpose(1, 2))
    assert close(order_pixels(tokens, (3, 5)), truth(x))


@pytest.fixture
def two_way_attention() -> tuple[nn.Module, dict[str, Tensor]]:
    from segment_anything.modeling.transformer import Attention

    torch.manual_seed(0)
    layer = Attention(32, 4, downsample_rate=2).double().requires_grad_(False)
    return layer, {f"a.{name}": value for name, value in layer.state_dict().items()}


@pytest.mark.parametrize("shared", [True, False])
def test_absorbed_projections(
    two_way_attention: tuple[nn.Module, dict[str, Tensor]], shared: bool
) -> None:
    truth, state = two_way_attention
    tokens = torch.randn(2, 3, 4, 32, dtype=torch.float64)
    keys = torch.randn(2, 3, 4, 32, dtype=torch.float64)
    image = torch.randn(2, 1 if shared else 3, 15, 32, dtype=torch.float64)
    positioned = image + torch.randn(1, 1, 15, 32, dtype=torch.float64)
    flat = [t.expand(2, 3, -1, -1).reshape(6, -1, 32) for t in (tokens, keys, image, positioned)]
    to_image = TokensToImage(state, "a.", num_heads=4)(tokens, positioned, image)
    expected = truth(q=flat[0], k=flat[3], v=flat[2])
    assert close(to_image, expected.reshape(2, 3, 4, 32))
    to_tokens = ImageToTokens(state, "a.", num_heads=4)(positioned, keys, tokens)
    expected = truth(q=flat[3], k=flat[1], v=flat[0])
    assert close(to_tokens, expected.reshape(2, 3, 15, 32))
    itself = SelfAttention(state, "a.", num_heads=4)(keys, tokens)
    expected = truth(q=flat[1], k=flat[1], v=flat[0])
    assert close(itself, expected.reshape(2, 3, 4, 32))


def test_encoder_with_the_head_dim_of_vit_h(model_spec: SpecFactory) -> None:
    spec = model_spec("linear")
    encoder = spec.encoder.model_copy(update={"embed_dim": 160, "num_heads": 2, "depth": 2})
    assert encoder.head_dim == 80
    truth = double(spec.model_copy(update={"encoder": encoder}))
    fused = fuse_encoder(
        truth.image_encoder.state_dict(), encoder, preprocess=spec.preprocess, lowering="augmented"
    )
    image = torch.rand(2, 1, 48, 48, dtype=torch.float64)
    expected = truth.image_encoder(image.expand(-1, 3, -1, -1))
    assert close(fused(image).permute(0, 3, 1, 2), expected)
