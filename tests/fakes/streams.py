"""A device for `runtime.pyt_pipeline` that is no GPU: streams are recorded, graphs are the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class FakeDevice:
    """Runs everything at once and keeps what was asked for, in order."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.streams = self.events = self.captures = 0

    def stream(self) -> int:
        self.streams += 1
        return self.streams

    @contextmanager
    def use(self, stream: int) -> Iterator[None]:
        self.log.append(("use", stream))
        yield

    def record(self, stream: int) -> tuple[int, int]:
        self.events += 1
        self.log.append(("record", stream, self.events))
        return stream, self.events

    def wait(self, stream: int, event: tuple[int, int]) -> None:
        self.log.append(("wait", stream, event[0]))

    def reached(self, event: tuple[int, int]) -> None:
        self.log.append(("reached", *event))

    def on_device(self, like: Tensor) -> Tensor:
        return torch.full_like(like, 77)

    def pinned(self, like: Tensor) -> Tensor:
        return torch.full_like(like, 78)

    def capture(self, work: Callable[[], Any], stream: int) -> Callable[[], None]:
        self.captures += 1
        work()
        return work
