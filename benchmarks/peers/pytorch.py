"""The reference segmenter in PyTorch, as users run it: eager, autocast, compiled."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosam_deploy.benchmarks.harness.runners import Labels, Loading, Outputs, Runner, Slices
from autosam_deploy.cores import usable_cores
from autosam_deploy.errors import BackendUnavailableError, DeviceUnavailableError

if TYPE_CHECKING:
    from torch import Tensor

    from autosam_deploy.models.segmenter import Segmenter


def segmenter_of(bundle: Path) -> Segmenter:
    """Load the reference segmenter from a bundle's weights.

    Raises:
        BackendUnavailableError: the bundle has none.
    """
    from safetensors.torch import load_file

    from autosam_deploy.bundle.reader import Bundle
    from autosam_deploy.models.segmenter import segmenter_from_state

    opened = Bundle.open(bundle, verify=False)
    weights = opened.find("weights", "fp32")
    if weights is None:
        raise BackendUnavailableError("the bundle has no weights (it was exported with --slim)")
    return segmenter_from_state(opened.manifest.model, load_file(opened.file(weights.file)))


def load_eager(loading: Loading) -> Runner:
    """Load the segmenter in eager PyTorch, float32."""
    segmenter, device = _segmenter(loading)
    return torch_runner(segmenter, loading, device=device, provider="eager", precision="fp32")


def load_tf32(loading: Loading) -> Runner:
    """Load the segmenter in eager PyTorch with TF32 for products and convolutions.

    Raises:
        BackendUnavailableError: not on a GPU, which alone has TF32.
    """
    import torch

    segmenter, device = _segmenter(loading)
    if device == "cpu":
        raise BackendUnavailableError("TF32 is a precision of NVIDIA GPUs")

    def logits(slices: Tensor) -> Tensor:
        torch.backends.cuda.matmul.allow_tf32 = True
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
            return segmenter(slices)  # type: ignore[no-any-return]

    return torch_runner(logits, loading, device=device, provider="eager, TF32", precision="fp32")


def load_autocast(loading: Loading) -> Runner:
    """Load the segmenter under autocast."""
    segmenter, device = _segmenter(loading)
    return _autocast(segmenter, loading, device=device, provider="autocast")


def load_compiled_autocast(loading: Loading) -> Runner:
    """Load the segmenter through torch.compile, under autocast; it compiles in the first call."""
    compiled, device = _compiled(loading)
    return _autocast(compiled, loading, device=device, provider="inductor, autocast")


def _autocast(
    segmenter: Callable[[Tensor], Tensor], loading: Loading, *, device: str, provider: str
) -> Runner:
    import torch

    kind = device.partition(":")[0]
    dtype, name = (torch.bfloat16, "bf16") if kind == "cpu" else (torch.float16, "fp16")

    def logits(slices: Tensor) -> Tensor:
        with torch.autocast(kind, dtype=dtype):
            return segmenter(slices)

    return torch_runner(logits, loading, device=device, provider=provider, precision=name)


def load_compiled(loading: Loading) -> Runner:
    """Load the segmenter through torch.compile; it compiles in the first call."""
    compiled, device = _compiled(loading)
    return torch_runner(compiled, loading, device=device, provider="inductor", precision="fp32")


def _compiled(loading: Loading) -> tuple[Callable[[Tensor], Tensor], str]:
    # A cache of an earlier run would make this one's start look fast.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(loading.folder / "inductor")
    import torch

    segmenter, device = _segmenter(loading)
    return torch.compile(segmenter), device


def _segmenter(loading: Loading) -> tuple[Segmenter, str]:
    import torch

    device = torch_device(loading.device)
    if device == "cpu":
        torch.set_num_threads(loading.threads or usable_cores())
    return segmenter_of(loading.bundle).to(device), device


def torch_device(asked: str) -> str:
    """Return torch's name of the device that is asked for.

    Raises:
        DeviceUnavailableError: CUDA was asked for and is not there.
    """
    import torch

    if asked == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if asked != "cpu" and not torch.cuda.is_available():
        raise DeviceUnavailableError("torch has no CUDA device", got=asked, expected="cpu")
    return asked


def torch_runner(
    logits: Callable[[Tensor], Tensor],
    loading: Loading,
    *,
    device: str,
    provider: str,
    precision: str,
    classify: Callable[[Tensor], Tensor] | None = None,
) -> Runner:
    """Return a runner of something that makes logits (B, K, H, W) of slices in PyTorch.

    On CUDA devices it keeps the device's own time of every call, between two events.

    Args:
        logits: device slices (B, 1, H, W) -> logits.
        loading: what was asked for.
        device: as torch names it.
        provider: for the report.
        precision: for the report.
        classify: device slices -> labels uint8 (B, H, W); None takes the argmax of `logits`.
    """
    import torch

    cuda = device != "cpu"
    events: list[Any] = []
    if cuda:
        events += [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]

    def run(slices: Slices, compute: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.inference_mode():
            batch = torch.from_numpy(slices).to(device)
            if cuda:
                events[0].record()
            found = compute(batch)
            if cuda:
                events[1].record()
        return found

    def labels(slices: Slices) -> Labels:
        if classify is None:
            made = run(slices, logits).argmax(dim=1).to(torch.uint8)
        else:
            made = run(slices, classify)
        found: Labels = made.cpu().numpy()
        return found

    def outputs(slices: Slices) -> Outputs:
        found = run(slices, logits)
        return {
            "labels": found.argmax(dim=1).to(torch.uint8).cpu().numpy(),
            "logits": found.float().cpu().numpy(),
        }

    def device_seconds() -> float | None:
        if not cuda:
            return None
        torch.cuda.synchronize()
        return float(events[0].elapsed_time(events[1])) / 1e3

    info = {
        "backend": loading.backend,
        "device": device,
        "provider": provider,
        "precision": precision,
        "artefact": "weights.safetensors",
        "threads": loading.threads or usable_cores(),
        "reason": "a peer",
        "versions": {"torch": torch.__version__},
        "notes": (),
    }
    return Runner(labels, outputs, info, device_seconds)
