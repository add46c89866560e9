"""The measuring process of one row: loads one runner, then does what it is told, line by line.

    python -m autosam_deploy.benchmarks.harness.worker job.json

It answers once when the model is loaded and the first labels are there, so that the parent has the
cold start, and then once a command: warm, burst, labels, parity, volume.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from autosam_deploy.benchmarks.harness.child import open_channel, say
from autosam_deploy.benchmarks.harness.collect import collect, save_collected
from autosam_deploy.benchmarks.harness.environment import Watch
from autosam_deploy.benchmarks.harness.runners import Loading, Runner, Slices
from autosam_deploy.benchmarks.harness.times import is_stable
from autosam_deploy.benchmarks.harness.volume import label_volume
from autosam_deploy.benchmarks.machine import peak_rss
from autosam_deploy.errors import (
    AutosamError,
    BackendError,
    BackendUnavailableError,
    DeviceUnavailableError,
    MissingExtraError,
)

_MIB = 2**20
#: Seconds of a run beyond which nothing is warmed up by another one.
SLOW_S = 1.0


class Worker:
    """A loaded runner and the batches that it is timed on, in turns."""

    def __init__(self, runner: Runner, batches: list[Slices]) -> None:
        """Take a loaded runner; batches are (B, 1, H, W), all of one shape."""
        self.runner = runner
        self.batches = batches
        self.calls = 0

    def once(self) -> float:
        """Run the next batch and return its seconds.

        Inputs rotate: a cache anywhere that knows the answer already would be found out by nobody.
        """
        batch = self.batches[self.calls % len(self.batches)]
        self.calls += 1
        start = time.perf_counter()
        self.runner.labels(batch)
        return time.perf_counter() - start

    def warm(self, *, seconds: float, most: int) -> dict[str, Any]:
        """Run until times are stable, or time or number of runs is used up.

        Where one run takes long it is all of the warm-up that there is.
        """
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < most:
            times.append(self.once())
            least = 1 if times[0] > SLOW_S else 3
            spent = time.perf_counter() - start
            if len(times) >= least and (is_stable(times) or spent >= seconds or least == 1):
                break
        return {
            "runs": len(times),
            "stable": is_stable(times) or times[0] > SLOW_S,
            # A run that takes that long is worth being counted.
            "counted": times if times[0] > SLOW_S else [],
            "peak_mib": peak_rss() / _MIB,
        }

    def burst(self, *, seconds: float, most: int) -> dict[str, Any]:
        """Run for some time and return every run's seconds."""
        times: list[float] = []
        device: list[float] = []
        watch = Watch()
        watch.begin()
        start = time.perf_counter()
        while len(times) < most:
            times.append(self.once())
            if (found := self.runner.device_seconds()) is not None:
                device.append(found)
            if time.perf_counter() - start >= seconds:
                break
        watch.end()
        return {
            "seconds": times,
            "device": device,
            "watch": watch.as_dict(),
            "peak_mib": peak_rss() / _MIB,
        }

    def labels(self, *, target: str) -> dict[str, Any]:
        """Leave the labels of the first batch in `target`."""
        np.save(target, self.runner.labels(self.batches[0]))
        return {}

    def parity(self, *, sets: dict[str, list[str]], target: str, repeat: bool) -> dict[str, Any]:
        """Run the inputs of every set and leave the outputs in `target`."""
        inputs = {name: [np.load(file) for file in files] for name, files in sets.items()}
        save_collected(Path(target), collect(self.runner, inputs, repeat=repeat))
        return {}

    def volume(
        self, *, path: str, target: str, axis: str, batch: int, repeats: int, seconds: float
    ) -> dict[str, Any]:
        """Label a volume from file to file; returns seconds by stage of every repeat."""
        found: list[dict[str, float]] = []
        start = time.perf_counter()
        slices = 0
        while len(found) < repeats:
            stages, slices = label_volume(
                self.runner.labels, Path(path), Path(target), axis=axis, batch=batch
            )
            found.append(stages)
            if time.perf_counter() - start >= seconds:
                break
        middle = {name: statistics.median(one[name] for one in found) for name in found[0]}
        total = statistics.median(sum(one.values()) for one in found)
        return {"stages": middle, "total": total, "repeats": len(found), "slices": slices}


def load(job: dict[str, Any]) -> tuple[Worker, dict[str, Any]]:
    """Load the runner of a job and run it once; returns the first answer too."""
    module, _, name = job["loader"].partition(":")
    batches = [np.load(file) for file in job["batches"]]
    start = time.perf_counter()
    runner: Runner = getattr(import_module(module), name)(Loading.from_dict(job["loading"]))
    load_s = time.perf_counter() - start
    loaded = peak_rss()
    worker = Worker(runner, batches)
    first = worker.once()
    return worker, {
        "info": runner.info,
        "load_s": load_s,
        "first_run_s": first,
        "start_to_labels_s": time.monotonic() - job["started"],
        "loaded_mib": loaded / _MIB,
    }


def describe(error: Exception, *, loading: bool) -> dict[str, Any]:
    """Return the answer that tells the parent of an error.

    While loading, a backend that refuses is not available: a missing library, device or precision.
    """
    absent: tuple[type[Exception], ...] = (
        BackendUnavailableError,
        DeviceUnavailableError,
        MissingExtraError,
    )
    if loading:
        absent = (*absent, BackendError)
    kind = "unavailable" if isinstance(error, absent) else "failed"
    text = str(error) if isinstance(error, AutosamError) else f"{type(error).__name__}: {error}"
    return {"error": " ".join(text.split())[:400], "kind": kind}


def serve(job: dict[str, Any], channel: Any) -> None:
    """Load, answer, and work until stdin ends."""
    try:
        worker, answer = load(job)
    except Exception as error:  # noqa: BLE001 - whatever a runtime throws is this row's result
        say(channel, describe(error, loading=True))
        return
    say(channel, answer)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:  # noqa: BLE001 - as above
            answer = describe(error, loading=False)
        say(channel, answer)


if __name__ == "__main__":
    # Before anything is loaded: libraries may print while they load.
    CHANNEL = open_channel()
    serve(json.loads(Path(sys.argv[1]).read_text("utf-8")), CHANNEL)
