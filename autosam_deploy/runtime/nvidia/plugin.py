"""ONNX Runtime's TensorRT-RTX provider, which comes as a library of its own."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from autosam_deploy.errors import BackendUnavailableError, DeviceUnavailableError

#: ONNX Runtime's name of the provider, and the module that brings it.
RTX = "NvTensorRTRTXExecutionProvider"
_MODULE = "onnxruntime_ep_nv_tensorrt_rtx"

#: Libraries that were registered; ONNX Runtime takes each once a process and never forgets it.
_REGISTERED: set[str] = set()


def require_plugin() -> None:
    """Check that the plugin's package is there, without loading it.

    Raises:
        BackendUnavailableError: it is not, or ONNX Runtime is too old for plugins.
    """
    if importlib.util.find_spec(_MODULE) is None:
        raise BackendUnavailableError(
            "provider rtx needs the package 'onnxruntime-ep-nv-tensorrt-rtx-cu13'",
            got="none",
            todo="run: pip install 'autosam-deploy[ort-rtx]'",
        )


def rtx_device(ort: Any, index: int) -> Any:
    """Register the provider with ONNX Runtime and return its device.

    Only to be called where a driver is: the provider's library does not load without one.

    Args:
        ort: the `onnxruntime` module.
        index: CUDA device number; the provider lists devices in the same order.

    Raises:
        BackendUnavailableError: the package is missing or ONNX Runtime too old.
        DeviceUnavailableError: the library cannot be loaded, or knows no such device.
    """
    require_plugin()
    if not hasattr(ort, "register_execution_provider_library"):
        raise BackendUnavailableError(
            "this ONNX Runtime takes no provider plugins",
            got=ort.__version__,
            todo="run: pip install --upgrade onnxruntime-gpu",
        )
    try:
        package = import_module(_MODULE)
        path = package.get_library_path()
        if path not in _REGISTERED:
            _preload(Path(path).parent)
            ort.register_execution_provider_library(RTX, path)
            _REGISTERED.add(path)
        devices = [one for one in ort.get_ep_devices() if one.ep_name == RTX]
    except Exception as error:
        # ONNX Runtime's exceptions share no base class of their own.
        raise DeviceUnavailableError(
            f"ONNX Runtime cannot load {RTX}", got=str(error)[:300]
        ) from error
    if index >= len(devices):
        raise DeviceUnavailableError(
            f"{RTX} knows no device 'cuda:{index}'",
            got=f"{len(devices)} devices",
            expected="a GeForce or RTX card of a supported generation",
            todo="use --provider cuda",
        )
    return devices[index]


def _preload(folder: Path) -> None:
    """Load the CUDA runtime that lies beside the plugin, which has no search path of its own."""
    if not sys.platform.startswith("linux"):
        return
    for library in sorted(folder.glob("libcudart.so.*")):
        # If the system has another one of that name, the plugin can take that.
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
