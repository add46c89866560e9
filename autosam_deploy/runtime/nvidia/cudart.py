"""CUDA behind a thin wall: the driver asked first, codes as errors, memory that is given back.

Nothing of CUDA or TensorRT may be called before `probe_driver` found a device: TensorRT crashes the
process on machines without a driver instead of returning an error.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.errors import (
    BackendError,
    BackendUnavailableError,
    DeviceUnavailableError,
    OutOfMemoryError,
)

_LOG = logging.getLogger(__name__)
_DRIVERS = ("libcuda.so.1", "nvcuda.dll")
#: CUDA_ERROR_NO_DEVICE of the driver's interface.
_NO_DEVICE = 100


@dataclass(frozen=True)
class Driver:
    """How many devices the NVIDIA driver shows to this process, and why none if so."""

    devices: int
    problem: str = ""


@dataclass(frozen=True)
class Device:
    """A device. sm: compute capability, 89 is sm89. memory: bytes in all."""

    index: int
    name: str
    sm: int
    memory: int

    def __str__(self) -> str:
        """Return one phrase for messages."""
        return f"cuda:{self.index} is {self.name}, sm{self.sm}, {self.memory / 2**30:.1f} GiB"


def probe_driver() -> Driver:
    """Ask the driver's own library, which alone is safe to call when there may be none."""
    for name in _DRIVERS:
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        code = driver.cuInit(0)
        count = ctypes.c_int(0)
        if code == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value:
            return Driver(count.value)
        if code not in (0, _NO_DEVICE):
            return Driver(0, f"the NVIDIA driver does not start (error {code})")
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        shown = "" if hidden is None else f"; CUDA_VISIBLE_DEVICES is '{hidden}'"
        return Driver(0, f"the NVIDIA driver shows no device{shown}")
    return Driver(0, "no NVIDIA driver")


def open_device(index: int) -> Cuda:
    """Return CUDA on one device.

    Raises:
        DeviceUnavailableError: no driver, no such device, or a driver that is too old.
        BackendUnavailableError: the package cuda-bindings is missing.
    """
    driver = probe_driver()
    if index >= driver.devices:
        there = ", ".join(f"cuda:{n}" for n in range(driver.devices))
        raise DeviceUnavailableError(
            f"device 'cuda:{index}' is not there",
            got=f"{driver.devices} usable CUDA devices ({driver.problem or there})",
            todo="check nvidia-smi, or use another backend",
        )
    api = _bindings()
    try:
        return Cuda(api, index)
    except BackendError as error:
        if isinstance(error, OutOfMemoryError):
            raise
        raise DeviceUnavailableError(
            f"device 'cuda:{index}' cannot be used",
            got=str(error),
            expected=f"a driver for CUDA {_dotted(api.getLocalRuntimeVersion()[1])}",
            todo="update the driver, or install the cuda-bindings of the driver's own CUDA",
        ) from error


def _bindings() -> Any:
    try:
        return import_module("cuda.bindings.runtime")
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendUnavailableError(
            "CUDA needs the package 'cuda-bindings'",
            got=f"{type(error).__name__}: {str(error)[:300]}",
            todo="run: pip install 'autosam-deploy[tensorrt-rtx]' (or [tensorrt])",
        ) from error


def _dotted(version: int) -> str:
    """13020 -> "13.2", as CUDA counts."""
    return f"{version // 1000}.{version % 1000 // 10}"


class Cuda:
    """The calls of CUDA's runtime that are used here, on one device.

    Safe to share between threads; each wraps its work in `active`.
    """

    def __init__(self, api: Any, index: int) -> None:
        """Look at the device.

        Args:
            api: the module `cuda.bindings.runtime`.
            index: CUDA device number.

        Raises:
            BackendError: CUDA cannot use it.
        """
        self.api = api
        self.index = index
        with self.active():
            properties = self._call("cudaGetDeviceProperties", index)
            self.device = Device(
                index=index,
                name=bytes(properties.name).split(b"\0")[0].decode("utf-8", "replace"),
                sm=10 * properties.major + properties.minor,
                memory=int(properties.totalGlobalMem),
            )

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the device the calling thread's current one, and put back what was before."""
        before = self._call("cudaGetDevice")
        self._call("cudaSetDevice", self.index)
        try:
            yield
        finally:
            self._quietly("cudaSetDevice", before)

    def versions(self) -> dict[str, str]:
        """Return the versions of CUDA in the driver and in the bindings."""
        return {
            "cuda driver": _dotted(self._call("cudaDriverGetVersion")),
            "cuda runtime": _dotted(self._call("getLocalRuntimeVersion")),
        }

    def allocate(self, count: int) -> int:
        """Return the address of `count` bytes on the device.

        Raises:
            OutOfMemoryError: they are not there.
        """
        return int(self._call("cudaMalloc", count, what=f"allocating {count} bytes"))

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._quietly("cudaFree", address)

    def allocate_pinned(self, count: int) -> int:
        """Return the address of `count` bytes of page-locked host memory.

        Raises:
            OutOfMemoryError: the host has none left to lock.
        """
        return int(self._call("cudaHostAlloc", count, 0, what=f"page-locking {count} bytes"))

    def free_pinned(self, address: int) -> None:
        """Give page-locked memory back."""
        self._quietly("cudaFreeHost", address)

    def create_stream(self) -> int:
        """Return a stream that does not wait for the legacy default stream."""
        return int(self._call("cudaStreamCreateWithFlags", int(self.api.cudaStreamNonBlocking)))

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._quietly("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until the stream's work is done, and raise what went wrong in it."""
        self._call("cudaStreamSynchronize", stream, what="running the model")

    def settle(self, stream: int) -> None:
        """Wait as `synchronize` does, when something went wrong already."""
        self._quietly("cudaStreamSynchronize", stream)

    def to_device(self, target: int, source: int, count: int, stream: int) -> None:
        """Copy `count` bytes from page-locked memory, in the order of the stream."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source, count, kind, stream)

    def to_host(self, target: int, source: int, count: int, stream: int) -> None:
        """Copy `count` bytes into page-locked memory, in the order of the stream."""
        kind = self.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target, source, count, kind, stream)

    @contextmanager
    def captured(self, stream: int) -> Iterator[list[Any]]:
        """Record what the block puts into the stream; the list then holds the graph to launch.

        An error inside the block ends the recording and is passed on.
        """
        # Other threads go on allocating and launching meanwhile.
        mode = self.api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        found: list[Any] = []
        try:
            yield found
        except BaseException:
            self._quietly("cudaStreamEndCapture", stream)
            raise
        graph = self._call("cudaStreamEndCapture", stream, what="recording a CUDA graph")
        try:
            found.append(self._call("cudaGraphInstantiate", graph, 0))
        finally:
            self._quietly("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: int) -> None:
        """Put a recorded graph into the stream."""
        self._call("cudaGraphLaunch", graph, stream, what="launching a CUDA graph")

    def destroy_graph(self, graph: Any) -> None:
        """Give a recorded graph back."""
        self._quietly("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *args: Any, what: str = "") -> Any:
        """Call and return the value, or raise."""
        code, *values = getattr(self.api, name)(*args)
        if code == self.api.cudaError_t.cudaSuccess:
            return values[0] if values else None
        # Errors that did no harm stay noted until they are read, and fail later calls of others.
        self.api.cudaGetLastError()
        text = f"{self._words(code)} while {what or f'calling {name}'}"
        if code == self.api.cudaError_t.cudaErrorMemoryAllocation:
            raise OutOfMemoryError(
                f"cuda:{self.index} has no memory left", got=f"{text}{self._left()}"
            )
        raise BackendError(f"CUDA failed on cuda:{self.index}", got=text)

    def _quietly(self, name: str, *args: Any) -> None:
        """Call for tidying up: what fails there has no better answer than to go on tidying up."""
        code, *_ = getattr(self.api, name)(*args)
        if code != self.api.cudaError_t.cudaSuccess:
            self.api.cudaGetLastError()
            _LOG.debug("%s: %s", name, self._words(code))

    def _words(self, code: Any) -> str:
        parts = (self.api.cudaGetErrorName(code)[1], self.api.cudaGetErrorString(code)[1])
        return ": ".join(bytes(part).decode("utf-8", "replace") for part in parts)

    def _left(self) -> str:
        code, *values = self.api.cudaMemGetInfo()
        if code != self.api.cudaError_t.cudaSuccess:
            return ""
        return f"; {values[0] >> 20} of {values[1] >> 20} MiB are free"


class Block:
    """Memory that only grows, on the device or page-locked on the host."""

    def __init__(self, cuda: Cuda, *, pinned: bool = False) -> None:
        """Hold nothing yet."""
        self._cuda = cuda
        self._pinned = pinned
        self.address = 0
        self.bytes = 0

    def reserve(self, count: int) -> bool:
        """Make room for `count` bytes; what was inside is lost if the memory moves.

        Returns:
            Whether it moved.

        Raises:
            OutOfMemoryError: there is no room; the block then holds nothing.
        """
        if count <= self.bytes:
            return False
        # Given back first: both at once is what a nearly full device cannot hold.
        self.free()
        allocate = self._cuda.allocate_pinned if self._pinned else self._cuda.allocate
        self.address = allocate(count)
        self.bytes = count
        return True

    def view(self, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return page-locked memory as an array of `dtype` and `shape`; it does not own it."""
        kind = np.dtype(dtype)
        count = kind.itemsize * int(np.prod(shape))
        # numpy's annotations do not know ctypes arrays as buffers.
        memory: Any = (ctypes.c_char * count).from_address(self.address)
        array: NDArray[Any] = np.frombuffer(memory, kind).reshape(shape)
        return array

    def free(self) -> None:
        """Give the memory back."""
        if self.address:
            (self._cuda.free_pinned if self._pinned else self._cuda.free)(self.address)
        self.address = self.bytes = 0
