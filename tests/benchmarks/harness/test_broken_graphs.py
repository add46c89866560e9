"""Graphs that were tampered with in ways that look harmless, caught and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from autosam_deploy.benchmarks.harness.record import Parity
from autosam_deploy.benchmarks.harness.runners import Loading, load_engine
from autosam_deploy.benchmarks.harness.standards import Standards
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.files import sha256_file

Judged = Callable[..., list[Parity]]
Change = Callable[[onnx.ModelProto], None]


def scale(*names: str, factor: float) -> Change:
    """Multiply weights."""

    def change(model: onnx.ModelProto) -> None:
        there = {one.name: one for one in model.graph.initializer}
        for name in names:
            array = numpy_helper.to_array(there[name])
            scaled = np.asarray(array * array.dtype.type(factor))
            there[name].CopyFrom(numpy_helper.from_array(scaled, name))

    return change


def skip_block(number: int) -> Change:
    """What a block adds to the residual stream becomes nothing."""
    block = f"encoder.blocks.{number}"
    layers = [f"{block}.{layer}.{part}" for layer in ("projection", "contract")
              for part in ("weight", "bias")]  # fmt: skip
    return scale(*layers, factor=0.0)


def swap_classes(model: onnx.ModelProto) -> None:
    """Logits and labels of the last two classes change places."""
    nodes = list(model.graph.node)
    (last,) = [node for node in nodes if "logits" in node.output]
    last.output[list(last.output).index("logits")] = "in_order"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 1], np.int64), "order"))
    gather = helper.make_node("Gather", ["in_order", "order"], ["logits"], axis=1)
    model.graph.node.insert(nodes.index(last) + 1, gather)


@pytest.fixture
def tampered(tiny_bundle: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """Factory: a bundle whose fp32 graph was changed and whose hashes were made to fit."""

    def build(change: Change) -> Path:
        folder = tmp_path / "tampered.autosam"
        shutil.copytree(tiny_bundle, folder)
        graph = folder / "model.fp32.onnx"
        model = onnx.load(graph)
        change(model)
        onnx.save(model, graph)
        fit_hashes(folder)
        return folder

    return build


def fit_hashes(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))

    def visit(value: Any) -> None:
        if isinstance(value, dict) and {"path", "sha256", "bytes"} == value.keys():
            member = folder / value["path"]
            value.update(sha256=sha256_file(member), bytes=member.stat().st_size)
        for below in value.values() if isinstance(value, dict) else value:
            if isinstance(below, dict | list):
                visit(below)

    visit(manifest)
    path.write_text(json.dumps(manifest), "utf-8")
    Bundle.open(folder)


def judge_graph(folder: Path, judged: Judged, precision: str = "fp32") -> list[Parity]:
    loading = Loading(folder, "onnxruntime", precision, "cpu", 1)  # type: ignore[arg-type]
    return judged(load_engine(loading), precision=precision)


def kinds(found: list[Parity]) -> set[str]:
    return {failure for one in found for failure in one.failures}


def test_the_graph_itself_passes(tiny_bundle: Path, judged: Judged) -> None:
    for one in judge_graph(tiny_bundle, judged):
        assert one.failures == []
        assert one.required_tolerance is not None
        assert 0 < one.required_tolerance <= one.gate


@pytest.mark.parametrize(
    "name",
    ["encoder.blocks.0.query.weight", "encoder.blocks.2.expand.weight", "head.hyper.1.weight"],
)
def test_one_weight_changed_by_a_percent(
    tampered: Callable[[Change], Path], judged: Judged, name: str
) -> None:
    found = judge_graph(tampered(scale(name, factor=1.01)), judged)
    assert "values" in kinds(found)
    worst = max(one.required_tolerance or 0 for one in found)
    assert worst > 5 * found[0].gate


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_block_skipped(tampered: Callable[[Change], Path], judged: Judged, number: int) -> None:
    found = judge_graph(tampered(skip_block(number)), judged)
    assert {"values", "labels"} <= kinds(found)
    assert found[0].agreement is not None
    assert found[0].agreement < 0.999
    assert found[0].heat_map is not None


def test_classes_swapped(tampered: Callable[[Change], Path], judged: Judged) -> None:
    found = judge_graph(tampered(swap_classes), judged)
    assert {"classes", "values", "labels"} <= kinds(found)
    assert "logits of classes 0..2 are those of 0, 2, 1" in found[0].detail


def test_what_a_norm_takes_back_passes(tampered: Callable[[Change], Path], judged: Judged) -> None:
    """A layer norm stands behind this weight: the graph is another and the model is the same."""
    found = judge_graph(tampered(scale("encoder.neck.smooth.weight", factor=1.01)), judged)
    assert kinds(found) == set()


def test_golden_labels_that_were_tampered_with(tiny_bundle: Path, tmp_path: Path) -> None:
    from autosam_deploy.benchmarks.harness.inputs import golden_set
    from autosam_deploy.benchmarks.harness.standards import golden_problems

    folder = tmp_path / "golden.autosam"
    shutil.copytree(tiny_bundle, folder)
    assert golden_problems(golden_set(Bundle.open(folder))[1]) == []
    path = folder / "golden" / "case_1.labels.npy"
    labels = np.load(path)
    labels[0, :2, :3] ^= 1
    np.save(path, labels)
    fit_hashes(folder)
    (problem,) = golden_problems(golden_set(Bundle.open(folder))[1])
    assert problem.startswith("golden labels of case 1 are not those of its golden logits: 6 of ")


def test_golden_logits_that_belong_to_other_weights(
    tiny_standards: Standards, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    golden = tiny_standards._golden
    moved = (replace(golden[0], logits=golden[0].logits + np.float32(0.01)), *golden[1:])
    monkeypatch.setattr(tiny_standards, "_golden", moved)
    (problem,) = tiny_standards._golden_against_weights()
    assert "golden logits are not those of the bundle's weights: they differ by 0.01" in problem
