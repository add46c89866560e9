"""The fused segmenter in PyTorch as a peer: what fusing gives, and what each kernel adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autosam_deploy.benchmarks.harness.runners import Labels, Loading, Outputs, Runner, Slices
from autosam_deploy.benchmarks.peers.pytorch import segmenter_of, torch_device, torch_runner
from autosam_deploy.cores import usable_cores
from autosam_deploy.errors import BackendUnavailableError, ExportError
from autosam_deploy.volumes.phantom import make_phantom

if TYPE_CHECKING:
    from torch import Tensor

    from autosam_deploy.fused.gpu.segmenter import GpuSegmenter
    from autosam_deploy.fused.segmenter import FusedSegmenter


def load_fused(loading: Loading) -> Runner:
    """Load the fused segmenter with the attention that the peer's name says, without kernels.

    It is typed as export types it: fp16 with float32 islands on GPUs, float32 on CPUs, whose half
    units torch does not use.

    Raises:
        BackendUnavailableError: this version writes no attention of that name.
    """
    import torch

    device = torch_device(loading.device)
    lowering = loading.backend.removeprefix("fused-")
    provider = f"fused {lowering}"
    fused = _fused(loading, lowering, device)
    if device != "cpu":
        return _gpu_runner(_typed(fused, device, ()), loading, device=device, provider=provider)
    torch.set_num_threads(loading.threads or usable_cores())

    def logits(slices: Tensor) -> Tensor:
        return fused.logits(slices)

    return torch_runner(logits, loading, device=device, provider=provider, precision="fp32")


def load_kernels(loading: Loading) -> Runner:
    """Load the fused segmenter in fp16 with the kernels up to the one in the peer's name.

    Raises:
        BackendUnavailableError: not on a GPU, or the name is no kernel's.
    """
    from autosam_deploy.fused.gpu.segmenter import KERNELS

    device = torch_device(loading.device)
    if device == "cpu":
        raise BackendUnavailableError("kernels run on NVIDIA GPUs", got="cpu")
    last = loading.backend.removeprefix("kernels-")
    names = (*KERNELS, "graphs")
    if last not in names:
        raise BackendUnavailableError("unknown kernels", got=last, expected=", ".join(names))
    kernels = KERNELS[: names.index(last) + 1]
    gpu = _typed(_fused(loading, "augmented", device), device, kernels)
    if last not in (*gpu.kernels, "graphs"):
        raise BackendUnavailableError(
            "this encoder cannot use the kernel",
            got=last,
            expected=", ".join(gpu.kernels) or "none",
        )
    if last == "graphs":
        return _pipeline_runner(gpu, loading, device=device)
    return _gpu_runner(gpu, loading, device=device, provider="+".join(kernels))


def _fused(loading: Loading, lowering: str, device: str) -> FusedSegmenter:
    from autosam_deploy.fused.segmenter import fuse

    try:
        return fuse(segmenter_of(loading.bundle), lowering=lowering).to(device)
    except ExportError as error:
        raise BackendUnavailableError(str(error)) from error


def _typed(fused: FusedSegmenter, device: str, kernels: tuple[str, ...]) -> GpuSegmenter:
    """Type a segmenter in fp16 by a phantom slice, as export does by calibration slices."""
    import torch

    from autosam_deploy.fused.gpu.segmenter import GpuSegmenter
    from autosam_deploy.fused.precision import apply_precision, measure_ranges, plan_precision

    phantom, _ = make_phantom(5, shape=(3, 96, 96))
    slices = torch.from_numpy(phantom.array[1:2, None].astype("float32")).to(device)
    plan = plan_precision(fused, measure_ranges(fused, [slices]))
    return GpuSegmenter(apply_precision(fused, plan), kernels=kernels).eval()


def _gpu_runner(gpu: GpuSegmenter, loading: Loading, *, device: str, provider: str) -> Runner:
    return torch_runner(
        gpu.logits, loading, device=device, provider=provider, precision="fp16", classify=gpu
    )


def _pipeline_runner(gpu: GpuSegmenter, loading: Loading, *, device: str) -> Runner:
    """Return a runner of what backend `torch` does with a typed bundle."""
    import torch

    from autosam_deploy.runtime.pyt import PytOptions
    from autosam_deploy.runtime.pyt_pipeline import CudaDevice, Pipeline

    options = PytOptions()
    pipeline = Pipeline(CudaDevice(device), gpu.outputs, part=options.part, graphs=options.graphs)

    def labels(slices: Slices) -> Labels:
        with torch.inference_mode():
            found: Labels = pipeline.run(slices, ("labels",))["labels"]
        return found

    def outputs(slices: Slices) -> Outputs:
        with torch.inference_mode():
            return pipeline.run(slices, ("labels", "logits"))

    info = {
        "backend": loading.backend,
        "device": device,
        "provider": "kernels, graphs",
        "precision": "fp16",
        "artefact": "weights.safetensors",
        "threads": loading.threads or usable_cores(),
        "reason": "a peer",
        "versions": {"torch": torch.__version__},
        "notes": (f"parts of {options.part} slices",),
    }
    return Runner(labels, outputs, info)
