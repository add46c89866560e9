"""The peers of a comparison: other ways to run the same segmenter on raw slices.

Every loader is called in a process of its own and returns a `Runner`. Peers say what a bundle is
worth: they are measured in the same run and are not judged.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosam_deploy.benchmarks.harness.runners import Labels, Loading, Outputs, Runner, Slices
from autosam_deploy.benchmarks.machine import gpu_query
from autosam_deploy.cores import usable_cores
from autosam_deploy.errors import BackendUnavailableError, DeviceUnavailableError

if TYPE_CHECKING:
    from torch import Tensor

    from autosam_deploy.models.segmenter import Segmenter


@dataclass(frozen=True)
class Peer:
    """A row of `PEERS`: what it is, for reports, and the function here that loads it.

    same_as: backend that runs the very same; where it is a row already it is the peer too.
    """

    what: str
    loader: str
    needs_plain: bool = False
    same_as: str | None = None


_HERE = "autosam_deploy.benchmarks.peers"
PEERS: dict[str, Peer] = {
    "eager": Peer(
        "the segmenter in eager PyTorch, float32, as upstream",
        f"{_HERE}:load_eager",
        same_as="torch",
    ),
    "autocast": Peer(
        "the same under autocast (bf16 on CPUs, fp16 on GPUs)", f"{_HERE}:load_autocast"
    ),
    "compile": Peer("the same through torch.compile, float32", f"{_HERE}:load_compiled"),
    "onnx-plain": Peer(
        "torch.onnx.export of the segmenter, ONNX Runtime with its defaults",
        f"{_HERE}:load_plain",
        needs_plain=True,
    ),
}


#: Our own segmenter without any runtime around it: fused, in PyTorch, in the GPU's precision, once
#: for every way to write its attention.
FUSED: dict[str, Peer] = {
    f"fused-{lowering}": Peer(
        f"the fused segmenter in PyTorch, fp16 on GPUs, attention written as '{lowering}'",
        "autosam_deploy.benchmarks.fused_peers:load_fused",
    )
    for lowering in ("explicit", "masked", "augmented")
}
ALL_PEERS = {**PEERS, **FUSED}


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


def load_autocast(loading: Loading) -> Runner:
    """Load the segmenter under autocast."""
    import torch

    segmenter, device = _segmenter(loading)
    kind = device.partition(":")[0]
    dtype, name = (torch.bfloat16, "bf16") if kind == "cpu" else (torch.float16, "fp16")

    def logits(slices: Tensor) -> Tensor:
        with torch.autocast(kind, dtype=dtype):
            return segmenter(slices)  # type: ignore[no-any-return]

    return torch_runner(logits, loading, device=device, provider="autocast", precision=name)


def load_compiled(loading: Loading) -> Runner:
    """Load the segmenter through torch.compile; it compiles in the first call."""
    # A cache of an earlier run would make this one's start look fast.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(loading.folder / "inductor")
    import torch

    segmenter, device = _segmenter(loading)
    compiled = torch.compile(segmenter)
    return torch_runner(compiled, loading, device=device, provider="inductor", precision="fp32")


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
) -> Runner:
    """Return a runner of something that makes logits (B, K, H, W) of slices in PyTorch.

    On CUDA devices it keeps the device's own time of every call, between two events.
    """
    import torch

    cuda = device != "cpu"
    events: list[Any] = []
    if cuda:
        events += [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]

    def run(slices: Slices) -> Tensor:
        with torch.inference_mode():
            batch = torch.from_numpy(slices).to(device)
            if cuda:
                events[0].record()
            found = logits(batch)
            if cuda:
                events[1].record()
        return found

    def labels(slices: Slices) -> Labels:
        found: Labels = run(slices).argmax(dim=1).to(torch.uint8).cpu().numpy()
        return found

    def outputs(slices: Slices) -> Outputs:
        found = run(slices)
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


def load_plain(loading: Loading) -> Runner:
    """Load a plain export of the segmenter on ONNX Runtime with its default options."""
    import onnxruntime

    if loading.plain is None:
        raise BackendUnavailableError("there is no plain export to load")
    threads = loading.threads or usable_cores()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    device = loading.device
    if device == "auto":
        # Asking torch would add half a gigabyte to the memory of a peer that needs none of it.
        device = "cuda:0" if gpu_query("name") else "cpu"
    providers: list[Any] = ["CPUExecutionProvider"]
    if device != "cpu":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise DeviceUnavailableError("this ONNX Runtime has no CUDA provider", got=device)
        index = int(device.partition(":")[2] or 0)
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
    session = onnxruntime.InferenceSession(str(loading.plain), options, providers=providers)

    def labels(slices: Slices) -> Labels:
        found: Labels = session.run(None, {"slices": slices})[0]
        return found

    info = {
        "backend": loading.backend,
        "device": device,
        "provider": session.get_providers()[0],
        "precision": "fp32",
        "artefact": loading.plain.name,
        "threads": threads,
        "reason": "a peer",
        "versions": {"onnxruntime": onnxruntime.__version__},
        "notes": (),
    }
    return Runner(labels, lambda slices: {"labels": labels(slices)}, info)


def export_plain(segmenter: Segmenter, path: Path) -> None:
    """Export the reference segmenter as a user without this project would.

    Args:
        segmenter: the truth, float32.
        path: the .onnx file to write; dynamic B, H, W; one output, uint8 labels.
    """
    import torch
    from torch.export import Dim

    class LabelsOnly(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.segmenter = segmenter

        def forward(self, slices: Tensor) -> Tensor:
            return self.segmenter.labels(slices)

    side = segmenter.spec.encoder.image_size[0]
    program = torch.onnx.export(
        LabelsOnly().eval(),
        (torch.rand(2, 1, side - 3, side - 5),),
        dynamo=True,
        input_names=["slices"],
        output_names=["labels"],
        dynamic_shapes=({0: Dim("B", min=1), 2: Dim("H", min=1), 3: Dim("W", min=1)},),
        verbose=False,
    )
    if program is not None:
        program.save(path)


if __name__ == "__main__":
    # Exporting takes more memory than running, so it is done apart from both.
    export_plain(segmenter_of(Path(sys.argv[1])), Path(sys.argv[2]))
