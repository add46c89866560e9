"""The exported graph against the segmenter, on ONNX Runtime."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from autosam_deploy.errors import ExportError
from autosam_deploy.export.graph import check_opset, default_opset, export_onnx
from autosam_deploy.fused import tracing
from autosam_deploy.fused.attention import LOWERINGS
from autosam_deploy.fused.precision import apply_precision, measure_ranges, plan_precision
from autosam_deploy.fused.segmenter import fuse
from autosam_deploy.models.segmenter import Segmenter, seeded_segmenter
from autosam_deploy.spec import HEAD_KINDS, HeadKind, ModelSpec, PreprocessSpec

SpecFactory = Callable[..., ModelSpec]
Array = NDArray[np.floating[Any]]
SHAPES = ((1, 1, 40, 56), (2, 1, 33, 71), (3, 1, 64, 64), (7, 1, 21, 20))


def open_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def rms(difference: Array) -> float:
    return float(np.sqrt(np.mean(np.square(difference))))


def check_against_float64(logits: Array, truth: Segmenter, slices: torch.Tensor) -> None:
    """Float32 in another order of sums may err twice as much as torch's own float32.

    The floor is for ONNX Runtime's Resize, which computes source coordinates in float32.
    """
    exact = copy.deepcopy(truth).double()(slices.double()).numpy()
    own = rms(truth(slices).numpy() - exact)
    assert rms(logits - exact) <= 2 * own + 2e-6 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("kind", "lowering"),
    [(kind, "explicit") for kind in HEAD_KINDS]
    + [("autosam", lowering) for lowering in LOWERINGS if lowering != "explicit"],
)
def test_graph_equals_segmenter_for_any_batch_and_size(
    model_spec: SpecFactory, tmp_path: Path, kind: HeadKind, lowering: str
) -> None:
    truth = seeded_segmenter(model_spec(kind))
    export_onnx(fuse(truth, lowering=lowering), tmp_path / "m.onnx", opset=default_opset(lowering))
    session = open_session(tmp_path / "m.onnx")
    for shape in SHAPES:
        slices = torch.rand(shape) * 900 - 100
        labels, logits = session.run(None, {"slices": slices.numpy()})
        check_against_float64(logits, truth, slices)
        assert labels.dtype == np.uint8
        assert (labels == logits.argmax(axis=1)).all()


@pytest.mark.parametrize("size", [(30, 71), (90, 33)])
def test_padding_is_in_the_graph(
    model_spec: SpecFactory, tmp_path: Path, size: tuple[int, int]
) -> None:
    recipe = PreprocessSpec(
        resize="longest-side", pixel_mean=(0.48, 0.45, 0.40), pixel_std=(0.22, 0.23, 0.25)
    )
    truth = seeded_segmenter(model_spec("linear", preprocess=recipe))
    export_onnx(fuse(truth), tmp_path / "m.onnx", opset=20)
    slices = torch.rand(2, 1, *size)
    _, logits = open_session(tmp_path / "m.onnx").run(None, {"slices": slices.numpy()})
    check_against_float64(logits, truth, slices)


def test_a_flat_slice_gives_finite_logits(model_spec: SpecFactory, tmp_path: Path) -> None:
    export_onnx(fuse(seeded_segmenter(model_spec("linear"))), tmp_path / "m.onnx", opset=20)
    flat = np.full((1, 1, 20, 20), 31000.0, np.float32)
    assert np.isfinite(open_session(tmp_path / "m.onnx").run(None, {"slices": flat})[1]).all()


def test_names_and_axes_come_from_the_spec(model_spec: SpecFactory, tmp_path: Path) -> None:
    spec = model_spec("linear", num_classes=5)
    export_onnx(fuse(seeded_segmenter(spec)), tmp_path / "m.onnx", opset=20)
    model = onnx.load(tmp_path / "m.onnx")
    found = {
        value.name: tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in (*model.graph.input, *model.graph.output)
    }
    wanted = {t.name: t.shape for t in (spec.input_tensor, *spec.output_tensors)}
    assert found == wanted
    onnx.checker.check_model(model, full_check=True)


def test_labels_alone(model_spec: SpecFactory, tmp_path: Path) -> None:
    fused = fuse(seeded_segmenter(model_spec("linear")), outputs=("labels",))
    export_onnx(fused, tmp_path / "m.onnx", opset=18)
    names = [output.name for output in open_session(tmp_path / "m.onnx").get_outputs()]
    assert names == ["labels"]


def test_augmented_graph_holds_no_queries_by_keys(model_spec: SpecFactory, tmp_path: Path) -> None:
    export_onnx(
        fuse(seeded_segmenter(model_spec("linear")), lowering="augmented"),
        tmp_path / "m.onnx",
        opset=23,
    )
    model = onnx.load(tmp_path / "m.onnx")
    attentions = [node for node in model.graph.node if node.op_type == "Attention"]
    assert len(attentions) == 3
    assert all(len(node.input) == 3 for node in attentions)
    assert not [node for node in model.graph.node if node.op_type == "Softmax"]


def test_typed_graph(model_spec: SpecFactory, tmp_path: Path) -> None:
    truth = seeded_segmenter(model_spec("autosam"))
    fused = fuse(truth, lowering="augmented")
    slices = torch.rand(2, 1, 33, 40)
    plan = plan_precision(fused, measure_ranges(fused, [slices]))
    typed = apply_precision(fused, plan)
    export_onnx(typed, tmp_path / "half.onnx", opset=23)
    export_onnx(fused, tmp_path / "single.onnx", opset=23)
    model = onnx.load(tmp_path / "half.onnx")
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            assert types[node.output[0]] == onnx.TensorProto.FLOAT
        if node.op_type == "Attention":
            assert types[node.output[0]] == onnx.TensorProto.FLOAT16
    outputs = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    assert outputs == {"labels": onnx.TensorProto.UINT8, "logits": onnx.TensorProto.FLOAT}
    half, single = ((tmp_path / name).stat().st_size for name in ("half.onnx", "single.onnx"))
    assert half < 0.7 * single
    _, logits = open_session(tmp_path / "half.onnx").run(None, {"slices": slices.numpy()})
    truth_logits = truth(slices).numpy()
    assert 0 < rms(logits - truth_logits) <= 2 * rms(typed(slices)[1].numpy() - truth_logits)


def test_big_weights_go_to_one_file_beside(
    model_spec: SpecFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "EXTERNAL_DATA_BYTES", 1000)
    truth = seeded_segmenter(model_spec("linear"))
    export_onnx(fuse(truth), tmp_path / "m.onnx", opset=20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    slices = torch.rand(1, 1, 20, 20)
    _, logits = open_session(tmp_path / "m.onnx").run(None, {"slices": slices.numpy()})
    check_against_float64(logits, truth, slices)


def test_no_trace_of_the_exporting_machine(model_spec: SpecFactory, tmp_path: Path) -> None:
    export_onnx(fuse(seeded_segmenter(model_spec("linear"))), tmp_path / "m.onnx", opset=20)
    data = (tmp_path / "m.onnx").read_bytes()
    assert b".py" not in data
    assert b"site-packages" not in data


@pytest.mark.parametrize(
    ("lowering", "opset", "message"),
    [
        ("masked", 20, r"'masked' cannot be written in this opset; got 20; expected 23\.\.23"),
        ("explicit", 17, r"got 17; expected 18\.\.23"),
        ("explicit", 99, r"got 99"),
    ],
)
def test_impossible_opsets_are_refused(lowering: str, opset: int, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        check_opset(opset, lowering)
