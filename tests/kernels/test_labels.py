from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autosam_deploy.errors import BackendInputError
from autosam_deploy.kernels.labels import (
    LOGITS,
    logits_to_labels,
    logits_to_labels_reference,
)
from autosam_deploy.models.preprocess import to_slice_size
from autosam_deploy.spec import PreprocessSpec

pytest.importorskip("triton")

IMAGE = (48, 64)
STRETCH, LONGEST = PreprocessSpec(), PreprocessSpec(resize="longest-side")
#: Slices of odd sides, of one line, smaller and larger than the logits.
SIZES = [(33, 47), (1, 5), (5, 1), (9, 70), (60, 47)]


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_same(found: Tensor, low: Tensor, spec: PreprocessSpec, size: tuple[int, int]) -> None:
    """Labels differ from float64's only where its two largest logits are a rounding apart."""
    wide = to_slice_size(low.double(), spec, IMAGE, size)
    truth = logits_to_labels_reference(low.double(), spec, image_size=IMAGE, size=size)
    assert found.dtype == torch.uint8
    assert found.shape == truth.shape
    assert found.is_contiguous()
    largest = wide.topk(min(2, wide.shape[1]), dim=1).values
    margin = largest[:, 0] - largest[:, -1]
    apart = found != truth
    assert bool((margin[apart] <= 1e-5 * wide.abs().max()).all())
    assert float(apart.double().mean()) < 0.01


@pytest.mark.parametrize("spec", [STRETCH, LONGEST], ids=lambda spec: spec.resize)
@pytest.mark.parametrize("size", SIZES)
def test_sizes(spec: PreprocessSpec, size: tuple[int, int], device: torch.device) -> None:
    low = logits(2, 3, 12, 16).to(device)
    assert_same(logits_to_labels(low, spec, image_size=IMAGE, size=size), low, spec, size)


@pytest.mark.parametrize("spec", [STRETCH, LONGEST], ids=lambda spec: spec.resize)
@pytest.mark.parametrize("batch", [1, 5])
def test_batches(spec: PreprocessSpec, batch: int, device: torch.device) -> None:
    low = logits(batch, 2, 12, 16).to(device)
    assert_same(logits_to_labels(low, spec, image_size=IMAGE, size=(9, 70)), low, spec, (9, 70))


@pytest.mark.parametrize("spec", [STRETCH, LONGEST], ids=lambda spec: spec.resize)
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        *((dtype, "first") for dtype in LOGITS),
        (torch.float16, "last"),
        *((torch.float32, one) for one in ("last", "transposed", "every second", "expanded")),
    ],
)
def test_dtypes_and_strides(
    spec: PreprocessSpec, dtype: torch.dtype, layout: str, device: torch.device
) -> None:
    base = logits(2, 4, 12, 16).to(device=device, dtype=dtype)
    low = {
        "first": base,
        "last": base.to(memory_format=torch.channels_last),
        "transposed": base.transpose(2, 3),
        "every second": base[:, 1::2, ::2, ::2],
        "expanded": base[:1].expand(3, -1, -1, -1),
    }[layout]
    size = (18, 23)
    assert_same(logits_to_labels(low, spec, image_size=IMAGE, size=size), low, spec, size)


@pytest.mark.parametrize("spec", [STRETCH, LONGEST], ids=lambda spec: spec.resize)
@pytest.mark.parametrize("scale", [1e4, 1e30, 1e-30])
def test_extremes(spec: PreprocessSpec, scale: float, device: torch.device) -> None:
    low = (logits(1, 3, 12, 16) * scale).to(device)
    assert_same(logits_to_labels(low, spec, image_size=IMAGE, size=(40, 30)), low, spec, (40, 30))


@pytest.mark.parametrize("spec", [STRETCH, LONGEST], ids=lambda spec: spec.resize)
def test_lowest_class_of_equals(spec: PreprocessSpec, device: torch.device) -> None:
    low = logits(1, 1, 12, 16).expand(1, 5, 12, 16).clone().to(device)
    low[:, 0] -= 1
    labels = logits_to_labels(low, spec, image_size=IMAGE, size=(33, 47))
    assert bool((labels == 1).all())


@pytest.mark.parametrize("size", [(33, 47), (6, 7)])
@pytest.mark.parametrize("spec", [STRETCH, LONGEST], ids=lambda spec: spec.resize)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_what_is_not_finite(
    spec: PreprocessSpec, size: tuple[int, int], device: torch.device
) -> None:
    """The first NaN wins; an infinity wins or loses as it does in plain PyTorch."""
    low = logits(4, 4, 12, 16)
    low[0, 2, 5, 6] = float("nan")
    low[1, 1:3, 3:9, 3:9] = float("nan")
    low[2, 3, 5, 6] = float("inf")
    low[3, 0] = float("-inf")
    expected = logits_to_labels_reference(low, spec, image_size=IMAGE, size=size)
    found = logits_to_labels(low.to(device), spec, image_size=IMAGE, size=size)
    assert float((found.cpu() != expected).double().mean()) < 0.003
    assert not bool((found[:2].cpu() != expected[:2])[expected[:2] > 0].any())


@pytest.mark.parametrize("classes", [1, 2, 255])
def test_numbers_of_classes(classes: int, device: torch.device) -> None:
    low = logits(1, classes, 4, 5).to(device)
    labels = logits_to_labels(low, STRETCH, image_size=IMAGE, size=(6, 9))
    assert_same(labels, low, STRETCH, (6, 9))
    if classes == 255:
        assert int(labels.max()) > 127


def test_no_slices(device: torch.device) -> None:
    low = torch.empty((0, 3, 4, 4), device=device)
    assert logits_to_labels(low, STRETCH, image_size=IMAGE, size=(5, 6)).shape == (0, 5, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": torch.zeros(3, 4, 4)}, r"wrong shape; got \(3, 4, 4\)"),
        ({"low": torch.zeros(1, 0, 4, 4)}, r"wrong shape; got \(1, 0, 4, 4\)"),
        ({"low": torch.zeros(1, 256, 4, 4)}, "too many classes.*got 256; expected at most 255"),
        ({"low": torch.zeros(1, 2, 4, 4).double()}, r"wrong dtype; got torch\.float64"),
        ({"size": (0, 4)}, r"must be positive; got slice \(0, 4\)"),
        ({"image_size": (48, -1)}, r"encoder input \(48, -1\)"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "low": torch.zeros(1, 2, 4, 4),
        "spec": STRETCH,
        "image_size": IMAGE,
        "size": (5, 6),
    }
    with pytest.raises(BackendInputError, match=message):
        logits_to_labels(**(given | change))


@pytest.mark.parametrize("longest", [True, False])
def test_is_an_operator_of_torch(longest: bool, device: torch.device) -> None:
    """Schema, fake tensors and dispatch agree."""
    torch.library.opcheck(
        torch.ops.autosam.logits_to_labels.default,
        (logits(2, 3, 4, 4).to(device), list(IMAGE), [9, 11]),
        {"longest": longest},
    )


def test_compiles_in_one_graph(device: torch.device) -> None:
    def label(low: Tensor) -> Tensor:
        return logits_to_labels(low, LONGEST, image_size=IMAGE, size=(33, 47))

    low = logits(1, 3, 12, 16).to(device)
    compiled = torch.compile(label, fullgraph=True, backend="eager")
    assert torch.equal(compiled(low), label(low))
