"""From a fused segmenter to an ONNX file: names, dynamic axes and opset from the spec."""

from __future__ import annotations

from pathlib import Path

import torch

from autosam_deploy.errors import ExportError
from autosam_deploy.fused.attention import LOWERINGS
from autosam_deploy.fused.segmenter import FusedSegmenter
from autosam_deploy.fused.tracing import write_onnx

#: Gelu is one node from opset 20 on; 23 has Attention and is the newest the exporter writes well.
DEFAULT_OPSET = 20
HIGHEST_OPSET = 23


def check_opset(opset: int, lowering: str) -> None:
    """Refuse opsets in which a lowering cannot be written.

    Raises:
        ExportError: naming the range that works.
    """
    lowest = LOWERINGS[lowering].lowest_opset
    if not lowest <= opset <= HIGHEST_OPSET:
        raise ExportError(
            f"lowering '{lowering}' cannot be written in this opset",
            got=str(opset),
            expected=f"{lowest}..{HIGHEST_OPSET}",
            todo="choose another --opset or --lowering",
        )


def default_opset(lowering: str) -> int:
    """Return the opset used for a lowering unless another is asked for."""
    return max(DEFAULT_OPSET, LOWERINGS[lowering].lowest_opset)


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
    spec = fused.spec
    height, width = spec.encoder.image_size
    write_onnx(
        fused,
        path,
        # Sizes that are no special case: not one, not equal, not the encoder's own.
        example=torch.rand(2, 1, height - 3, width - 5),
        source=spec.input_tensor,
        outputs=spec.output_tensors,
        opset=opset,
    )
