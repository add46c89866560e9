"""Backend `onnxruntime`: the bundle's ONNX graphs on CPU, CUDA or TensorRT providers."""

from __future__ import annotations

import ctypes
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.manifest import Artefact, Precision
from autosam_deploy.errors import (
    BackendError,
    BackendUnavailableError,
    DeviceUnavailableError,
    OutOfMemoryError,
)
from autosam_deploy.runtime.backend import Backend, BackendInfo, Outputs, Request, parse_device

_LOG = logging.getLogger(__name__)

#: Command-line word -> ONNX Runtime's name.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

#: ONNX Runtime has no error code for a full memory; these are the words of its allocators.
_MEMORY_WORDS = ("bad allocation", "failed to allocate", "bad_alloc", "out of memory", "oom")


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailableError(
            "backend 'onnxruntime' is not installed",
            got=str(error),
            todo="run: pip install onnxruntime-gpu (or onnxruntime on macOS)",
        ) from error
    # Slices of patients and telemetry do not go together.
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class OrtBackend(Backend):
    """ONNX Runtime, one session."""

    name = "onnxruntime"

    def _open(self, request: Request) -> BackendInfo:
        ort = _import()
        provider, index, why = self._choose_provider(ort, request)
        threads = request.threads or usable_cores()
        artefact, precision_why = self._choose_artefact(request, on_cpu=provider == "cpu")

        def load() -> Any:
            path = self.bundle.file(artefact.file)
            return _open_session(ort, path, provider=provider, index=index, threads=threads)

        try:
            self.session = load()
        except DeviceUnavailableError as error:
            if request.device != "auto" or request.provider != "auto":
                raise
            # `auto` means the best that works; what did not work is part of the answer.
            provider, why = "cpu", f"the GPU is not usable ({error})"
            _LOG.warning("running on the CPU: %s", why)
            artefact, precision_why = self._choose_artefact(request, on_cpu=True)
            self.session = load()
        _check_signature(self.session, self)
        return BackendInfo(
            backend=self.name,
            device="cpu" if provider == "cpu" else f"cuda:{index}",
            provider=self.session.get_providers()[0],
            precision=artefact.precision,
            artefact=artefact.file.path,
            threads=threads,
            reason=f"{why}; {precision_why}",
            versions={"onnxruntime": ort.__version__},
        )

    def _choose_provider(self, ort: Any, request: Request) -> tuple[str, int, str]:
        """Return provider word, device index and the reason."""
        there = ort.get_available_providers()
        if request.device == "auto" and request.provider == "auto":
            if PROVIDERS["cuda"] not in there:
                return "cpu", 0, "this ONNX Runtime has no CUDA provider"
            if not cuda_devices():
                return "cpu", 0, "no CUDA device"
            return "cuda", 0, "a CUDA device is there"
        if request.device == "auto":
            device, index = ("cpu" if request.provider == "cpu" else "cuda"), 0
        else:
            device, index = parse_device(request.device)
        provider = request.provider if request.provider != "auto" else device
        if (provider == "cpu") != (device == "cpu"):
            raise DeviceUnavailableError(
                "device and provider contradict each other",
                got=f"device {request.device}, provider {provider}",
                expected="cpu with cpu; cuda with cuda or tensorrt",
            )
        if PROVIDERS[provider] not in there:
            raise DeviceUnavailableError(
                f"this ONNX Runtime has no {PROVIDERS[provider]}",
                got=", ".join(there),
                todo="install onnxruntime-gpu, or ask for --device cpu",
            )
        if provider != "cpu" and (count := cuda_devices()) <= index:
            raise DeviceUnavailableError(
                f"device 'cuda:{index}' is not there",
                got=f"{count} usable CUDA devices",
                expected=f"at least {index + 1}, with driver and CUDA libraries",
                todo="check nvidia-smi, or ask for --device cpu",
            )
        return provider, index, "asked for"

    def _choose_artefact(self, request: Request, *, on_cpu: bool) -> tuple[Artefact, str]:
        there = self.bundle.precisions("onnx")
        if request.precision != "auto":
            artefact = self.bundle.find("onnx", request.precision)
            if artefact is None:
                raise BackendError(
                    f"the bundle has no {request.precision} graph",
                    got=f"graphs in {', '.join(there) or 'no precision'}",
                    todo=f"export again with --precision fp32,{request.precision}",
                )
            slow = ", slower than fp32 on a CPU" if on_cpu and request.precision != "fp32" else ""
            return artefact, f"{request.precision} was asked for{slow}"
        # Half graphs on ONNX Runtime's CPU provider run through casts: slower, and more memory.
        order: tuple[Precision, ...]
        order = ("fp32", "bf16", "fp16") if on_cpu else ("fp16", "bf16", "fp32")
        for precision in order:
            artefact = self.bundle.find("onnx", precision)
            if artefact is not None:
                why = "the best of the bundle for a CPU" if on_cpu else "the best for a GPU"
                return artefact, f"{precision} is {why}"
        raise BackendError("the bundle has no ONNX graph", todo="export again")

    def _run(self, slices: NDArray[np.float32], names: tuple[str, ...]) -> Outputs:
        try:
            results = self.session.run(list(names), {"slices": slices})
        except MemoryError as error:
            raise _out_of_memory(slices, error) from error
        except Exception as error:
            # ONNX Runtime's exceptions share no base class of their own.
            if any(word in str(error).lower() for word in _MEMORY_WORDS):
                raise _out_of_memory(slices, error) from error
            raise BackendError("ONNX Runtime failed", got=str(error)) from error
        return dict(zip(names, results, strict=True))

    def _close(self) -> None:
        del self.session


def _out_of_memory(slices: NDArray[np.float32], error: Exception) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"a batch of {slices.shape[0]} slices does not fit into memory",
        got=str(error)[:200],
        todo="use a smaller --batch",
    )


def cuda_devices() -> int:
    """Count CUDA devices by the driver's own library; 0 without a driver.

    ONNX Runtime lists its CUDA provider whether or not a device, a driver or the CUDA libraries
    are there, so it cannot be asked.
    """
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    return 0


def _open_session(ort: Any, path: Path, *, provider: str, index: int, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if provider != "cpu":
        # Without this, nodes or the whole graph may land on the CPU with a log line only.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    providers: list[Any] = [
        (PROVIDERS[provider], {"device_id": str(index)}) if provider != "cpu" else PROVIDERS["cpu"]
    ]
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        # ONNX Runtime's exceptions share no base class of their own.
        kind = BackendError if provider == "cpu" else DeviceUnavailableError
        raise kind(f"ONNX Runtime cannot load '{path.name}'", got=str(error)[:300]) from error
    engaged = session.get_providers()[0]
    if engaged != PROVIDERS[provider]:
        raise DeviceUnavailableError(
            f"ONNX Runtime did not engage {PROVIDERS[provider]}",
            got=engaged,
            todo="install the CUDA and cuDNN libraries it needs, or ask for --device cpu",
        )
    return session


_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(float16)": "float16"}


def _check_signature(session: Any, backend: Backend) -> None:
    """Refuse a graph whose inputs or outputs are not those of the manifest."""
    manifest = backend.bundle.manifest
    for values, tensors in (
        (session.get_inputs(), manifest.inputs),
        (session.get_outputs(), manifest.outputs),
    ):
        found = [(v.name, _TYPES.get(v.type, v.type), tuple(v.shape)) for v in values]
        wanted = [(t.name, t.dtype, t.shape) for t in tensors]
        if found != wanted:
            raise BackendError(
                "the graph contradicts the manifest", got=str(found), expected=str(wanted)
            )
