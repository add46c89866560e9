"""The quantized graph: integers in the encoder's linear layers, float32 everywhere else."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.errors import ExportError
from autosam_deploy.extras import require

#: Weights of the linear layers of a block, as the fused segmenter names them.
LAYERS = ("query", "key", "value", "projection", "expand", "contract")
#: What protobuf can hold in one file.
_LARGEST = 2**31 - 1


def quantize(graph: Path, target: Path, slices: Sequence[NDArray[np.float32]]) -> int:
    """Write a graph whose encoder's linear layers multiply integers.

    ONNX Runtime's static quantization: weights symmetric by output channel, activations by tensor
    with the range that the slices span. Layer norms, attention's scores and their softmax, the
    neck, the head and both ends stay as they are: they are a small part of the time, and where
    rounding to 8 bits costs labels.

    Args:
        graph: a bundle's float32 graph.
        target: file to write; weights are in it.
        slices: raw slices (1, 1, H, W) that set the ranges.

    Returns:
        How many layers are in integers.

    Raises:
        ExportError: the graph has no such layers, or cannot be quantized.
    """
    onnx = require("onnx", extra="export", feature="quantizing a graph")
    tools = require("onnxruntime.quantization", extra="export", feature="quantizing a graph")
    nodes = onnx.load(graph, load_external_data=False).graph.node
    layers = [node.name for node in nodes if node.op_type == "MatMul" and _is_linear(node.input[1])]
    if not layers:
        raise ExportError(
            f"'{graph.name}' has no linear layers of an encoder",
            todo="it comes from an older version: export the bundle again",
        )
    rest: Iterator[dict[str, NDArray[np.float32]]] = iter([{"slices": one} for one in slices])

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(rest, None)

    # It advises, on every call, to optimise the graph first; the exporter has.
    logging.getLogger().addFilter(_without_advice)
    try:
        tools.quantize_static(
            str(graph),
            str(target),
            Reader(),
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            nodes_to_quantize=layers,
            op_types_to_quantize=["MatMul"],
            # Intermediate graphs hold the float32 weights.
            use_external_data_format=graph.with_name(f"{graph.name}.data").exists(),
        )
    except Exception as error:
        # ONNX Runtime's exceptions share no base class of their own.
        raise ExportError(
            "ONNX Runtime cannot quantize the graph", got=str(error)[-300:]
        ) from error
    finally:
        logging.getLogger().removeFilter(_without_advice)
    _in_one_file(onnx, target)
    return len(layers)


def _in_one_file(onnx: Any, target: Path) -> None:
    data = target.with_name(f"{target.name}.data")
    if not data.exists():
        return
    model = onnx.load(target)
    if (size := model.ByteSize()) > _LARGEST:
        raise ExportError("the int8 graph", got=f"{size} bytes", expected=f"up to {_LARGEST}")
    data.unlink()
    onnx.save(model, target)


def _without_advice(record: logging.LogRecord) -> bool:
    return "consider" not in record.getMessage()


def _is_linear(weight: str) -> bool:
    words = weight.split(".")
    return words[:2] == ["encoder", "blocks"] and words[3:] in [[name, "weight"] for name in LAYERS]
