from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper

from autosam_deploy.models.preprocess import normalise
from autosam_deploy.models.resize import bilinear, bilinear_as_onnx
from autosam_deploy.models.segmenter import seeded_segmenter
from autosam_deploy.spec import ModelSpec, PreprocessSpec

SIZES = [((61, 47), (256, 256)), ((96, 80), (64, 200)), ((5, 1), (1, 7)), ((9, 9), (9, 9))]


def onnx_resize(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What ONNX Runtime makes of a `Resize` to given sizes."""
    value = helper.make_tensor_value_info
    node = helper.make_node(
        "Resize",
        ["x", "", "", "size"],
        ["y"],
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    constant = helper.make_tensor("size", TensorProto.INT64, [4], [*x.shape[:2], *size])
    ends = (
        [value("x", TensorProto.FLOAT, x.shape)],
        [value("y", TensorProto.FLOAT, [*x.shape[:2], *size])],
    )
    model = helper.make_model(
        helper.make_graph([node], "resize", *ends, [constant]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_both_mean_the_same(old: tuple[int, int], new: tuple[int, int]) -> None:
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 3, *old)))
    found, wanted = bilinear_as_onnx(x, new), bilinear(x, new)
    assert found.shape == wanted.shape == (2, 3, *new)
    assert found.dtype == torch.float64
    assert (found - wanted).abs().max() < 1e-4


def test_coordinates_are_those_of_onnxruntime() -> None:
    """To 256 pixels PyTorch's coordinates are exact, and ONNX's rounding is all that is left."""
    x = np.random.default_rng(2).standard_normal((1, 1, 61, 47)).astype(np.float32)
    exact = bilinear(torch.from_numpy(x).double(), (256, 256)).numpy()
    onnx_error = np.abs(onnx_resize(x, (256, 256)) - exact).max()
    ours = np.abs(bilinear_as_onnx(torch.from_numpy(x), (256, 256)).numpy() - exact).max()
    plain = np.abs(bilinear(torch.from_numpy(x), (256, 256)).numpy() - exact).max()
    assert ours == pytest.approx(onnx_error, rel=0.3)
    assert plain < onnx_error / 4


def test_segmenter_with_another_resize_shares_its_weights(
    model_spec: Callable[..., ModelSpec],
) -> None:
    tiny_segmenter = seeded_segmenter(model_spec("linear"))
    other = tiny_segmenter.with_resize(bilinear_as_onnx)
    assert other.image_encoder is tiny_segmenter.image_encoder
    assert tiny_segmenter.resize is bilinear
    slices = torch.rand(1, 1, 37, 29)
    with torch.no_grad():
        first, second = tiny_segmenter(slices), other(slices)
    assert 0 < (first - second).abs().max() < 1e-2


def test_zscore_is_exact_where_a_running_sum_would_not_be() -> None:
    """Large slices of large numbers: rows are added first, so that few roundings add up."""
    random = np.random.default_rng(3)
    slices = torch.from_numpy(random.uniform(3e4, 3.1e4, (1, 1, 512, 512)).astype(np.float32))
    spec = PreprocessSpec(intensity="slice-zscore")
    exact = normalise(slices.double(), spec)
    assert (normalise(slices, spec) - exact).abs().max() < 2e-5
