from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from autosam_deploy.fused import tracing
from autosam_deploy.fused.attention import LOWERINGS
from autosam_deploy.fused.embedder import FusedEmbedder
from autosam_deploy.fused.precision import apply_precision, measure_ranges, plan_precision
from autosam_deploy.fused.rounding import run_typed
from autosam_deploy.fused.segmenter import FusedSegmenter, fuse
from autosam_deploy.fused.taps import boundaries, name_taps, recorded
from autosam_deploy.models.encoders import seeded_encoder_state
from autosam_deploy.models.segmenter import seeded_segmenter
from autosam_deploy.spec import HEAD_KINDS, HeadKind, ModelSpec, OutputName, PreprocessSpec

SpecFactory = Callable[..., ModelSpec]
Write = Callable[[FusedSegmenter], onnx.ModelProto]
SLICES = torch.rand(2, 1, 37, 52, generator=torch.Generator().manual_seed(2)) * 900
BLOCKS = ("encoder.blocks.0", "encoder.blocks.1", "encoder.blocks.2")
ALL = ("input", "encoder.patches", *BLOCKS, "encoder.neck", "head", "output")
SCOPES = "pkg.torch.onnx.name_scopes"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def run(fused: FusedSegmenter) -> onnx.ModelProto:
        tracing.write_onnx(
            fused,
            tmp_path / "m.onnx",
            example=torch.rand(2, 1, 45, 43),
            source=fused.spec.input_tensor,
            outputs=fused.spec.output_tensors,
            opset=max(20, LOWERINGS[fused.lowering].lowest_opset),
        )
        return onnx.load(tmp_path / "m.onnx")

    return run


def fused_of(spec: ModelSpec, lowering: str = "explicit", **options: Any) -> FusedSegmenter:
    return fuse(seeded_segmenter(spec, seed=1), lowering=lowering, **options)


def typed_of(fused: FusedSegmenter) -> FusedSegmenter:
    return apply_precision(fused, plan_precision(fused, measure_ranges(fused, [SLICES])))


def values_of(model: onnx.ModelProto, names: tuple[str, ...]) -> list[NDArray[Any]]:
    for name in names:
        if name not in {value.name for value in model.graph.output}:
            model.graph.output.add().name = name
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: list[NDArray[Any]] = session.run(list(names), {"slices": SLICES.numpy()})
    return found


def modules_results(fused: FusedSegmenter) -> dict[str, Tensor]:
    with recorded(fused) as found, torch.no_grad():
        fused.logits(SLICES)
    return found


def test_boundaries_are_in_the_order_of_computation(model_spec: SpecFactory) -> None:
    fused = fused_of(model_spec("autosam"))
    assert boundaries(fused) == ALL
    assert tuple(modules_results(fused)) == ALL


@pytest.mark.parametrize(
    ("kind", "lowering", "typed"),
    [(kind, "explicit", False) for kind in HEAD_KINDS]
    + [("autosam", "augmented", True), ("linear", "masked", False)],
)
def test_named_values_are_what_the_modules_return(
    model_spec: SpecFactory, write: Write, kind: HeadKind, lowering: str, typed: bool
) -> None:
    fused = fused_of(model_spec(kind), lowering)
    fused = typed_of(fused) if typed else fused
    wanted = modules_results(fused)
    for name, value in zip(ALL, values_of(write(fused), (*ALL[:-1], "logits")), strict=True):
        expected = wanted[name].numpy()
        assert (value.shape, value.dtype) == (expected.shape, expected.dtype), name
        difference = np.abs(value.astype(np.float64) - expected).max()
        assert difference <= (1e-2 if typed else 1e-5) * np.abs(expected).max(), name


@pytest.mark.parametrize("outputs", [("labels",), ("labels", "logits"), ("logits",)])
def test_outputs_keep_their_names(
    model_spec: SpecFactory, write: Write, outputs: tuple[OutputName, ...]
) -> None:
    model = write(fused_of(model_spec("linear"), outputs=outputs))
    values = {name for node in model.graph.node for name in node.output}
    assert tuple(value.name for value in model.graph.output) == outputs
    assert ("output" in values) == (outputs == ("labels",))


def test_padding_and_marked_padding(model_spec: SpecFactory, write: Write) -> None:
    recipe = PreprocessSpec(
        resize="longest-side", pixel_mean=(0.5, 0.4, 0.3), pixel_std=(0.2, 0.2, 0.2)
    )
    fused = fused_of(model_spec("linear", preprocess=recipe))
    (image,) = values_of(write(fused), ("input",))
    expected = modules_results(fused)["input"].numpy()
    assert image.shape == expected.shape == (2, 2, 48, 48)
    np.testing.assert_allclose(image, expected, atol=1e-5)


def test_names_are_all_that_changes(
    model_spec: SpecFactory, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = fused_of(model_spec("autosam"))
    named = write(fused)
    monkeypatch.setattr(tracing, "name_taps", lambda graph, names: ())
    plain = write(fused)
    back = {
        new: old
        for a, b in zip(plain.graph.node, named.graph.node, strict=True)
        for old, new in zip(a.output, b.output, strict=True)
    }
    assert {new for new, old in back.items() if new != old} == set(ALL[:-1])
    for node in named.graph.node:
        node.input[:] = [back.get(name, name) for name in node.input]
        node.output[:] = [back[name] for name in node.output]
    for value in named.graph.value_info:
        value.name = back.get(value.name, value.name)
    assert named == plain


def test_graph_is_the_same_bytes_again(model_spec: SpecFactory, write: Write) -> None:
    first, second = (write(fused_of(model_spec("linear"))) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def test_recording_ends_with_the_block(model_spec: SpecFactory) -> None:
    fused = fused_of(model_spec("linear"))
    found = modules_results(fused)
    before = dict(found)
    with torch.no_grad():
        fused.logits(SLICES + 300)
    assert all(found[name] is before[name] for name in ALL)


def test_typed_copies_are_recorded(model_spec: SpecFactory) -> None:
    fused = fused_of(model_spec("linear"))
    exact = modules_results(fused)
    plan = plan_precision(fused, measure_ranges(fused, [SLICES]))
    with recorded(fused) as found:
        logits = run_typed(fused, plan, SLICES)
    assert torch.equal(found["output"], logits)
    tokens = found["encoder.blocks.0"]
    assert torch.equal(tokens, tokens.half().float())
    assert not torch.equal(tokens, exact["encoder.blocks.0"])


def test_an_embedder_has_no_head(model_spec: SpecFactory) -> None:
    spec = model_spec("linear")
    embedder = FusedEmbedder(
        seeded_encoder_state(spec.encoder, 1),
        spec.encoder,
        preprocess=spec.preprocess,
        lowering="explicit",
    )
    assert boundaries(embedder) == ALL[:-2]


def chain(*scopes: str | None, first: str = "x") -> tuple[ir.Graph, list[ir.Value]]:
    """Identity nodes in a row with the exporter's note of their modules."""
    value = ir.val(first, ir.DataType.FLOAT)
    source, nodes = value, []
    for index, scope in enumerate(scopes):
        node = ir.node("Identity", [value])
        (value,) = node.outputs
        value.name, value.dtype = f"v{index}", ir.DataType.FLOAT
        if scope is not None:
            node.metadata_props[SCOPES] = scope
        nodes.append(node)
    graph = ir.Graph([source], [value], nodes=nodes, opset_imports={"": 20})
    return graph, [node.outputs[0] for node in nodes]


def test_last_value_that_leaves_a_module_is_its_result() -> None:
    graph, values = chain("['', 'head', 'a']", "['', 'head', 'head.x', 'b']", "['', 'c']")
    assert name_taps(graph, ("head", "input")) == ("head",)
    assert [value.name for value in values] == ["v0", "head", "v2"]


@pytest.mark.parametrize("note", [None, "", "head", "['', 'head'", "{'head': 1}", "['head']"])
def test_without_module_paths_nothing_is_named(note: str | None) -> None:
    graph, values = chain(note, note)
    assert name_taps(graph, ("head",)) == ()
    assert [value.name for value in values] == ["v0", "v1"]


def test_a_name_that_is_taken_is_not_given_twice() -> None:
    graph, values = chain("['', 'head', 'a']", "['', 'b']", first="head")
    assert name_taps(graph, ("head",)) == ()
    assert values[0].name == "v0"


def test_integers_are_no_results() -> None:
    graph, values = chain("['', 'head', 'a']", "['', 'b']")
    values[0].dtype = ir.DataType.INT64
    assert name_taps(graph, ("head",)) == ()
