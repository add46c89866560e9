"""Lanes: execution contexts with a stream and memory of their own, and the pool that lends them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.errors import BackendError, OutOfMemoryError
from autosam_deploy.runtime.backend import Outputs
from autosam_deploy.runtime.nvidia.cudart import Block, Cuda
from autosam_deploy.runtime.nvidia.plan import Plan
from autosam_deploy.spec import TensorSpec, slice_sizes

_LOG = logging.getLogger(__name__)
Shape = tuple[int, ...]


@dataclass(frozen=True)
class LaneOptions:
    """How lanes run. stream: a handle of the caller's. graphs: record a CUDA graph for a shape."""

    stream: int | None = None
    graphs: bool = False


class Lane:
    """One execution context. It runs one batch at a time, so it is lent to one thread at a time.

    Its memory grows to the largest batch that it met, and stays. That is true of the context's
    activations as well: left to itself, a context takes what the profile's largest sizes need.
    """

    def __init__(
        self, plan: Plan, cuda: Cuda, options: LaneOptions, create: Callable[[], Any]
    ) -> None:
        """Make the context on the current device.

        Args:
            plan: the engine.
            cuda: its device.
            options: how to run.
            create: makes a context whose activation memory is given by the user.

        Raises:
            OutOfMemoryError: there is no room for one more context.
            BackendError: the library refuses.
        """
        self.plan = plan
        self.cuda = cuda
        self.options = options
        self.shape: Shape | None = None
        self.graph: Any = None
        tensors = (*plan.inputs, *plan.outputs)
        self.device = {tensor.name: Block(cuda) for tensor in tensors}
        self.host = {tensor.name: Block(cuda, pinned=True) for tensor in tensors}
        self.activations = Block(cuda)
        self.context: Any = None
        self.stream = cuda.create_stream() if options.stream is None else options.stream
        try:
            since = plan.logger.mark()
            self.context = create()
            if self.context is None:
                raise plan.failure(f"{plan.title} makes no execution context", since)
        except BaseException:
            self.close()
            raise

    def run(self, slices: NDArray[np.float32], names: tuple[str, ...]) -> Outputs:
        """Run one batch (B, 1, H, W) that the profile holds; call it with the device active.

        Raises:
            OutOfMemoryError: the device cannot hold the batch.
            BackendError: the library or CUDA failed.
        """
        (source,) = self.plan.inputs
        try:
            again = self.shape == slices.shape
            if not again:
                self._resize(slices.shape)
            self.host[source.name].view(source.dtype, slices.shape)[...] = slices
            self.cuda.to_device(
                self.device[source.name].address,
                self.host[source.name].address,
                slices.nbytes,
                self.stream,
            )
            self._enqueue(again=again)
            wanted = [tensor for tensor in self.plan.outputs if tensor.name in names]
            shapes = {tensor.name: tensor.sized(slice_sizes(slices.shape)) for tensor in wanted}
            for tensor in wanted:
                count = _bytes(tensor, shapes[tensor.name])
                self.host[tensor.name].reserve(count)
                self.cuda.to_host(
                    self.host[tensor.name].address,
                    self.device[tensor.name].address,
                    count,
                    self.stream,
                )
            self.cuda.synchronize(self.stream)
            # Copies: the next run writes over this memory.
            return {
                tensor.name: self.host[tensor.name].view(tensor.dtype, shapes[tensor.name]).copy()
                for tensor in wanted
            }
        except BaseException as error:
            # What is still under way reads and writes memory that the next run may move.
            self.cuda.settle(self.stream)
            self.shape = None
            if isinstance(error, OutOfMemoryError):
                # The smaller batch that comes next shall not find the device full of this one.
                self._free()
            raise

    def _resize(self, shape: Shape) -> None:
        """Tell the context the sizes of a batch and give it the memory for them."""
        self.shape = None
        # A recorded graph holds addresses, and the context's own state for one shape.
        self._drop_graph()
        (source,) = self.plan.inputs
        since = self.plan.logger.mark()
        if not self.context.set_input_shape(source.name, shape):
            raise self.plan.failure(f"{self.plan.title} refuses slices of shape {shape}", since)
        if unknown := self.context.infer_shapes():
            raise BackendError("the engine asks for more than slices", got=", ".join(unknown))
        for tensor in (*self.plan.inputs, *self.plan.outputs):
            wanted = tensor.sized(slice_sizes(shape))
            found = tuple(self.context.get_tensor_shape(tensor.name))
            if found != wanted:
                # Anything larger would be written beyond the end of the memory.
                raise BackendError(
                    f"the engine gives '{tensor.name}' another shape than the manifest",
                    got=str(found),
                    expected=str(wanted),
                )
            self.device[tensor.name].reserve(_bytes(tensor, wanted))
            self.context.set_tensor_address(tensor.name, self.device[tensor.name].address)
        self.host[source.name].reserve(_bytes(source, shape))
        self.activations.reserve(int(self.context.update_device_memory_size_for_shapes()))
        self.context.set_device_memory(self.activations.address, self.activations.bytes)
        self.shape = shape

    def _enqueue(self, *, again: bool) -> None:
        """Put the model into the stream, as a graph from the second run of a shape on.

        The first one is not recorded: libraries allocate and load modules then, which a recording
        forbids.
        """
        if not (self.options.graphs and again):
            self._execute()
            return
        if self.graph is None:
            with self.cuda.captured(self.stream) as recorded:
                self._execute()
            (self.graph,) = recorded
        self.cuda.launch(self.graph, self.stream)

    def _execute(self) -> None:
        since = self.plan.logger.mark()
        if not self.context.execute_async_v3(self.stream):
            raise self.plan.failure(f"{self.plan.title} failed to run the model", since)

    def _drop_graph(self) -> None:
        if self.graph is not None:
            self.cuda.destroy_graph(self.graph)
            self.graph = None

    def _free(self) -> None:
        self._drop_graph()
        for block in (*self.device.values(), *self.host.values(), self.activations):
            block.free()

    def close(self) -> None:
        """Give everything back but the caller's stream."""
        self.cuda.settle(self.stream)
        self.context = None
        self._free()
        if self.options.stream is None:
            self.cuda.destroy_stream(self.stream)


def _bytes(tensor: TensorSpec, shape: Shape) -> int:
    return int(np.prod(shape)) * np.dtype(tensor.dtype).itemsize


class LanePool:
    """Lends lanes to threads; makes further ones, up to a limit, when all are lent."""

    def __init__(self, make: Callable[[], Lane], most: int) -> None:
        """Make the first lane, so that what is wrong shows at once.

        Args:
            make: makes a lane.
            most: lanes at the same time, 1 or more.
        """
        self._make = make
        self._most = most
        self._condition = threading.Condition()
        self._free: list[Lane] = [make()]
        self._made = 1
        self._closed = False

    @contextmanager
    def lease(self) -> Iterator[Lane]:
        """Lend a lane to the calling thread; wait for one while all are lent.

        Raises:
            BackendError: the pool was closed meanwhile.
        """
        lane = self._take()
        try:
            yield lane
        finally:
            with self._condition:
                self._free.append(lane)
                self._condition.notify()

    def _take(self) -> Lane:
        with self._condition:
            while not self._closed:
                if self._free:
                    return self._free.pop()
                if self._made < self._most:
                    # Counted before it is there, so that `close` waits for it.
                    self._made += 1
                    break
                self._condition.wait()
            else:
                raise BackendError("the engine is closed", todo="open it again")
        try:
            return self._make()
        except BaseException as error:
            with self._condition:
                self._made -= 1
                if isinstance(error, OutOfMemoryError):
                    # Threads wait for each other then, which is slower and still right.
                    self._most = self._made
                self._condition.notify_all()
            if not isinstance(error, OutOfMemoryError):
                raise
            _LOG.warning("no memory for more than %d contexts: %s", self._most, error)
        return self._take()

    def close(self) -> None:
        """Wait for the lanes that are lent, then give all of them back."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            while len(self._free) < self._made:
                self._condition.wait()
            lanes, self._free, self._made = self._free, [], 0
        for lane in lanes:
            lane.close()
