"""What all kernels share: is Triton there, which device, is it the interpreter, which architecture.

Triton decides when it is first imported whether kernels are compiled or run in its interpreter
(NumPy on CPU tensors, for tests): `TRITON_INTERPRET=1` set later is half in force, and kernels that
call Triton's own library then fail. So what counts here is what Triton's library was made as.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import torch
from torch import Tensor

from autosam_deploy.errors import BackendError, DeviceUnavailableError
from autosam_deploy.extras import require

#: Capabilities (10 x major + minor) below this have no bf16 and no asynchronous copies.
LOWEST_CAPABILITY = 80


def require_triton(feature: str) -> ModuleType:
    """Import Triton.

    Args:
        feature: what the caller was doing, as a noun phrase ("attention with kernels").

    Raises:
        MissingExtraError: it is not installed.
    """
    return require("triton", extra="kernels", feature=feature)


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors.

    Raises:
        MissingExtraError: Triton is not installed.
    """
    triton = require_triton("a kernel")
    return not isinstance(triton.language.sum, triton.JITFunction)


def check_device(*tensors: Tensor) -> torch.device:
    """Return the one device of all tensors, after checking that a kernel can run there.

    Raises:
        BackendError: they lie on several devices, or on the GPU while Triton interprets.
        DeviceUnavailableError: they lie on the CPU (or elsewhere) and Triton compiles, or the GPU
            is too old.
        MissingExtraError: Triton is not installed.
    """
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) != 1:
        raise BackendError(
            "a kernel's tensors lie apart", got=", ".join(devices) or "none", expected="one device"
        )
    device = tensors[0].device
    if interpreted():
        if device.type != "cpu":
            raise BackendError(
                "Triton's interpreter works on CPU tensors",
                got=str(device),
                todo="unset TRITON_INTERPRET before Triton is imported, or move the tensors",
            )
        return device
    if device.type != "cuda":
        raise DeviceUnavailableError(
            "kernels run on an NVIDIA GPU",
            got=f"tensors on '{device}'",
            expected="tensors on 'cuda'",
            todo="for tests set TRITON_INTERPRET=1 before Triton is imported",
        )
    if (found := capability(device)) < LOWEST_CAPABILITY:
        raise DeviceUnavailableError(
            "the GPU is too old for the kernels",
            got=f"compute capability {found / 10:.1f}",
            expected=f"{LOWEST_CAPABILITY / 10:.1f} or newer",
        )
    return device


def capability(device: torch.device) -> int:
    """Return a device's compute capability as 10 x major + minor (80, 89, 90, 120).

    In the interpreter, and for the CPU, it is 0.
    """
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which Triton launches on `device`: it takes the current one otherwise."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def float32_ratio(source: int, target: int) -> float:
    """Divide two sizes in float32, as torch's interpolate does for the scale of a resize.

    A double that is rounded when a kernel takes it may be another number.
    """
    return (torch.tensor(source, dtype=torch.float32) / target).item()
