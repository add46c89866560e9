from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from autosam_deploy.errors import CheckpointError, SpecError
from autosam_deploy.models.encoders import encoder_shapes
from autosam_deploy.models.heads import head_shapes
from autosam_deploy.models.segmenter import Segmenter, seeded_segmenter, segmenter_from_state
from autosam_deploy.spec import HEAD_KINDS, HeadKind, ModelSpec, PreprocessSpec

MakeSpec = Callable[..., ModelSpec]


def slices(batch: int = 2, height: int = 21, width: int = 30, *, seed: int = 0) -> torch.Tensor:
    """Smooth random slices with intensities as a scanner gives them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 1, 5, 6, generator=generator) * 1500
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")


@pytest.fixture(params=HEAD_KINDS)
def segmenter(request: pytest.FixtureRequest, model_spec: MakeSpec) -> Segmenter:
    return seeded_segmenter(model_spec(request.param), seed=1)


def test_names_are_the_references(model_spec: MakeSpec) -> None:
    for kind in HEAD_KINDS:
        spec = model_spec(kind)
        expected = {f"image_encoder.{name}" for name in encoder_shapes(spec.encoder)}
        expected |= head_shapes(spec.head).keys()
        assert Segmenter(spec).state_dict().keys() == expected


def test_logits_and_labels_have_the_size_of_the_slices(segmenter: Segmenter) -> None:
    for shape in ((1, 1, 21, 30), (3, 1, 64, 17)):
        x = slices(shape[0], *shape[2:])
        logits, labels = segmenter(x), segmenter.labels(x)
        assert (logits.shape, logits.dtype) == ((shape[0], 3, *shape[2:]), torch.float32)
        assert (labels.shape, labels.dtype) == ((shape[0], *shape[2:]), torch.uint8)
        assert torch.equal(labels.long(), logits.argmax(dim=1))


def test_seeded_models_use_every_class_and_are_ready_for_inference(segmenter: Segmenter) -> None:
    found = {int(v) for seed in range(6) for v in segmenter.labels(slices(seed=seed)).unique()}
    assert len(found) > 1
    assert not segmenter.training
    assert not any(weight.requires_grad for weight in segmenter.parameters())


def test_slices_of_a_batch_do_not_see_each_other(segmenter: Segmenter) -> None:
    x, segmenter = slices(3), segmenter.double()
    together = segmenter(x)
    for index in range(3):
        torch.testing.assert_close(together[index], segmenter(x[index : index + 1])[0])


def test_scale_and_offset_of_intensities_do_not_matter(segmenter: Segmenter) -> None:
    x = slices()
    torch.testing.assert_close(segmenter(x), segmenter(x * 4 + 1024), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(segmenter(x), segmenter(x.flip(3)), rtol=1e-3, atol=1e-3)


def test_flat_slices_give_finite_logits(segmenter: Segmenter) -> None:
    assert torch.isfinite(segmenter(torch.full((1, 1, 9, 9), 7.0))).all()


def test_parts_make_the_whole(segmenter: Segmenter) -> None:
    x = slices()
    embedding = segmenter.embed(x)
    assert embedding.shape == (2, 32, 6, 6)
    low = segmenter.decode(embedding)
    assert low.shape == (2, 3, 24, 24)
    assert torch.equal(segmenter.to_slice_size(low, (21, 30)), segmenter(x))


def test_double_and_half(segmenter: Segmenter) -> None:
    x = slices()
    single = segmenter(x)
    double = copy.deepcopy(segmenter).double()
    assert double(x).dtype == torch.float64
    assert torch.equal(double(x), double(x.double()))
    torch.testing.assert_close(double(x).float(), single, rtol=1e-3, atol=1e-3)
    for dtype in (torch.float16, torch.bfloat16):
        low = copy.deepcopy(segmenter).to(dtype)
        # Raw values far beyond half precision: they are scaled before they are cast.
        logits = low(x * 1000)
        assert logits.dtype == dtype
        assert torch.isfinite(logits).all()
        assert (low.labels(x * 1000) == double.labels(x)).float().mean() > 0.5


def test_integer_slices(segmenter: Segmenter) -> None:
    x = slices().round()
    assert torch.equal(segmenter(x.to(torch.int16)), segmenter(x))


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_other_image_sizes_and_padding(model_spec: MakeSpec, kind: HeadKind) -> None:
    preprocess = PreprocessSpec(resize="longest-side")
    spec = model_spec(kind, image_size=(40, 64), preprocess=preprocess)
    model = seeded_segmenter(spec)
    x = slices(1, 30, 20)
    assert model.embed(x).shape == (1, 32, 5, 8)
    assert model(x).shape == (1, 3, 30, 20)
    # 30x20 becomes 40x27 of 40x64: what lies right of it is padding.
    image = model.encoder_input(x)
    assert image[..., 27:].abs().max() == 0
    assert image[..., 26].abs().max() > 0


@pytest.mark.parametrize("shape", [(21, 30), (1, 21, 30), (1, 3, 21, 30), (1, 1, 2, 21, 30)])
def test_other_shapes_are_refused(model_spec: MakeSpec, shape: tuple[int, ...]) -> None:
    model = seeded_segmenter(model_spec("linear"))
    with pytest.raises(SpecError, match=r"expected \(B, 1, H, W\)"):
        model(torch.zeros(shape))


def test_weights_are_taken_without_copies_and_strictly(model_spec: MakeSpec) -> None:
    spec = model_spec("linear")
    state = seeded_segmenter(spec).state_dict()
    name = "image_encoder.neck.2.weight"
    model = segmenter_from_state(spec, state)
    assert model.state_dict()[name].data_ptr() == state[name].data_ptr()
    lacking = {k: v for k, v in state.items() if k != name}
    with pytest.raises(CheckpointError, match=r"missing 'image_encoder\.neck\.2\.weight'"):
        segmenter_from_state(spec, lacking)
    with pytest.raises(CheckpointError, match=r"got shape \(1, 2\)"):
        segmenter_from_state(spec, {**state, name: torch.zeros(1, 2)})
