"""Batches through a CUDA device: captured graphs, pinned memory, copies beside the work.

A batch is cut into parts. While one part is computed the next is copied to the device and the last
one back, each in a stream of its own. Every size (parts of B slices of H x W, and the outputs asked
for) is captured once as a CUDA graph and replayed: SAM's encoder is a few hundred launches, which
the host issues no faster than a small GPU batch computes them.

What is asked of the device is in `Device`, so that the order of copies and runs is tested without
one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Compute = Callable[["Tensor", tuple[str, ...]], dict[str, "Tensor"]]
Results = dict[str, NDArray[Any]]

#: Sizes that stay captured; the one that was used longest ago makes room.
MOST_SIZES = 8
#: Runs before a capture: kernels are compiled and libraries choose their algorithms in them.
WARM_RUNS = 2


class Device(Protocol):
    """What the pipeline needs of a device; `CudaDevice` is PyTorch's."""

    def stream(self) -> Any:
        """Return a new stream."""

    def use(self, stream: Any) -> AbstractContextManager[Any]:
        """Return a context in which work goes to a stream."""

    def record(self, stream: Any) -> Any:
        """Return an event that is reached when a stream has done its work so far."""

    def wait(self, stream: Any, event: Any) -> None:
        """Let later work of a stream wait for an event."""

    def reached(self, event: Any) -> None:
        """Block the host until an event is reached."""

    def on_device(self, like: Tensor) -> Tensor:
        """Return uninitialised device memory of a tensor's shape and dtype."""

    def pinned(self, like: Tensor) -> Tensor:
        """Return uninitialised host memory that the device copies from and to by itself."""

    def capture(self, work: Callable[[], Any], stream: Any) -> Callable[[], None]:
        """Capture work as a graph and return what replays it."""


class CudaDevice:
    """A CUDA device through PyTorch."""

    def __init__(self, name: str) -> None:
        """Take a device, "cuda:0"."""
        import torch

        self.torch, self.device = torch, torch.device(name)
        # All graphs draw from one pool: they never run at the same time.
        self.pool: Any = None

    def stream(self) -> Any:
        """Return a new stream."""
        return self.torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def use(self, stream: Any) -> AbstractContextManager[Any]:
        """Return a context in which work goes to a stream."""
        return self.torch.cuda.stream(stream)

    def record(self, stream: Any) -> Any:
        """Return an event behind a stream's work."""
        return stream.record_event()

    def wait(self, stream: Any, event: Any) -> None:
        """Let a stream wait."""
        stream.wait_event(event)

    def reached(self, event: Any) -> None:
        """Block until an event is reached."""
        event.synchronize()

    def on_device(self, like: Tensor) -> Tensor:
        """Return device memory."""
        return self.torch.empty_like(like, device=self.device)

    def pinned(self, like: Tensor) -> Tensor:
        """Return pinned host memory."""
        return self.torch.empty_like(like, device="cpu", pin_memory=True)

    def capture(self, work: Callable[[], Any], stream: Any) -> Callable[[], None]:
        """Capture work in a stream."""
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph, pool=self.pool, stream=stream):
            work()
        self.pool = graph.pool()
        replay: Callable[[], None] = graph.replay
        return replay


class _Slot:
    """Memory of one part on its way: host and device side, in and out."""

    def __init__(self, device: Device, source: Tensor, outputs: dict[str, Tensor]) -> None:
        self.host_in, self.device_in = device.pinned(source), device.on_device(source)
        self.host_out = {name: device.pinned(tensor) for name, tensor in outputs.items()}
        self.device_out = {name: device.on_device(tensor) for name, tensor in outputs.items()}
        self.done: Any = None
        self.target: tuple[Results, slice] | None = None

    def drain(self, device: Device) -> None:
        """Wait for the part and hand its results over."""
        if self.target is None:
            return
        device.reached(self.done)
        results, where = self.target
        for name, tensor in self.host_out.items():
            results[name][where] = tensor.numpy()
        self.target = None


class _Size:
    """One captured size: the graph's own input and outputs, and two slots that feed it."""

    def __init__(
        self,
        device: Device,
        compute: Compute,
        part: Tensor,
        names: tuple[str, ...],
        *,
        stream: Any,
        graphs: bool,
    ) -> None:
        self.source = device.on_device(part)
        self.results: dict[str, Tensor] = {}

        def work() -> None:
            self.results = compute(self.source, names)

        with device.use(stream):
            self.source.copy_(part)
            for _ in range(WARM_RUNS):
                work()
        device.reached(device.record(stream))
        self.replay = device.capture(work, stream) if graphs else work
        self.slots = [_Slot(device, self.source, self.results) for _ in range(2)]


class Pipeline:
    """Runs batches of slices through a module on a device."""

    def __init__(self, device: Device, compute: Compute, *, part: int, graphs: bool) -> None:
        """Prepare streams; sizes are captured when they come up.

        Args:
            device: where.
            compute: device slices (b, 1, H, W) and output names -> device outputs by name.
            part: slices that are computed at a time.
            graphs: capture and replay; else launch every kernel every time.
        """
        self.device, self.compute, self.part, self.graphs = device, compute, part, graphs
        self.incoming, self.computing, self.outgoing = (device.stream() for _ in range(3))
        self.sizes: OrderedDict[tuple[Any, ...], _Size] = OrderedDict()

    def run(self, slices: NDArray[np.float32], names: tuple[str, ...]) -> Results:
        """Compute the named outputs of slices (B, 1, H, W)."""
        import torch

        results: Results = {}
        used: list[_Slot] = []
        try:
            for number, first in enumerate(range(0, len(slices), self.part)):
                chunk = np.ascontiguousarray(slices[first : first + self.part])
                # Not written to: a caller's memory may be read-only, which torch warns of.
                part = torch.from_numpy(chunk if chunk.flags.writeable else chunk.copy())
                size = self._size(part, names)
                slot = size.slots[number % 2]
                slot.drain(self.device)
                for name, tensor in slot.host_out.items():
                    if name not in results:
                        shape = (len(slices), *tensor.shape[1:])
                        results[name] = np.empty(shape, tensor.numpy().dtype)
                self._start(size, slot, part)
                slot.target = (results, slice(first, first + len(part)))
                used.append(slot)
        finally:
            # Memory of a slot must not be handed out again while the device still writes to it.
            for slot in used:
                slot.drain(self.device)
        return results

    def _start(self, size: _Size, slot: _Slot, part: Tensor) -> None:
        """Put one part on its way: in, through, out; the host does not wait."""
        device = self.device
        slot.host_in.copy_(part)
        with device.use(self.incoming):
            slot.device_in.copy_(slot.host_in, non_blocking=True)
        device.wait(self.computing, device.record(self.incoming))
        with device.use(self.computing):
            # The graph's own memory is fixed, and the next part comes in while it is in use.
            size.source.copy_(slot.device_in)
            size.replay()
            for name, tensor in size.results.items():
                slot.device_out[name].copy_(tensor)
        device.wait(self.outgoing, device.record(self.computing))
        with device.use(self.outgoing):
            for name, tensor in slot.device_out.items():
                slot.host_out[name].copy_(tensor, non_blocking=True)
        slot.done = device.record(self.outgoing)

    def _size(self, part: Tensor, names: tuple[str, ...]) -> _Size:
        key = (tuple(part.shape), names)
        if key not in self.sizes:
            # What is thrown out may still be running.
            self.device.reached(self.device.record(self.computing))
            while len(self.sizes) >= MOST_SIZES:
                self.sizes.popitem(last=False)
            self.sizes[key] = _Size(
                self.device,
                self.compute,
                part,
                names,
                stream=self.computing,
                graphs=self.graphs,
            )
        self.sizes.move_to_end(key)
        return self.sizes[key]
