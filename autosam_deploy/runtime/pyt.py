"""Backend `torch`: the reference segmenter itself behind the same interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.errors import (
    AutosamError,
    BackendError,
    BackendUnavailableError,
    DeviceUnavailableError,
    MissingExtraError,
    OutOfMemoryError,
)
from autosam_deploy.extras import require
from autosam_deploy.runtime.backend import Backend, BackendInfo, Outputs, Request, parse_device
from autosam_deploy.runtime.ort import usable_cores

if TYPE_CHECKING:
    from autosam_deploy.models.segmenter import Segmenter


class TorchBackend(Backend):
    """Plain eager PyTorch in float32, from the bundle's own weights."""

    name = "torch"

    def _open(self, request: Request) -> BackendInfo:
        try:
            torch = require("torch", extra="export", feature="backend 'torch'")
            require("segment_anything", extra="export", feature="backend 'torch'")
        except MissingExtraError as error:
            raise BackendUnavailableError(str(error)) from error
        if request.precision not in ("auto", "fp32"):
            raise BackendError(
                "backend 'torch' is the float32 reference", got=request.precision, expected="fp32"
            )
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
                got=f"{count} usable CUDA devices",
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
            with torch.device("meta"):
                segmenter = Segmenter(self.model)
            segmenter.load_state_dict(
                load_file(self.bundle.file(weights.file)), strict=True, assign=True
            )
        except (SafetensorError, RuntimeError) as error:
            raise BackendError("the bundle's weights do not fit", got=str(error)[:300]) from error
        return segmenter.to(device).eval().requires_grad_(False)

    def _run(self, slices: NDArray[np.float32], names: tuple[str, ...]) -> Outputs:
        import torch

        try:
            with torch.inference_mode():
                logits = self.segmenter(torch.from_numpy(slices).to(self.device))
                labels = logits.argmax(dim=1).to(torch.uint8)
        except AutosamError:
            raise
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemoryError(
                f"a batch of {slices.shape[0]} slices does not fit into memory",
                got=str(error)[:200],
                todo="use a smaller --batch",
            ) from error
        found = {"logits": logits.float(), "labels": labels}
        return {name: found[name].cpu().numpy() for name in names}

    def _close(self) -> None:
        del self.segmenter
