"""Graphs whose encoder's linear layers are in eight-bit integers, for the study of `int8`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BundleError, UsageError
from autosam_deploy.extras import require
from autosam_deploy.volumes.cases import find_cases
from autosam_deploy.volumes.read import read_volume
from autosam_deploy.volumes.slices import resolve_axis, slices_along
from autosam_deploy.volumes.volume import Volume

#: Weights of the encoder's linear layers, as the fused segmenter names them.
_LINEAR = {
    (name, "weight") for name in ("query", "key", "value", "projection", "expand", "contract")
}


def calibration_slices(bundle: Bundle, folder: Path, count: int) -> list[NDArray[np.float32]]:
    """Return raw slices (1, 1, H, W) spread over the volumes of a folder, flat ones left out.

    Raises:
        UsageError: there are none.
    """
    cases = find_cases(folder)
    each = max(1, -(-count // len(cases)))
    found: list[NDArray[np.float32]] = []
    for case in cases:
        volume = read_volume(case.path)
        along = slices_along(volume.array, slice_axis(bundle, volume))
        filled = [one for one in along if one.min() != one.max()]
        chosen = np.linspace(0, len(filled) - 1, min(each, len(filled))).round().astype(int)
        found += [filled[index].astype(np.float32)[None, None] for index in chosen]
    if not found:
        raise UsageError("--calibration", got="flat slices only", expected="images")
    return [
        found[index] for index in np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)
    ]


def quantize(
    graph: Path, target: Path, slices: Sequence[NDArray[np.float32]], *, console: Console
) -> int:
    """Write a graph whose encoder's linear layers are in int8; returns how many they are.

    Raises:
        BundleError: the graph has no such layers.
    """
    onnx = require("onnx", extra="export", feature="quantizing a graph")
    tools = require("onnxruntime.quantization", extra="export", feature="quantizing a graph")
    nodes = onnx.load(graph, load_external_data=False).graph.node
    layers = [node.name for node in nodes if node.op_type == "MatMul" and _is_linear(node.input[1])]
    if not layers:
        raise BundleError(f"'{graph.name}' has no linear layers of an encoder", todo="export again")
    console.print(f"quantizing {len(layers)} layers on {len(slices)} slices ...")
    rest: Iterator[dict[str, NDArray[np.float32]]] = iter([{"slices": one} for one in slices])

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(rest, None)

    # It advises, on every call, to optimise the graph first; the exporter has.
    logging.getLogger().addFilter(_without_advice)
    try:
        _quantize_static(tools, graph, target, Reader(), layers)
    finally:
        logging.getLogger().removeFilter(_without_advice)
    return len(layers)


def _quantize_static(
    tools: Any, graph: Path, target: Path, reader: Any, layers: Sequence[str]
) -> None:
    tools.quantize_static(
        str(graph),
        str(target),
        reader,
        quant_format=tools.QuantFormat.QDQ,
        per_channel=True,
        activation_type=tools.QuantType.QUInt8,
        weight_type=tools.QuantType.QInt8,
        nodes_to_quantize=layers,
        op_types_to_quantize=["MatMul"],
    )


def _without_advice(record: logging.LogRecord) -> bool:
    return "consider" not in record.getMessage()


def _is_linear(weight: str) -> bool:
    words = weight.split(".")
    return words[:2] == ["encoder", "blocks"] and tuple(words[3:]) in _LINEAR


def slice_axis(bundle: Bundle, volume: Volume) -> Literal["i", "j", "k"]:
    """Return the axis that a bundle's model takes slices along."""
    return resolve_axis(volume.geometry, bundle.manifest.model.preprocess.slice_axis)
