from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosam_deploy.benchmarks.harness import worker as workers
from autosam_deploy.benchmarks.harness.runners import Loading, Runner
from autosam_deploy.benchmarks.harness.worker import Worker, describe, serve
from autosam_deploy.errors import (
    BackendError,
    BackendUnavailableError,
    MissingExtraError,
    OutOfMemoryError,
)


class Clock:
    """A clock that runs as a script says: seconds of every run."""

    def __init__(self, runs: list[float]) -> None:
        self.now, self.runs, self.seen = 0.0, list(runs), []

    def labels(self, slices: np.ndarray) -> np.ndarray:
        self.now += self.runs.pop(0) if self.runs else 1.0
        self.seen.append(int(slices.flat[0]))
        return slices[:, 0].astype(np.uint8)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Any:
    def build(*runs: float) -> tuple[Worker, Clock]:
        clock = Clock(list(runs))
        monkeypatch.setattr(workers.time, "perf_counter", lambda: clock.now)
        batches = [np.full((1, 1, 2, 2), n, np.float32) for n in range(3)]
        return Worker(Runner(clock.labels, lambda s: {}, {}), batches), clock

    return build


def test_inputs_rotate(scripted: Any) -> None:
    worker, clock = scripted(*[0.1] * 9)
    worker.burst(seconds=100, most=5)
    assert clock.seen == [0, 1, 2, 0, 1]


def test_warm_up_ends_when_stable(scripted: Any) -> None:
    worker, _ = scripted(0.9, 0.5, 0.2, 0.1, 0.1, 0.1, 0.1)
    found = worker.warm(seconds=100, most=40)
    assert (found["runs"], found["stable"], found["counted"]) == (7, True, [])


def test_warm_up_ends_with_its_time(scripted: Any) -> None:
    worker, _ = scripted(*(0.9 - 0.08 * n for n in range(10)))
    found = worker.warm(seconds=2, most=40)
    assert (found["runs"], found["stable"]) == (3, False)
    worker, _ = scripted(*(0.1 * 1.2**n for n in range(50)))
    assert worker.warm(seconds=1000, most=7)["runs"] == 7


def test_one_slow_run_is_warm_up_enough(scripted: Any) -> None:
    worker, _ = scripted(7.0, 7.0)
    found = worker.warm(seconds=5, most=40)
    assert (found["runs"], found["stable"], found["counted"]) == (1, True, [7.0])


def test_a_burst_ends_with_time_or_number(scripted: Any) -> None:
    worker, _ = scripted(*[0.25] * 20)
    assert worker.burst(seconds=1, most=100)["seconds"] == [0.25] * 4
    assert worker.burst(seconds=0, most=100)["seconds"] == [0.25]
    assert worker.burst(seconds=9, most=2)["seconds"] == [0.25] * 2


@pytest.mark.parametrize(
    ("error", "loading", "kind"),
    [
        (BackendUnavailableError("no library"), True, "unavailable"),
        (MissingExtraError("no torch"), True, "unavailable"),
        (BackendError("no fp16 graph"), True, "unavailable"),
        (BackendError("the device is gone"), False, "failed"),
        (OutOfMemoryError("full"), False, "failed"),
        (ValueError("two\nlines"), True, "failed"),
    ],
)
def test_what_an_error_means(error: Exception, loading: bool, kind: str) -> None:
    found = describe(error, loading=loading)
    assert found["kind"] == kind
    assert "\n" not in found["error"]


def test_unknown_commands_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 1, 2, 2), np.float32))
    job = {
        "loader": f"{workers.__name__}:fake_loader",
        "loading": Loading(tmp_path, "x").as_dict(),
        "batches": [str(tmp_path / "a.npy")],
        "started": 0.0,
    }
    runner = Runner(lambda s: s[:, 0].astype(np.uint8), lambda s: {}, {"backend": "x"})
    monkeypatch.setattr(workers, "fake_loader", lambda loading: runner, raising=False)
    commands = [{"do": "burst", "seconds": 0.0, "most": 1}, {"do": "dance"}]
    lines = "".join(json.dumps(one) + "\n" for one in commands)
    monkeypatch.setattr(workers.sys, "stdin", io.StringIO(lines))
    channel = io.StringIO()
    serve(job, channel)
    first, burst, unknown = (json.loads(line) for line in channel.getvalue().splitlines())
    assert first["info"] == {"backend": "x"}
    assert first["start_to_labels_s"] > 0
    assert len(burst["seconds"]) == 1
    assert "AttributeError" in unknown["error"]
