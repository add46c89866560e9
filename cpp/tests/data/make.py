"""Make the bundles of the C++ tests: real ones, of graphs whose labels one can work out by hand.

Run it from the root of the checkout, after a change of the manifest:

    python cpp/tests/data/make.py

`threshold.autosam`: logits (100 - x, x, 2 x - 300), so the label is 0 up to 50, 1 up to 300, then 2
(the first of equals). `slow.autosam`: the same behind a long chain of sines, for runs that are
stopped in the middle.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autosam_deploy.bundle.manifest import (
    SCHEMA_VERSION,
    Artefact,
    GoldenCase,
    Manifest,
    Precision,
    Provenance,
)
from autosam_deploy.bundle.writer import BundleWriter, create_bundle
from autosam_deploy.encoders import VitEncoder
from autosam_deploy.files import write_json
from autosam_deploy.parity import Comparison, ParityRecord, Reference
from autosam_deploy.spec import LinearHead, ModelSpec, PreprocessSpec, default_classes

HERE = Path(__file__).parent
SCALE = np.array([-1, 1, 2], np.float32).reshape(1, 3, 1, 1)
OFFSET = np.array([100, 0, -300], np.float32).reshape(1, 3, 1, 1)
OPSET, IR_VERSION, SINES = 20, 9, 600
#: A safetensors file without a tensor: hosts in C++ check weights and never read them.
NO_WEIGHTS = (2).to_bytes(8, "little") + b"{}"

SPEC = ModelSpec(
    encoder=VitEncoder(
        name="vit_none",
        embed_dim=8,
        depth=1,
        num_heads=1,
        global_attn_indexes=(),
        out_chans=8,
        image_size=(256, 256),
    ),
    head=LinearHead(num_classes=3, embed_dim=8),
    classes=default_classes(3, ("background", "body", "bone")),
    preprocess=PreprocessSpec(intensity="none", slice_axis="k"),
)


def logits_of(slices: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the graph computes, (B, 1, H, W) -> (B, 3, H, W)."""
    return slices * SCALE + OFFSET


def graph(*, half: bool = False, sines: int = 0) -> onnx.ModelProto:
    """Write the graph; `half` computes in float16, `sines` wastes time without an effect."""
    dtype = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    constants = {"scale": SCALE, "offset": OFFSET, "zero": np.zeros((), np.float32)}
    nodes = []
    last = "slices"
    for index in range(sines):
        nodes.append(helper.make_node("Sin", [last], [f"sine_{index}"]))
        last = f"sine_{index}"
    if sines:
        nodes.append(helper.make_node("Mul", [last, "zero"], ["nothing"]))
        nodes.append(helper.make_node("Add", ["slices", "nothing"], ["wasted"]))
    source = "wasted" if sines else "slices"
    nodes += [
        helper.make_node("Cast", [source], ["x"], to=dtype),
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["typed"]),
        helper.make_node("Cast", ["typed"], ["logits"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
        helper.make_node("Cast", ["best"], ["labels"], to=TensorProto.UINT8),
    ]
    typed = {
        name: value.astype(np.float16) if half and name != "zero" else value
        for name, value in constants.items()
    }
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "threshold",
            [helper.make_tensor_value_info("slices", TensorProto.FLOAT, ["B", 1, "H", "W"])],
            [
                helper.make_tensor_value_info("labels", TensorProto.UINT8, ["B", "H", "W"]),
                helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 3, "H", "W"]),
            ],
            [numpy_helper.from_array(value, name) for name, value in typed.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    return model


def golden(writer: BundleWriter) -> list[GoldenCase]:
    """Two cases: integers over the whole range, and values close to the thresholds."""
    folder = writer.folder / "golden"
    folder.mkdir()
    generator = np.random.default_rng(0)
    cases = []
    for index, (shape, low, high) in enumerate((((2, 1, 6, 9), -200, 900), ((1, 1, 5, 4), 45, 55))):
        slices = generator.integers(low, high, shape).astype(np.float32)
        logits = logits_of(slices)
        labels = logits.argmax(axis=1).astype(np.uint8)
        arrays = {"slices": slices, "labels": labels, "logits": logits}
        for name, array in arrays.items():
            np.save(folder / f"case_{index}.{name}.npy", array)
        refs = {name: writer.ref(f"golden/case_{index}.{name}.npy") for name in arrays}
        cases.append(GoldenCase(name=f"case_{index}", **refs))
    return cases


def parity(writer: BundleWriter, gates: dict[Precision, float]) -> None:
    """Write a record whose gates the graphs keep."""
    record = ParityRecord(
        verdict="latency-only",
        inputs="integers",
        shapes=((2, 1, 6, 9), (1, 1, 5, 4)),
        comparisons=tuple(
            Comparison(
                artefact=f"model.{precision}.onnx",
                precision=precision,
                reference=Reference(method="float64", max_error=0, rms_error=0, slices=3),
                gate=gate,
            )
            for precision, gate in gates.items()
        ),
        versions={},
    )
    write_json(writer.folder / "parity.json", record.model_dump(mode="json"))


def make(
    name: str, graphs: dict[Precision, onnx.ModelProto], gates: dict[Precision, float]
) -> None:
    """Write one bundle beside this file, in place of an older one."""
    with create_bundle(HERE / f"{name}.autosam") as writer:
        (writer.folder / "weights.safetensors").write_bytes(NO_WEIGHTS)
        weights = writer.ref("weights.safetensors")
        artefacts = [Artefact(kind="weights", precision="fp32", file=weights)]
        for precision, model in graphs.items():
            file = f"model.{precision}.onnx"
            (writer.folder / file).write_bytes(model.SerializeToString(deterministic=True))
            artefacts.append(
                Artefact(
                    kind="onnx",
                    precision=precision,
                    file=writer.ref(file),
                    lowering="explicit",
                    opset=OPSET,
                )
            )
        cases = golden(writer)
        parity(writer, gates)
        writer.finish(
            Manifest(
                schema_version=SCHEMA_VERSION,
                name=name,
                trained=False,
                intended_use="Tests of hosts alone.",
                model=SPEC,
                inputs=(SPEC.input_tensor,),
                outputs=SPEC.output_tensors,
                artefacts=tuple(artefacts),
                golden=tuple(cases),
                parity=writer.ref("parity.json"),
                provenance=Provenance(
                    created="2026-01-01T00:00:00+00:00",
                    command="cpp/tests/data/make.py",
                    versions={},
                    sources={},
                    encoder_sha256="0" * 64,
                ),
            )
        )


def main() -> None:
    """Make all of them."""
    for old in HERE.glob("*.autosam"):
        shutil.rmtree(old)
    make("threshold", {"fp32": graph(), "fp16": graph(half=True)}, {"fp32": 1e-3, "fp16": 4.0})
    make("slow", {"fp32": graph(sines=SINES)}, {"fp32": 1e-3})


if __name__ == "__main__":
    main()
