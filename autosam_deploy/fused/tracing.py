"""A fused module as an ONNX file: the one call of PyTorch's exporter that this project makes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from autosam_deploy.errors import ExportError
from autosam_deploy.extras import require
from autosam_deploy.fused.taps import boundaries, name_taps
from autosam_deploy.spec import TensorSpec

#: Weights beyond this go to one `<name>.data` file beside the graph: a protobuf ends at 2 GiB.
EXTERNAL_DATA_BYTES = 1_500_000_000


def write_onnx(
    module: nn.Module,
    path: Path,
    *,
    example: Tensor,
    source: TensorSpec,
    outputs: Sequence[TensorSpec],
    opset: int,
) -> None:
    """Trace a module of one input and write it.

    The boundaries between its blocks are values named by module path (see `fused.taps`).

    Args:
        module: in eval mode.
        path: the file to write; weights over 1.5 GB go to `<path>.data`.
        example: an input whose dynamic sizes are no special case: not 1, not equal.
        source: name and axes of the input.
        outputs: names and axes of the outputs, in order.
        opset: ONNX operator set version.

    Raises:
        ExportError: the exporter failed.
        MissingExtraError: onnxscript is not installed.
    """
    require("onnxscript", extra="export", feature="writing an ONNX graph")
    ir = require("onnx_ir", extra="export", feature="writing an ONNX graph")
    axes = {axis: Dim(symbol, min=1) for axis, symbol in source.dynamic_axes.items()}
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[source.name],
                output_names=[tensor.name for tensor in outputs],
                dynamic_shapes=(axes,),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(
                "the model could not be traced to ONNX",
                got=str(error).strip().splitlines()[0],
                todo="run again with --debug for the exporter's report",
            ) from error
    if program is None:
        raise ExportError("the ONNX exporter returned nothing")
    graph = program.model.graph
    # The exporter knows the symbols of inputs only.
    for values, tensors in ((graph.inputs, [source]), (graph.outputs, outputs)):
        for value, tensor in zip(values, tensors, strict=True):
            value.shape = ir.Shape(tensor.shape)
    name_taps(graph, boundaries(module))
    program.model.producer_name = "autosam-deploy"
    # Stack traces of the machine that exported do not belong in a file that travels.
    program.model.metadata_props.clear()
    for part in (graph, *program.model.functions.values()):
        for node in part:
            node.metadata_props.clear()
            node.doc_string = None
    program.save(path, external_data=_weight_bytes(module) > EXTERNAL_DATA_BYTES)


def _weight_bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


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
