from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from rich.console import Console

from autosam_deploy.benchmarks import int8
from autosam_deploy.benchmarks.int8_graph import calibration_slices, quantize
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BundleError, UsageError
from autosam_deploy.spec import HeadKind
from autosam_deploy.volumes.phantom import make_phantom
from autosam_deploy.volumes.write import write_volume

pytest.importorskip("onnxruntime.quantization")


@pytest.fixture
def bundle(exported: Callable[[HeadKind], Path]) -> Path:
    return exported("autosam")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Folders `images` and `labels` with two small phantoms."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for seed in (1, 2):
        image, truth = make_phantom(seed, shape=(4, 40, 48))
        write_volume(tmp_path / "images" / f"case_{seed}.nii.gz", image)
        write_volume(
            tmp_path / "labels" / f"case_{seed}.nii.gz", replace(truth, array=truth.array % 3)
        )
    return tmp_path


def console() -> Console:
    return Console(file=StringIO())


def test_only_the_encoders_linear_layers_are_quantized(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    opened = Bundle.open(bundle)
    artefact = opened.find("onnx", "fp32")
    assert artefact is not None
    slices = calibration_slices(opened, data / "images", 3)
    assert [one.shape for one in slices] == [(1, 1, 40, 48)] * 3
    target = tmp_path / "int8.onnx"
    count = quantize(opened.file(artefact.file), target, slices, console=console())
    # Query, key, value, projection and the MLP's two, in every block.
    assert count == 6 * opened.manifest.model.encoder.depth
    graph = onnx.load(target).graph
    integers = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.INT8}
    weights = {name.removesuffix("_quantized") for name in integers if name.endswith("_quantized")}
    assert len(weights) == count
    assert all(name.startswith("encoder.blocks.") for name in weights)
    session = ort.InferenceSession(target, providers=["CPUExecutionProvider"])
    (labels,) = session.run(["labels"], {"slices": slices[0]})
    assert labels.shape == (1, 40, 48)


def test_study_compares_every_way_with_the_float_graph(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    folder = str(data / "images")
    done = CliRunner(env={"COLUMNS": "120"}).invoke(
        int8.main,
        [
            *(str(bundle), "--calibration", folder, "--images", folder),
            *("--labels", str(data / "labels"), "--slices", "2", "--rounds", "2"),
            *("--threads", "1", "--out", str(tmp_path / "int8.json")),
        ],
    )
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "int8.json").read_text("utf-8"))
    names = [row["name"] for row in found["rows"]]
    assert names[:2] == ["onnxruntime fp32", "onnxruntime int8"]
    reference, integers = found["rows"][:2]
    assert reference["labels_equal"] == reference["times_reference"] == 1
    assert reference["within_gates"]
    assert reference["largest_dice_loss"] == 0
    assert 0.5 < integers["labels_equal"] <= 1
    assert integers["within_gates"] == (
        integers["labels_equal"] >= int8.LABELS and integers["largest_dice_loss"] <= int8.DICE
    )
    assert all(name in done.stdout for name in names)
    assert "consider" not in done.stderr


@pytest.mark.parametrize(
    ("labels", "classes", "within"),
    [(0.996, [0.9, 0.8], True), (0.994, [0.9, 0.8], False), (1.0, [0.9, 0.794], False)],
)
def test_gates(labels: float, classes: list[float], within: bool) -> None:
    reference = int8._Row("fp32", lambda x: x, seconds=[1.0], dice=[0.9, 0.8])  # type: ignore[arg-type, return-value]
    row = int8._Row("int8", lambda x: x, seconds=[0.5], equal=labels, dice=classes)  # type: ignore[arg-type, return-value]
    assert int8._summary(row, reference)["within_gates"] is within


def test_bad_inputs(bundle: Path, data: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    image, _ = make_phantom(1, shape=(4, 40, 48))
    write_volume(flat / "a.nii.gz", replace(image, array=np.zeros_like(image.array)))
    with pytest.raises(UsageError, match="got flat slices only"):
        calibration_slices(Bundle.open(bundle), flat, 2)
    done = CliRunner().invoke(
        int8.main,
        [
            *(str(bundle), "--calibration", str(data / "images"), "--images", str(flat)),
            *("--labels", str(data / "labels")),
        ],
    )
    assert done.exit_code == 2
    assert "no image has labels" in done.stderr
    opened = Bundle.open(bundle)
    node = onnx.helper.make_node("Relu", ["slices"], ["labels"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [value("slices", onnx.TensorProto.FLOAT, [1])],
        [value("labels", onnx.TensorProto.FLOAT, [1])],
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "no.onnx")
    slices = calibration_slices(opened, data / "images", 1)
    with pytest.raises(BundleError, match="has no linear layers of an encoder"):
        quantize(tmp_path / "no.onnx", tmp_path / "o.onnx", slices, console=console())
