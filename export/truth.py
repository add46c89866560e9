"""The truth that artefacts are judged by, and how far plain PyTorch itself is from it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from autosam_deploy.export.samples import Samples
from autosam_deploy.fused.precision import DTYPES, PrecisionPlan
from autosam_deploy.fused.rounding import run_rounded, run_typed
from autosam_deploy.fused.segmenter import FusedSegmenter
from autosam_deploy.models.resize import bilinear_as_onnx
from autosam_deploy.models.segmenter import Segmenter
from autosam_deploy.parity import Reference, reference_of, worse_of

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Truth:
    """Samples and the segmenter's float32 logits of every batch."""

    samples: Samples
    logits: tuple[Logits, ...]

    @property
    def labels(self) -> tuple[NDArray[np.uint8], ...]:
        """Labels (B, H, W) of every batch."""
        return tuple(logits.argmax(axis=1).astype(np.uint8) for logits in self.logits)


def compute_truth(segmenter: Segmenter, samples: Samples) -> Truth:
    """Run the segmenter in float32."""
    with torch.no_grad():
        return Truth(
            samples, tuple(segmenter(torch.from_numpy(b)).numpy() for b in samples.batches)
        )


def float32_reference(segmenter: Segmenter, truth: Truth) -> Reference:
    """Measure float32 against float64; the first slice alone for big encoders.

    The worse of two counts: resize coordinates as PyTorch rounds them, and as ONNX does.
    """
    count = 1 if segmenter.spec.encoder.is_big else len(truth.logits)
    batches = [torch.from_numpy(batch) for batch in truth.samples.batches[:count]]
    double = copy.deepcopy(segmenter).double()
    with torch.no_grad():
        exact = [double(batch.double()).numpy() for batch in batches]
        other = [segmenter.with_resize(bilinear_as_onnx)(batch).numpy() for batch in batches]
    return worse_of(
        reference_of("float64", list(truth.logits[:count]), exact),
        reference_of("float64", other, exact),
    )


def low_reference(
    segmenter: Segmenter, fused: FusedSegmenter, plan: PrecisionPlan, truth: Truth
) -> Reference:
    """Measure plain low precision against float32.

    Where plain low precision overflows it has no error to speak of; then the typed PyTorch model
    stands in, and the record says so.
    """
    dtype = DTYPES[plan.precision]
    batches = [torch.from_numpy(batch) for batch in truth.samples.batches]
    plain = [run_rounded(segmenter, batch, dtype).numpy() for batch in batches]
    if all(np.isfinite(logits).all() for logits in plain):
        return reference_of("rounded", plain, list(truth.logits))
    typed = [run_typed(fused, plan, batch).numpy() for batch in batches]
    return reference_of("typed", typed, list(truth.logits))
