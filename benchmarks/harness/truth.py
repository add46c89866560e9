"""The truth, computed in a process of its own: plain PyTorch in float32 from the bundle's weights.

    python -m autosam_deploy.benchmarks.harness.truth job.json

The job names a bundle, a precision, files of slices by set, and the sets to be measured. In fp32
the process leaves the segmenter's logits beside every file and says how far those measured are from
float64; in fp16 and bf16 it leaves logits of plain PyTorch in that dtype and says how far these are
from float32.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autosam_deploy.benchmarks.harness.child import open_channel, say
from autosam_deploy.benchmarks.harness.worker import describe
from autosam_deploy.errors import ParityError
from autosam_deploy.parity import reference_of, worse_of

if TYPE_CHECKING:
    from autosam_deploy.models.segmenter import Segmenter
    from autosam_deploy.parity import Array, Reference


def logits_file(file: Path, precision: str) -> Path:
    """Return where the logits of a file of slices lie."""
    return file.with_suffix(f".{precision}.logits.npy")


def compute(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job; returns set -> its reference as JSON values, None where there is none.

    Raises:
        AutosamError: the weights cannot be loaded.
    """
    import torch

    from autosam_deploy.benchmarks.peers.pytorch import segmenter_of

    torch.set_num_threads(job["threads"])
    # TF32, the default of cuDNN's convolutions, is no float32.
    torch.backends.cudnn.allow_tf32 = False
    cuda = job["device"] != "cpu" and torch.cuda.is_available()
    segmenter = segmenter_of(Path(job["bundle"])).to("cuda" if cuda else "cpu")
    references: dict[str, Any] = {}
    for name, files in job["sets"].items():
        paths = [Path(file) for file in files]
        slices = [np.load(path) for path in paths]
        if job["precision"] == "fp32":
            references[name] = _float32(segmenter, paths, slices, measure=name in job["measured"])
        else:
            references[name] = _low(segmenter, paths, slices, job["precision"])
    return {"references": references}


def _float32(
    segmenter: Segmenter, paths: list[Path], slices: list[Array], *, measure: bool
) -> dict[str, Any] | None:
    """Write float32 logits; measure them against float64, big encoders on one slice."""
    import torch

    from autosam_deploy.models.resize import bilinear_as_onnx

    found: list[Array] = []
    with torch.inference_mode():
        for path, batch in zip(paths, slices, strict=True):
            found.append(_logits(segmenter, batch))
            np.save(logits_file(path, "fp32"), found[-1])
        if not measure:
            return None
        count = len(slices)
        if segmenter.spec.encoder.is_big:
            slices, found, count = [slices[0][:1]], [found[0][:1]], 1
        double = copy.deepcopy(segmenter).double()
        exact = [_logits(double, batch.astype(np.float64)) for batch in slices[:count]]
        # ONNX rounds coordinates where PyTorch need not.
        resized = segmenter.with_resize(bilinear_as_onnx)
        other = [_logits(resized, batch) for batch in slices[:count]]
    return worse_of(
        reference_of("float64", found, exact), reference_of("float64", other, exact)
    ).model_dump(mode="json")


def _logits(segmenter: Segmenter, batch: Array) -> Array:
    import torch

    place = next(segmenter.parameters()).device
    found: Array = segmenter(torch.from_numpy(batch).to(place)).cpu().numpy()
    return found


def _low(
    segmenter: Segmenter, paths: list[Path], slices: list[Array], precision: str
) -> dict[str, Any] | None:
    """Write logits of plain low precision; None where they are not finite."""
    import torch

    from autosam_deploy.fused.precision import DTYPES
    from autosam_deploy.fused.rounding import run_rounded

    dtype = DTYPES[precision]
    found, truth = [], []
    for path, batch in zip(paths, slices, strict=True):
        place = next(segmenter.parameters()).device
        rounded = run_rounded(segmenter, torch.from_numpy(batch).to(place), dtype)
        found.append(rounded.cpu().numpy())
        truth.append(np.load(logits_file(path, "fp32")))
        np.save(logits_file(path, precision), found[-1])
    try:
        reference: Reference = reference_of("rounded", found, truth)
    except ParityError:
        return None
    return reference.model_dump(mode="json")


def main() -> None:
    """Do the job that the command line names and answer once."""
    channel = open_channel()
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    try:
        say(channel, compute(job))
    except Exception as error:  # noqa: BLE001 - the parent decides what the lack of a truth means
        say(channel, describe(error, loading=True))


if __name__ == "__main__":
    main()
