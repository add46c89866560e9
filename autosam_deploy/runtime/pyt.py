"""Backend `torch`: the reference segmenter itself behind the same interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.cores import usable_cores
from autosam_deploy.errors import (
    BackendError,
    BackendUnavailableError,
    DeviceUnavailableError,
    MissingExtraError,
)
from autosam_deploy.extras import require
from autosam_deploy.runtime.backend import (
    Backend,
    BackendInfo,
    Outputs,
    Request,
    memory_error,
    parse_device,
    refuse_provider,
)

if TYPE_CHECKING:
    from autosam_deploy.models.segmenter import Segmenter


class TorchBackend(Backend):
    """Plain eager PyTorch in float32, from the bundle's own weights.

    On the CPU `threads` sets torch's number for the whole process: it has no other.
    """

    name = "torch"

    def _open(self, request: Request) -> BackendInfo:
        try:
            torch = require("torch", extra="export", feature="backend 'torch'")
            for module in ("segment_anything", "safetensors"):
                require(module, extra="export", feature="backend 'torch'")
        except MissingExtraError as error:
            raise BackendUnavailableError(str(error)) from error
        if request.precision not in ("auto", "fp32"):
            raise BackendError(
                "backend 'torch' is the float32 reference", got=request.precision, expected="fp32"
            )
        refuse_provider(request)
        device, why = self._choose_device(request)
        threads = request.threads or usable_cores()
        if device == "cpu":
            torch.set_num_threads(threads)
        self.device = device
        self.segmenter = self._load(device)
        weights = self.bundle.find("weights", "fp32")
        return BackendInfo(
            backend=self.name,
            device=device,
            provider="eager",
            precision="fp32",
            artefact=weights.file.path if weights else "",
            threads=threads,
            reason=why,
            versions={"torch": torch.__version__},
        )

    def _choose_device(self, request: Request) -> tuple[str, str]:
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if request.device == "auto":
            return ("cuda:0", "a CUDA device is usable") if count else ("cpu", "no CUDA device")
        kind, index = parse_device(request.device)
        if kind == "cpu":
            return "cpu", "asked for"
        if index >= count:
            raise DeviceUnavailableError(
                f"device 'cuda:{index}' is not there",
                got=f"{count} usable CUDA devices; available: cpu"
                + "".join(f", cuda:{n}" for n in range(count)),
                todo="check nvidia-smi, or ask for --device cpu",
            )
        return f"cuda:{index}", "asked for"

    def _load(self, device: str) -> Segmenter:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from autosam_deploy.models.segmenter import Segmenter

        weights = self.bundle.find("weights", "fp32")
        if weights is None:
            raise BackendError(
                "the bundle has no weights (it was exported with --slim)",
                todo="export again without --slim, or use another backend",
            )
        try:
            state = load_file(self.bundle.file(weights.file))
            if other := sorted({str(t.dtype) for t in state.values()} - {"torch.float32"}):
                raise BackendError(
                    "the bundle's weights are not float32",
                    got=", ".join(other),
                    todo="export again",
                )
            with torch.device("meta"):
                segmenter = Segmenter(self.model)
            segmenter.load_state_dict(state, strict=True, assign=True)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise BackendError("the bundle's weights do not fit", got=str(error)[:300]) from error
        try:
            return segmenter.to(device).eval().requires_grad_(False)
        except RuntimeError as error:
            raise BackendError(f"the weights do not fit on {device}", got=str(error)) from error

    def _run(self, slices: NDArray[np.float32], names: tuple[str, ...]) -> Outputs:
        import torch

        # torch takes writable memory alone, and a caller's volume may be read-only.
        batch = torch.from_numpy(slices if slices.flags.writeable else slices.copy())
        try:
            # cuDNN's default for convolutions is TF32, which is no float32 reference.
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                logits = self.segmenter(batch.to(self.device))
                found = {"logits": logits.float(), "labels": logits.argmax(dim=1).to(torch.uint8)}
                return {name: found[name].cpu().numpy() for name in names}
        except (RuntimeError, MemoryError) as error:
            if full := memory_error(slices, error):
                raise full from error
            raise BackendError("torch failed", got=str(error)[:300]) from error

    def _close(self) -> None:
        del self.segmenter
