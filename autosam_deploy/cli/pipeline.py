"""Items that pass through three stages in order: one is read, one runs, one is written at a time.

One thread reads, the caller's thread runs, one thread writes. Each holds one item: what was read
ahead waits until the item before has run, and what has run waits until the item before is written.
So at most three items are in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")
_Made = TypeVar("_Made")


class Pipeline(ABC, Generic[_Item, _Read, _Made]):
    """Three stages; a child says what they do.

    An item whose stage raises one of `item_errors` leaves by way of `failed`, and the others go on.
    Any other error ends the pipeline: what is being written is still written, what was read ahead
    is thrown away, and the error is raised when both threads have ended.
    """

    #: What is wrong with one item and says nothing about the next.
    item_errors: tuple[type[Exception], ...] = ()
    #: Errors after which reading or running is tried once more, without other items in memory.
    memory_errors: tuple[type[Exception], ...] = (MemoryError,)

    @abstractmethod
    def read(self, item: _Item) -> _Read:
        """Read an item, in the reader's thread; it may be asked for again."""

    @abstractmethod
    def run(self, item: _Item, read: _Read) -> _Made | None:
        """Work on what was read, in the caller's thread; None: there is nothing to write."""

    @abstractmethod
    def write(self, item: _Item, made: _Made) -> None:
        """Write what was made, in the writer's thread."""

    @abstractmethod
    def begin(self, item: _Item) -> None:
        """Take note that it is the item's turn; called in order, in the caller's thread."""

    @abstractmethod
    def done(self, item: _Item) -> None:
        """Take note that an item is through; called in order, in the thread that finished it."""

    @abstractmethod
    def failed(self, item: _Item, error: Exception) -> None:
        """Take note of an item's error, instead of `done`."""

    def process(self, items: Iterable[_Item]) -> None:
        """Pass all items through the stages.

        Raises:
            BaseException: of a stage, if it is not among `item_errors`.
        """
        with (
            ThreadPoolExecutor(1, thread_name_prefix="read") as reader,
            ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
        ):
            passage = _Passage(self, deque(items), reader, writer)
            try:
                while passage.step():
                    pass
            finally:
                passage.settle()


@dataclass
class _Passage(Generic[_Item, _Read, _Made]):
    """One call of `process`: what is ahead of the item that runs, and what is behind it."""

    pipeline: Pipeline[_Item, _Read, _Made]
    waiting: deque[_Item]
    reader: ThreadPoolExecutor
    writer: ThreadPoolExecutor
    ahead: tuple[_Item, Future[_Read]] | None = None
    behind: Future[None] | None = None

    def step(self) -> bool:
        """Take one item as far as the writer; False when there is none."""
        self._read_ahead()
        if self.ahead is None:
            return False
        item = self.ahead[0]
        self.pipeline.begin(item)
        try:
            made = self._run(item, self._taken(*self.ahead))
        except self.pipeline.item_errors as error:
            # Results are told in order.
            self.settle()
            self.pipeline.failed(item, error)
            return True
        self.settle()
        if made is None:
            self.pipeline.done(item)
        else:
            self.behind = self.writer.submit(self._write, item, made)
        return True

    def settle(self) -> None:
        """Wait until what is behind has been written."""
        behind, self.behind = self.behind, None
        if behind is not None:
            behind.result()

    def _read_ahead(self) -> None:
        if self.ahead is None and self.waiting:
            item = self.waiting.popleft()
            self.ahead = item, self.reader.submit(self.pipeline.read, item)

    def _taken(self, item: _Item, future: Future[_Read]) -> _Read:
        """Return what was read; from now on the next is read."""
        if isinstance(future.exception(), self.pipeline.memory_errors):
            self.settle()
            # It takes the place of the first, whose error refers to where it was raised, and so to
            # what was in memory there.
            future = self.reader.submit(self.pipeline.read, item)
        self.ahead = None
        self._read_ahead()
        return future.result()

    def _run(self, item: _Item, read: _Read) -> _Made | None:
        try:
            return self.pipeline.run(item, read)
        except self.pipeline.memory_errors:
            if self.ahead is None and self.behind is None:
                raise
        # Not from within `except`: there the error is kept, with all that it refers to.
        self._make_room()
        return self.pipeline.run(item, read)

    def _make_room(self) -> None:
        """Wait for what is being written, and put back what was read ahead."""
        self.settle()
        if self.ahead is not None:
            item, future = self.ahead
            self.ahead = None
            future.exception()
            self.waiting.appendleft(item)

    def _write(self, item: _Item, made: _Made) -> None:
        try:
            self.pipeline.write(item, made)
        except self.pipeline.item_errors as error:
            self.pipeline.failed(item, error)
        else:
            self.pipeline.done(item)
