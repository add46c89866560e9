"""The fused segmenter in PyTorch as a peer: what fusing gives without a runtime around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autosam_deploy.benchmarks.harness.runners import Loading, Runner
from autosam_deploy.benchmarks.peers import segmenter_of, torch_device, torch_runner
from autosam_deploy.cores import usable_cores
from autosam_deploy.errors import BackendUnavailableError, ExportError
from autosam_deploy.volumes.phantom import make_phantom

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "fused-"


def load_fused(loading: Loading) -> Runner:
    """Load the fused segmenter with the attention that the peer's name says.

    It is typed as export types it: fp16 with float32 islands on GPUs, float32 on CPUs, whose half
    units torch does not use.

    Raises:
        BackendUnavailableError: this version writes no attention of that name.
    """
    import torch

    from autosam_deploy.fused.precision import apply_precision, measure_ranges, plan_precision
    from autosam_deploy.fused.segmenter import fuse

    device = torch_device(loading.device)
    lowering = loading.backend.removeprefix(_PREFIX)
    try:
        fused = fuse(segmenter_of(loading.bundle), lowering=lowering).to(device)
    except ExportError as error:
        raise BackendUnavailableError(str(error)) from error
    precision = "fp32"
    if device == "cpu":
        torch.set_num_threads(loading.threads or usable_cores())
    else:
        phantom, _ = make_phantom(5, shape=(3, 96, 96))
        slices = torch.from_numpy(phantom.array[1:2, None].astype("float32")).to(device)
        fused = apply_precision(fused, plan_precision(fused, measure_ranges(fused, [slices])))
        precision = "fp16"

    def logits(slices: Tensor) -> Tensor:
        return fused.logits(slices)

    return torch_runner(
        logits, loading, device=device, provider=f"fused {lowering}", precision=precision
    )
