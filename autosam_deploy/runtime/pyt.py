"""Backend `torch`: PyTorch, from the bundle's own weights and without any graph.

In float32 it is the reference segmenter itself. In half precision, on NVIDIA GPUs, it is the fused
segmenter with this project's kernels (`fused/gpu`), which is how PyTorch runs these models fastest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.cores import usable_cores
from autosam_deploy.errors import (
    BackendError,
    BackendInputError,
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
from autosam_deploy.runtime.options import in_words

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from autosam_deploy.bundle.manifest import Precision
    from autosam_deploy.models.segmenter import Segmenter
    from autosam_deploy.runtime.pyt_pipeline import Pipeline

    _Module = TypeVar("_Module", bound=torch.nn.Module)


@dataclass(frozen=True)
class PytOptions:
    """What the backend can do beyond a `Request`, in half precision.

    kernels: this project's Triton kernels, or PyTorch's own attention on widened heads and its own
    operations otherwise. graphs: capture every size as a CUDA graph. part: slices computed at a
    time, while the next are copied.
    """

    kernels: Literal["all", "none"] = field(
        default="all", metadata=in_words("Triton kernels; none: PyTorch's own operations")
    )
    graphs: bool = field(
        default=True, metadata=in_words("capture every size as a CUDA graph and replay it")
    )
    part: int = field(
        default=8, metadata=in_words("slices computed at a time, while the next are copied")
    )


class TorchBackend(Backend):
    """The reference in float32 on any device; fused and in half precision on NVIDIA GPUs.

    On the CPU `threads` sets torch's number for the whole process: it has no other.
    """

    name = "torch"
    options_class = PytOptions
    options: PytOptions

    def _open(self, request: Request) -> BackendInfo:
        try:
            torch = require("torch", extra="export", feature="backend 'torch'")
            for module in ("segment_anything", "safetensors"):
                require(module, extra="export", feature="backend 'torch'")
        except MissingExtraError as error:
            raise BackendUnavailableError(str(error)) from error
        refuse_provider(request)
        if self.options.part < 1:
            raise BackendInputError(
                "option 'part'", got=str(self.options.part), expected="1 or more"
            )
        device, why = self._choose_device(request)
        precision = self._choose_precision(request, device)
        threads = request.threads or usable_cores()
        if device == "cpu":
            torch.set_num_threads(threads)
        self.device = device
        segmenter = self._load()
        versions = {"torch": torch.__version__}
        notes: tuple[str, ...] = ()
        provider = "eager"
        if precision == "fp32":
            self.segmenter = _moved(segmenter, device)
        else:
            self.pipeline, used = self._pipeline(segmenter, precision)
            provider = "kernels" if used else "sdpa"
            notes = _half_notes(precision, self.options, used)
            if provider == "kernels":
                import triton

                versions["triton"] = triton.__version__
        weights = self.bundle.find("weights", "fp32")
        return BackendInfo(
            backend=self.name,
            device=device,
            provider=provider,
            precision=precision,
            artefact=weights.file.path if weights else "",
            threads=threads,
            reason=why,
            versions=versions,
            notes=notes,
        )

    def _choose_precision(self, request: Request, device: str) -> Precision:
        """Return what is asked for; `auto` is fp16 on GPUs where the bundle is typed for it."""
        if request.precision == "auto":
            typed = self.bundle.find("onnx", "fp16") is not None
            return "fp16" if typed and device != "cpu" else "fp32"
        if request.precision != "fp32" and device == "cpu":
            raise BackendError(
                "backend 'torch' has no half precision on CPUs",
                got=request.precision,
                expected="fp32",
                todo="use --backend openvino --precision bf16, or a CUDA device",
            )
        return request.precision

    def _pipeline(self, segmenter: Segmenter, precision: str) -> tuple[Pipeline, tuple[str, ...]]:
        """Return what runs the segmenter, and the kernels that it uses."""
        from autosam_deploy.fused.gpu.segmenter import KERNELS
        from autosam_deploy.runtime.pyt_half import half_segmenter
        from autosam_deploy.runtime.pyt_pipeline import CudaDevice, Pipeline

        kernels = KERNELS if self.options.kernels == "all" else ()
        if kernels:
            try:
                require("triton", extra="kernels", feature="backend 'torch' in half precision")
            except MissingExtraError as error:
                raise BackendUnavailableError(
                    f"{error}; or give option kernels=none for PyTorch's own operations"
                ) from error
        half = half_segmenter(self.bundle, segmenter, precision=precision, kernels=kernels)
        pipeline = Pipeline(
            CudaDevice(self.device),
            _moved(half, self.device).outputs,
            part=self.options.part,
            graphs=self.options.graphs,
        )
        return pipeline, half.kernels

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

    def _load(self) -> Segmenter:
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
        return segmenter.eval().requires_grad_(False)

    def _run(self, slices: NDArray[np.float32], names: tuple[str, ...]) -> Outputs:
        import torch

        try:
            # cuDNN's default for convolutions is TF32, which is no float32 reference.
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                if self.info.precision != "fp32":
                    return self.pipeline.run(slices, names)
                return self._reference(slices, names)
        except (RuntimeError, MemoryError) as error:
            if full := memory_error(slices, error):
                raise full from error
            raise BackendError("torch failed", got=str(error)[:300]) from error

    def _reference(self, slices: NDArray[np.float32], names: tuple[str, ...]) -> Outputs:
        import torch

        # torch takes writable memory alone, and a caller's volume may be read-only.
        batch = torch.from_numpy(slices if slices.flags.writeable else slices.copy())
        logits: Tensor = self.segmenter(batch.to(self.device))
        found = {"logits": logits.float(), "labels": logits.argmax(dim=1).to(torch.uint8)}
        return {name: found[name].cpu().numpy() for name in names}

    def _close(self) -> None:
        if self.info.precision == "fp32":
            del self.segmenter
        else:
            del self.pipeline


def _moved(module: _Module, device: str) -> _Module:
    try:
        return module.to(device)
    except RuntimeError as error:
        raise BackendError(f"the weights do not fit on {device}", got=str(error)) from error


def _half_notes(precision: str, options: PytOptions, used: tuple[str, ...]) -> tuple[str, ...]:
    """Say what a report must not leave out."""
    notes = []
    if options.kernels == "none":
        notes.append("without Triton kernels: attention on widened heads in PyTorch, as asked")
    elif used == ("labels",):
        notes.append("of the Triton kernels this encoder can use one alone: labels")
    if precision == "bf16":
        notes.append("the bundle's parity record does not cover bf16")
    return tuple(notes)
