"""A GPU and the CUDA runtime, by hand and in numpy, as far as the backend uses them.

Nothing runs before the stream is waited for, so a forgotten wait gives wrong results. Addresses are
looked up in what is allocated, so a freed or small buffer is a failed test; what is still there at
the end is a leak. Misuse is collected in `Gpu.misuse`: libraries cannot raise.
"""

from __future__ import annotations

import contextlib
import enum
import gc
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

Work = Callable[[], None]


class CudaError(enum.Enum):
    cudaSuccess = 0  # noqa: N815 - CUDA's own names
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorIllegalAddress = 700  # noqa: N815
    cudaErrorStreamCaptureInvalidated = 901  # noqa: N815


OK, FULL = CudaError.cudaSuccess, CudaError.cudaErrorMemoryAllocation


class Gpu:
    """The device. Tests set what it is and read what was done to it."""

    def __init__(self) -> None:
        self.sm = 89
        self.devices = 2
        self.memory = 1 << 30
        self.driver_too_old = False
        #: What the library says of plans, and what its contexts refuse.
        self.verdict = ("VALID", 0)
        self.most_slices = 1 << 20
        self.most_contexts = 1 << 20
        self.refuse_run = ""
        self.refuse_context = False
        #: What its builder was asked for, and what it says instead of building.
        self.builds: list[Any] = []
        self.refuse_build = ""
        self.sync_error = OK
        self.output_shapes: dict[str, tuple[int, ...]] = {}
        self.function: Callable[[np.ndarray], dict[str, np.ndarray]]
        self.during: Work = lambda: None
        self.memory_blocks: dict[int, np.ndarray] = {}
        self.streams: dict[int, list[Work]] = {}
        self.capturing: dict[int, list[Work]] = {}
        self.graphs: set[Any] = set()
        self.objects: weakref.WeakSet[Any] = weakref.WeakSet()
        self.calls: Counter[str] = Counter()
        self.shapes: list[tuple[int, ...]] = []
        self.misuse: list[str] = []
        self.lock = threading.RLock()
        self.current = threading.local()

    def blame(self, text: str) -> None:
        self.misuse.append(text)

    def put(self, stream: int, work: Work) -> None:
        """Queue work, or record it."""
        if stream in self.capturing:
            self.capturing[stream].append(work)
        elif stream in self.streams:
            self.streams[stream].append(work)
        else:
            self.blame(f"work for stream {stream}, which does not exist")

    def bytes_at(self, address: int, count: int) -> np.ndarray:
        """The memory behind an address; blames what is not allocated or too small."""
        with self.lock:
            blocks = list(self.memory_blocks.items())
        for start, block in blocks:
            if start <= address and address + count <= start + block.nbytes:
                return block[address - start : address - start + count]
        self.blame(f"{count} bytes at {address} are not allocated")
        return np.zeros(count, np.uint8)

    def leaks(self) -> list[str]:
        """What was taken and not given back."""
        gc.collect()
        kinds = [type(one).__name__ for one in self.objects]
        return [
            *(f"{block.nbytes} bytes" for block in self.memory_blocks.values()),
            *(f"stream {number}" for number in self.streams),
            *(f"graph {graph}" for graph in self.graphs),
            *kinds,
        ]


def fake_cuda(gpu: Gpu) -> ModuleType:
    """Stands for `cuda.bindings.runtime`."""
    api = ModuleType("cuda.bindings.runtime")

    def export(name: str, *, locked: bool = True) -> Callable[..., Any]:
        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                with gpu.lock if locked else contextlib.nullcontext():
                    gpu.calls[name] += 1
                    return function(*args)

            setattr(api, name, call)
            return function

        return add

    def allocate(count: int, on_device: bool) -> tuple[Any, ...]:
        used = sum(b.nbytes for a, b in gpu.memory_blocks.items() if a in device_blocks)
        if on_device and used + count > gpu.memory:
            return FULL, None
        block = np.full(count, 0xCD, np.uint8)
        address = block.ctypes.data
        gpu.memory_blocks[address] = block
        if on_device:
            device_blocks.add(address)
        return OK, address

    def free(address: int) -> tuple[Any, ...]:
        device_blocks.discard(address)
        if gpu.memory_blocks.pop(address, None) is None:
            gpu.blame(f"free of {address}, which is not allocated")
        return (OK,)

    device_blocks: set[int] = set()
    api.cudaError_t = CudaError  # type: ignore[attr-defined]
    api.cudaStreamNonBlocking = 1  # type: ignore[attr-defined]
    api.cudaMemcpyKind = SimpleNamespace(  # type: ignore[attr-defined]
        cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out"
    )
    api.cudaStreamCaptureMode = SimpleNamespace(  # type: ignore[attr-defined]
        cudaStreamCaptureModeThreadLocal="thread"
    )
    _export_device(gpu, export)
    _export_streams(gpu, export)
    _export_graphs(gpu, export)

    @export("cudaMalloc")
    def malloc(count: int) -> tuple[Any, ...]:
        return allocate(count, True)

    @export("cudaHostAlloc")
    def host_alloc(count: int, flags: int) -> tuple[Any, ...]:
        return allocate(count, False)

    export("cudaFree")(free)
    export("cudaFreeHost")(free)

    @export("cudaMemGetInfo")
    def mem_get_info() -> tuple[Any, ...]:
        return OK, 5 << 20, gpu.memory

    return api


def _export_device(gpu: Gpu, export: Callable[..., Any]) -> None:
    old = CudaError.cudaErrorInsufficientDriver

    @export("cudaGetDevice")
    def get_device() -> tuple[Any, ...]:
        return (old, None) if gpu.driver_too_old else (OK, getattr(gpu.current, "index", 0))

    @export("cudaSetDevice")
    def set_device(index: int) -> tuple[Any, ...]:
        gpu.current.index = index
        return (OK,)

    @export("cudaGetDeviceProperties")
    def get_device_properties(index: int) -> tuple[Any, ...]:
        return OK, SimpleNamespace(
            name=b"Fake RTX\0\0", major=gpu.sm // 10, minor=gpu.sm % 10, totalGlobalMem=gpu.memory
        )

    @export("cudaDriverGetVersion")
    def driver_get_version() -> tuple[Any, ...]:
        return OK, 13020

    @export("getLocalRuntimeVersion")
    def get_local_runtime_version() -> tuple[Any, ...]:
        return OK, 13000

    @export("cudaGetLastError")
    def get_last_error() -> tuple[Any, ...]:
        return (OK,)

    @export("cudaGetErrorName")
    def get_error_name(code: CudaError) -> tuple[Any, ...]:
        return OK, code.name.encode()

    @export("cudaGetErrorString")
    def get_error_string(code: CudaError) -> tuple[Any, ...]:
        return OK, b"as the fake says"


def _export_streams(gpu: Gpu, export: Callable[..., Any]) -> None:
    @export("cudaStreamCreateWithFlags")
    def stream_create_with_flags(flags: int) -> tuple[Any, ...]:
        number = 1000 + gpu.calls["cudaStreamCreateWithFlags"]
        gpu.streams[number] = []
        return OK, number

    @export("cudaStreamDestroy")
    def stream_destroy(stream: int) -> tuple[Any, ...]:
        if gpu.streams.pop(stream, [None]):  # type: ignore[list-item]
            gpu.blame(f"stream {stream} was destroyed with work in it, or twice")
        return (OK,)

    @export("cudaStreamSynchronize", locked=False)
    def stream_synchronize(stream: int) -> tuple[Any, ...]:
        with gpu.lock:
            if stream in gpu.capturing:
                return (CudaError.cudaErrorStreamCaptureInvalidated,)
            if stream not in gpu.streams:
                gpu.blame(f"wait for stream {stream}, which does not exist")
                return (OK,)
            work, gpu.streams[stream] = gpu.streams[stream], []
        if work:
            gpu.during()
        for one in work:
            one()
        return (gpu.sync_error,)

    @export("cudaMemcpyAsync")
    def memcpy_async(to: int, source: int, count: int, kind: str, stream: int) -> tuple[Any, ...]:
        def copy() -> None:
            gpu.bytes_at(to, count)[:] = gpu.bytes_at(source, count)

        gpu.put(stream, copy)
        return (OK,)


def _export_graphs(gpu: Gpu, export: Callable[..., Any]) -> None:
    @export("cudaStreamBeginCapture")
    def stream_begin_capture(stream: int, mode: str) -> tuple[Any, ...]:
        gpu.capturing[stream] = []
        return (OK,)

    @export("cudaStreamEndCapture")
    def stream_end_capture(stream: int) -> tuple[Any, ...]:
        return OK, tuple(gpu.capturing.pop(stream))

    @export("cudaGraphInstantiate")
    def graph_instantiate(graph: tuple[Work, ...], flags: int) -> tuple[Any, ...]:
        made = (gpu.calls["cudaGraphInstantiate"], graph)
        gpu.graphs.add(made)
        return OK, made

    @export("cudaGraphDestroy")
    def graph_destroy(graph: Any) -> tuple[Any, ...]:
        return (OK,)

    @export("cudaGraphLaunch")
    def graph_launch(graph: Any, stream: int) -> tuple[Any, ...]:
        for work in graph[1]:
            gpu.put(stream, work)
        return (OK,)

    @export("cudaGraphExecDestroy")
    def graph_exec_destroy(graph: Any) -> tuple[Any, ...]:
        gpu.graphs.remove(graph)
        return (OK,)
