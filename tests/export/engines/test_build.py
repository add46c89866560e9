"""Real engines from real graphs: TensorRT-RTX builds without a GPU, so this runs everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper
from rich.progress import Progress

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import ExportError
from autosam_deploy.export.engines.build import BuiltEngine, activation_bytes, build_engine
from autosam_deploy.export.engines.network import inspect_network, parse_graph
from autosam_deploy.export.graph import export_onnx
from autosam_deploy.fused.segmenter import fuse
from autosam_deploy.models.assemble import untrained
from autosam_deploy.runtime.nvidia.families import library_version, make_logger, this_platform
from autosam_deploy.spec import HEAD_KINDS, HeadKind, ModelSpec

pytestmark = pytest.mark.trt

PROFILE = {"B": (1, 2, 4), "H": (16, 48, 128), "W": (16, 48, 128)}


def graph_of(bundle: Bundle, precision: str = "fp16") -> Artefact:
    return next(
        a for a in bundle.manifest.artefacts if a.kind == "onnx" and a.precision == precision
    )


def build(
    rtx: Any, bundle: Bundle, progress: Progress, *, sm: int = 89, **changes: Any
) -> BuiltEngine:
    artefact = graph_of(bundle)
    options: dict[str, Any] = {
        "family": "tensorrt_rtx",
        "graph": bundle.file(artefact.file),
        "artefact": artefact,
        "model": bundle.manifest.model,
        "capability": sm,
        "profile": PROFILE,
        "workspace_bytes": None,
        "progress": progress,
        **changes,
    }
    return build_engine(rtx, **options)


@pytest.mark.parametrize("sm", [75, 80, 86, 89, 120, 121])
def test_every_gpu_of_the_family(
    rtx: Any, exported: Callable[[HeadKind], Path], progress: Progress, sm: int
) -> None:
    bundle = Bundle.open(exported("autosam"), verify=False)
    built = build(rtx, bundle, progress, sm=sm)
    assert len(built.plan) > 100_000
    assert built.info.compute_capabilities == (sm,)
    assert built.info.version == library_version(rtx)
    assert built.info.platform == this_platform()
    assert built.info.graph_sha256 == graph_of(bundle).file.sha256
    assert built.info.key == built.info.engine_key()
    assert built.info.activation_bytes is not None
    assert 100_000 < built.info.activation_bytes < 50_000_000
    assert "Total Activation Memory" in built.log


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_realised_precision_and_fusion(
    rtx: Any, exported: Callable[[HeadKind], Path], progress: Progress, kind: HeadKind
) -> None:
    bundle = Bundle.open(exported(kind), verify=False)
    facts = build(rtx, bundle, progress).facts
    assert facts.attentions == bundle.manifest.model.encoder.depth
    assert facts.square == ()
    assert facts.norms_low == ()
    typing = graph_of(bundle).typing
    assert typing is not None
    logits = sum(island.reason == "logits" for island in typing.islands)
    assert len(facts.heavy_fp32) <= logits
    assert 0.6 < facts.low_share < 1


def network_of(rtx: Any, path: Path) -> tuple[Any, ...]:
    logger = make_logger(rtx)
    builder = rtx.Builder(logger)
    return builder, *parse_graph(rtx, builder=builder, logger=logger, path=path)


def test_turing_has_no_float32_products(
    rtx: Any, exported: Callable[[HeadKind], Path], progress: Progress
) -> None:
    # The autosam head's logits are a sum of products and build; the linear head's are a matrix
    # product in float32, which the library refuses in words of its own.
    bundle = Bundle.open(exported("linear"), verify=False)
    with pytest.raises(ExportError, match=r"no engine for sm75; got .*FP32 GEMM is not supported"):
        build(rtx, bundle, progress, sm=75)


def test_labels_leave_as_bytes(rtx: Any, exported: Callable[[HeadKind], Path]) -> None:
    bundle = Bundle.open(exported("linear"), verify=False)
    _, network, parser = network_of(rtx, bundle.file(graph_of(bundle).file))
    found = {network.get_output(i).name: network.get_output(i).dtype for i in range(2)}
    assert found == {"labels": rtx.uint8, "logits": rtx.float32}
    assert parser.num_errors == 0


def test_explicit_graph_holds_scores(
    rtx: Any, model_spec: Callable[..., ModelSpec], tmp_path: Path
) -> None:
    spec = model_spec("linear")
    segmenter = untrained(spec.encoder, spec.head, seed=1).segmenter
    export_onnx(fuse(segmenter, lowering="explicit"), tmp_path / "g.onnx", opset=20)
    network = network_of(rtx, tmp_path / "g.onnx")
    facts = inspect_network(network[1], scores=frozenset({(3, 36), (3, 16)}))
    assert facts.low == 0
    assert facts.attentions == 0
    # One tensor of scores for each of the three blocks: what the fp16 graph must not have.
    assert len(facts.square) >= 3


def test_float32_has_no_fused_attention(
    rtx: Any, exported: Callable[[HeadKind], Path], progress: Progress
) -> None:
    bundle = Bundle.open(exported("linear"), verify=False)
    artefact = graph_of(bundle, "fp32")
    assert artefact.lowering == "masked"
    with pytest.raises(ExportError, match=r"no engine for sm89; .*; TensorRT may have no fused at"):
        build(rtx, bundle, progress, artefact=artefact, graph=bundle.file(artefact.file))


def test_a_graph_that_lost_its_typing_is_refused(
    rtx: Any, exported: Callable[[HeadKind], Path], progress: Progress
) -> None:
    bundle = Bundle.open(exported("linear"), verify=False)
    full = bundle.file(graph_of(bundle, "fp32").file)
    with pytest.raises(ExportError, match=r"computes products in float32; got .*; expected all"):
        build(rtx, bundle, progress, graph=full)


def test_an_unknown_node_is_named(
    rtx: Any, exported: Callable[[HeadKind], Path], progress: Progress, tmp_path: Path
) -> None:
    bundle = Bundle.open(exported("linear"), verify=False)
    model = onnx.load(bundle.file(graph_of(bundle).file))
    for node in model.graph.node:
        node.input[:] = ["odd_slices" if name == "slices" else name for name in node.input]
    odd = helper.make_node("Bogus", ["slices"], ["odd_slices"], name="odd_one", domain="nowhere")
    model.graph.node.insert(0, odd)
    model.opset_import.append(helper.make_opsetid("nowhere", 1))
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ExportError, match=r"cannot read 'odd.onnx'; got node 'odd_one' \(Bogus\)"):
        build(rtx, bundle, progress, graph=tmp_path / "odd.onnx")


def test_a_graph_of_another_model_is_refused(
    rtx: Any, exported: Callable[[HeadKind], Path], progress: Progress, tmp_path: Path
) -> None:
    bundle = Bundle.open(exported("linear"), verify=False)
    model = onnx.load(bundle.file(graph_of(bundle).file))
    model.graph.input[0].name = "image"
    for node in model.graph.node:
        node.input[:] = ["image" if name == "slices" else name for name in node.input]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ExportError, match=r"contradicts the manifest; got .*'image'"):
        build(rtx, bundle, progress, graph=tmp_path / "other.onnx")


def test_a_profile_beyond_memory_is_the_librarys_error(
    rtx: Any, exported: Callable[[HeadKind], Path], progress: Progress
) -> None:
    bundle = Bundle.open(exported("linear"), verify=False)
    with pytest.raises(ExportError, match=r"built no engine for sm89; got .*try a smaller --batch"):
        build(rtx, bundle, progress, workspace_bytes=1024)


def test_same_inputs_give_the_same_key(
    rtx: Any, exported: Callable[[HeadKind], Path], progress: Progress
) -> None:
    bundle = Bundle.open(exported("linear"), verify=False)
    first, second = build(rtx, bundle, progress), build(rtx, bundle, progress)
    assert first.info.key == second.info.key
    wider = build(rtx, bundle, progress, profile={**PROFILE, "B": (1, 2, 8)})
    assert wider.info.key != first.info.key
    # Each log tells of its own build alone, though the library has one logger for all.
    assert first.log.count("Total Activation Memory") == second.log.count("Total Activation") == 1


def test_activation_memory_is_read_from_the_log() -> None:
    lines = [("INFO", "Total Activation Memory: 12 bytes"), ("VERBOSE", "x"), ("INFO", "y")]
    assert activation_bytes(lines) == 12
    assert activation_bytes([("INFO", "nothing")]) is None
