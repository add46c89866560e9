"""Bundles around a hand-made graph: no export, so that the runtime is tested alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autosam_deploy.bundle.manifest import (
    Artefact,
    FileRef,
    GoldenCase,
    Manifest,
    Precision,
    Provenance,
)
from autosam_deploy.bundle.writer import BundleWriter, create_bundle
from autosam_deploy.spec import ModelSpec

#: logits[k] = WEIGHT[k] * slice + BIAS[k]: class 0 below 0, class 1 up to 2, class 2 beyond.
WEIGHT = np.array([-1.0, 0.0, 1.0], np.float32)
BIAS = np.array([0.0, 0.0, -2.0], np.float32)


@dataclass(frozen=True)
class Toy:
    """What to make; `rename`, `labels_type` and `width` break the contract."""

    outputs: tuple[str, ...] = ("labels", "logits")
    precisions: tuple[Precision, ...] = ("fp32",)
    external: bool = False
    rename: str = "slices"
    labels_type: int = TensorProto.UINT8
    width: int | str = "W"
    claimed: tuple[str, ...] | None = None


def toy_logits(slices: np.ndarray) -> np.ndarray:
    """Return what the toy graph computes for (B, 1, H, W)."""
    return slices * WEIGHT[:, None, None] + BIAS[:, None, None]


def write_graph(path: Path, toy: Toy) -> None:
    """Write the toy graph with dynamic sizes."""
    nodes = [
        helper.make_node("Conv", [toy.rename, "weight", "bias"], ["raw"]),
        # A shape computed in the graph, as every exported graph has.
        helper.make_node("Shape", ["raw"], ["shape"]),
        helper.make_node("Reshape", ["raw", "shape"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["index"], axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], ["labels"], to=toy.labels_type),
    ]
    values = {
        "labels": helper.make_tensor_value_info("labels", toy.labels_type, ["B", "H", toy.width]),
        "logits": helper.make_tensor_value_info(
            "logits", TensorProto.FLOAT, ["B", 3, "H", toy.width]
        ),
    }
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(toy.rename, TensorProto.FLOAT, ["B", 1, "H", toy.width])],
        [values[name] for name in toy.outputs],
        [
            numpy_helper.from_array(WEIGHT.reshape(3, 1, 1, 1), "weight"),
            numpy_helper.from_array(BIAS, "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(
        model,
        path,
        save_as_external_data=toy.external,
        location=f"{path.name}.data",
        size_threshold=0,
    )


def write_golden(writer: BundleWriter) -> GoldenCase:
    """Write one golden case."""
    slices = np.random.default_rng(0).normal(1, 2, (2, 1, 5, 7)).astype(np.float32)
    logits = toy_logits(slices)
    arrays = {"slices": slices, "labels": logits.argmax(1).astype(np.uint8), "logits": logits}
    (writer.folder / "golden").mkdir()
    refs: dict[str, FileRef] = {}
    for name, array in arrays.items():
        np.save(writer.folder / "golden" / f"case_0.{name}.npy", array)
        refs[name] = writer.ref(f"golden/case_0.{name}.npy")
    return GoldenCase(name="case_0", **refs)


@pytest.fixture
def toy_bundle(tmp_path: Path, model_spec: Callable[..., ModelSpec]) -> Callable[..., Path]:
    """Factory: toy_bundle(external=True, ...) -> folder of a bundle of three classes."""

    def build(**fields: Any) -> Path:
        toy = Toy(**fields)
        spec = model_spec("linear", outputs=toy.claimed or toy.outputs)
        path = tmp_path / "toy.autosam"
        with create_bundle(path) as writer:
            artefacts = []
            for precision in toy.precisions:
                name = f"model.{precision}.onnx"
                write_graph(writer.folder / name, toy)
                data = writer.ref(f"{name}.data") if toy.external else None
                artefacts.append(
                    Artefact(
                        kind="onnx",
                        precision=precision,
                        file=writer.ref(name),
                        external_data=data,
                        lowering="explicit",
                        opset=20,
                    )
                )
            (writer.folder / "parity.json").write_text("{}", "utf-8")
            writer.finish(
                Manifest(
                    schema_version=1,
                    name="toy",
                    trained=False,
                    intended_use="tests",
                    model=spec,
                    inputs=(spec.input_tensor,),
                    outputs=spec.output_tensors,
                    artefacts=tuple(artefacts),
                    golden=(write_golden(writer),),
                    parity=writer.ref("parity.json"),
                    provenance=Provenance(
                        created="2026-01-01T00:00:00+00:00",
                        command="",
                        versions={},
                        sources={},
                        encoder_sha256="0" * 64,
                    ),
                )
            )
        return path

    return build


def toy_outputs(slices: np.ndarray) -> dict[str, np.ndarray]:
    logits = toy_logits(slices)
    return {"logits": logits, "labels": logits.argmax(axis=1).astype(np.uint8)}


@pytest.fixture
def gpu(gpu: Any) -> Any:
    """The fake GPU of all tests, whose engines compute the toy graph."""
    gpu.function = toy_outputs
    return gpu


@pytest.fixture
def with_engine(load_fake: Callable[[str], Any]) -> Callable[..., Path]:
    """Factory: with_engine(folder, "fp16", family=..., broken={...}) -> path of the engine."""
    added: Callable[..., Path] = load_fake("engines").add_engine
    return added


@pytest.fixture
def engine_bundle(
    toy_bundle: Callable[..., Path], with_engine: Callable[..., Path]
) -> Callable[..., Path]:
    """Factory: a bundle with an fp32 and an fp16 graph and one engine for the fake GPU."""

    def build(precision: Precision = "fp16", **fields: Any) -> Path:
        folder = toy_bundle(precisions=("fp32", "fp16"))
        with_engine(folder, precision, **fields)
        return folder

    return build


@pytest.fixture
def fake_streams(load_fake: Callable[[str], Any]) -> Any:
    """The class of a device without a GPU (see `tests/fakes/streams.py`)."""
    return load_fake("streams").FakeDevice
