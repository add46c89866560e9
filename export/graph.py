"""From a fused segmenter to an ONNX file: names, dynamic axes and opset from the spec."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from autosam_deploy.errors import ExportError
from autosam_deploy.extras import require
from autosam_deploy.fused.attention import LOWEST_OPSET
from autosam_deploy.fused.segmenter import FusedSegmenter

#: Weights beyond this go to one `<name>.data` file beside the graph: a protobuf ends at 2 GiB.
EXTERNAL_DATA_BYTES = 1_500_000_000

#: Gelu is one node from opset 20 on; 23 has Attention and is the newest the exporter writes well.
DEFAULT_OPSET = 20
HIGHEST_OPSET = 23


def check_opset(opset: int, lowering: str) -> None:
    """Refuse opsets in which a lowering cannot be written.

    Raises:
        ExportError: naming the range that works.
    """
    lowest = LOWEST_OPSET[lowering]
    if not lowest <= opset <= HIGHEST_OPSET:
        raise ExportError(
            f"lowering '{lowering}' cannot be written in this opset",
            got=str(opset),
            expected=f"{lowest}..{HIGHEST_OPSET}",
            todo="choose another --opset or --lowering",
        )


def default_opset(lowering: str) -> int:
    """Return the opset used for a lowering unless another is asked for."""
    return max(DEFAULT_OPSET, LOWEST_OPSET[lowering])


def export_onnx(fused: FusedSegmenter, path: Path, *, opset: int) -> None:
    """Write the fused segmenter as an ONNX graph.

    Args:
        fused: float32 or typed (see `fused.precision`), in eval mode.
        path: the file to write; weights over 1.5 GB go to `<path>.data`.
        opset: ONNX operator set version.

    Raises:
        ExportError: the lowering needs another opset, or the exporter failed.
    """
    check_opset(opset, fused.lowering)
    require("onnxscript", extra="export", feature="writing an ONNX graph")
    spec = fused.spec
    height, width = spec.encoder.image_size
    # Sizes that are no special case: not one, not equal, not the encoder's own.
    example = torch.rand(2, 1, height - 3, width - 5)
    axes = {axis: Dim(symbol, min=1) for axis, symbol in spec.input_tensor.dynamic_axes.items()}
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                fused,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[spec.input_tensor.name],
                output_names=[tensor.name for tensor in spec.output_tensors],
                dynamic_shapes=(axes,),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(
                "the segmenter could not be traced to ONNX",
                got=str(error).strip().splitlines()[0],
                todo="run again with --debug for the exporter's report",
            ) from error
    if program is None:
        raise ExportError("the ONNX exporter returned nothing")
    _name_axes(program.model, fused)
    program.save(path, external_data=_weight_bytes(fused) > EXTERNAL_DATA_BYTES)


def _weight_bytes(fused: FusedSegmenter) -> int:
    return sum(p.numel() * p.element_size() for p in fused.parameters())


def _name_axes(model: Any, fused: FusedSegmenter) -> None:
    """Give the outputs the shapes of the spec; the exporter knows the symbols of inputs only."""
    ir = require("onnx_ir", extra="export", feature="writing an ONNX graph")
    for value, tensor in zip(model.graph.outputs, fused.spec.output_tensors, strict=True):
        value.shape = ir.Shape(tensor.shape)
    for value in model.graph.inputs:
        value.shape = ir.Shape(fused.spec.input_tensor.shape)
    model.producer_name = "autosam-deploy"
    # Stack traces of the machine that exported do not belong in a file that travels.
    model.metadata_props.clear()
    for graph in (model.graph, *model.functions.values()):
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's notes on axis names and decompositions; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
