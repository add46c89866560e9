from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from autosam_deploy.cli.pipeline import Pipeline

#: Seconds after which a stage that was waited for is taken to be never coming.
PATIENCE = 10.0


class Payload:
    """What stands for a volume: counted as long as anything refers to it."""

    def __init__(self, number: int, alive: weakref.WeakSet[Payload]) -> None:
        self.number = number
        alive.add(self)


class Numbers(Pipeline[int, Payload, Payload]):
    """Passes numbers on; `hooks` holds what a stage does with a number besides."""

    item_errors = (ValueError, MemoryError)

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []
        self.alive: weakref.WeakSet[Payload] = weakref.WeakSet()
        self.most = 0
        self.hooks: dict[tuple[str, int], Callable[[], Any]] = {}

    def _stage(self, name: str, number: int) -> None:
        self.log.append((name, number))
        self.most = max(self.most, len(self.alive))
        self.hooks.get((name, number), lambda: None)()

    def begin(self, item: int) -> None:
        self._stage("begin", item)

    def read(self, item: int) -> Payload:
        payload = Payload(item, self.alive)
        self._stage("read", item)
        return payload

    def run(self, item: int, read: Payload) -> Payload | None:
        self._stage("run", item)
        return None if self.hooks.get(("nothing", item)) else read

    def write(self, item: int, made: Payload) -> None:
        self._stage("write", item)
        self.log.append(("written", made.number))

    def done(self, item: int) -> None:
        self._stage("done", item)

    def failed(self, item: int, error: Exception) -> None:
        self._stage("failed", item)

    def told(self, *names: str) -> list[tuple[str, int]]:
        return [entry for entry in self.log if entry[0] in names]


def fail(error: BaseException, times: int = 1000) -> Callable[[], None]:
    left = [times]

    def raising() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise error

    return raising


def each(*calls: Callable[[], Any]) -> Callable[[], None]:
    def one_after_the_other() -> None:
        for call in calls:
            call()

    return one_after_the_other


def met(event: threading.Event) -> Callable[[], None]:
    def wait() -> None:
        assert event.wait(PATIENCE), "the other stage did not come: nothing overlaps"

    return wait


def slowly() -> None:
    time.sleep(0.05)


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


def stage_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith(("read", "write"))]


def test_every_item_passes_in_order(numbers: Numbers) -> None:
    numbers.process(range(5))
    for name in ("begin", "read", "run", "write", "written", "done"):
        assert [number for what, number in numbers.log if what == name] == [0, 1, 2, 3, 4]
    assert stage_threads() == []


def test_no_items(numbers: Numbers) -> None:
    numbers.process([])
    assert numbers.log == []


def test_stages_overlap(numbers: Numbers) -> None:
    """Item 1 runs only when 2 is being read and 0 is being written, which wait for that."""
    reading, running, writing = (threading.Event() for _ in range(3))

    numbers.hooks = {
        ("read", 2): each(reading.set, met(running)),
        ("write", 0): each(writing.set, met(running)),
        ("run", 1): each(met(reading), met(writing), running.set),
    }
    numbers.process(range(3))
    assert numbers.told("done") == [("done", 0), ("done", 1), ("done", 2)]


@pytest.mark.parametrize("slow", ["read", "run", "write"])
def test_three_items_are_alive_at_most(numbers: Numbers, slow: str) -> None:
    numbers.hooks = {(slow, number): slowly for number in range(8)}
    numbers.process(range(8))
    assert len(numbers.told("done")) == 8
    assert numbers.most <= 3
    assert numbers.most == 3 or slow != "write"
    assert not numbers.alive


@pytest.mark.parametrize("stage", ["read", "run", "write"])
def test_item_that_fails_does_not_stop_the_others(numbers: Numbers, stage: str) -> None:
    numbers.hooks = {
        (stage, 1): fail(ValueError("bad item")),
        # Slow, so that what follows it would be told too early.
        ("write", 0): slowly,
    }
    numbers.process(range(4))
    expected = [("done", 0), ("failed", 1), ("done", 2), ("done", 3)]
    assert numbers.told("done", "failed") == expected


def test_item_without_anything_to_write(numbers: Numbers) -> None:
    numbers.hooks = {
        ("nothing", 1): lambda: None,
        ("write", 0): slowly,
    }
    numbers.process(range(3))
    assert numbers.told("done") == [("done", 0), ("done", 1), ("done", 2)]
    assert numbers.told("written") == [("written", 0), ("written", 2)]


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), RuntimeError("mistake")])
@pytest.mark.parametrize("stage", ["read", "run", "write"])
def test_other_errors_end_it_when_the_last_is_written(
    numbers: Numbers, stage: str, error: BaseException
) -> None:
    numbers.hooks = {(stage, 2): fail(error), ("write", 1): slowly}
    with pytest.raises(type(error), match=str(error)):
        numbers.process(range(6))
    assert numbers.told("written") == [("written", 0), ("written", 1)]
    assert numbers.told("done", "failed") == [("done", 0), ("done", 1)]
    assert ("run", 4) not in numbers.log
    assert stage_threads() == []


def test_failure_behind_is_told_when_it_ends(numbers: Numbers) -> None:
    numbers.hooks = {
        ("run", 1): fail(KeyboardInterrupt("stop")),
        ("write", 0): each(slowly, fail(ValueError("disk full"))),
    }
    with pytest.raises(KeyboardInterrupt, match="stop"):
        numbers.process(range(3))
    assert numbers.told("done", "failed") == [("failed", 0)]


def alone(numbers: Numbers, number: int, seen: list[bool]) -> Callable[[], None]:
    return lambda: seen.append({one.number for one in numbers.alive} <= {number})


def test_full_memory_while_reading_is_answered_alone(numbers: Numbers) -> None:
    seen: list[bool] = []
    once = fail(MemoryError(), times=1)
    numbers.hooks = {
        ("read", 2): each(once, alone(numbers, 2, seen)),
        ("write", 1): slowly,
    }
    numbers.process(range(4))
    assert seen == [True]
    assert numbers.told("done", "failed") == [("done", number) for number in range(4)]
    assert numbers.told("read").count(("read", 2)) == 2


def test_full_memory_while_running_is_answered_alone(numbers: Numbers) -> None:
    """What was read ahead leaves memory, and is read again."""
    seen: list[bool] = []
    once = fail(MemoryError(), times=1)
    numbers.hooks = {
        ("run", 2): each(once, alone(numbers, 2, seen)),
        ("write", 1): slowly,
    }
    numbers.process(range(5))
    assert seen == [True]
    assert numbers.told("done", "failed") == [("done", number) for number in range(5)]
    assert numbers.told("read").count(("read", 3)) == 2


@pytest.mark.parametrize("stage", ["read", "run", "write"])
def test_item_that_does_not_fit_alone_fails(numbers: Numbers, stage: str) -> None:
    numbers.hooks = {(stage, 1): fail(MemoryError())}
    numbers.process(range(3))
    assert numbers.told("done", "failed") == [("done", 0), ("failed", 1), ("done", 2)]
    # What is half written is not written again.
    assert numbers.told(stage).count((stage, 1)) == (1 if stage == "write" else 2)


def test_nothing_is_tried_again_where_nothing_can_leave(numbers: Numbers) -> None:
    numbers.hooks = {("run", 0): fail(MemoryError())}
    numbers.process([0])
    assert numbers.told("run", "failed") == [("run", 0), ("failed", 0)]
