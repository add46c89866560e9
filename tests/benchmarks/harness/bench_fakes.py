"""Loaders of runners that go wrong, for processes of their own: see `PYTHONPATH` in conftest."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from autosam_deploy.benchmarks.harness.runners import Loading, Runner, load_engine
from autosam_deploy.errors import BackendError, BackendUnavailableError

INFO = {
    "backend": "fake",
    "device": "cpu",
    "provider": "fake",
    "precision": "fp32",
    "artefact": "",
    "threads": 1,
    "reason": "a test",
    "versions": {},
    "notes": (),
}


def load_right(loading: Loading) -> Runner:
    return load_engine(Loading(loading.bundle, "onnxruntime", "fp32", "cpu", 1))


def load_absent(loading: Loading) -> Runner:
    raise BackendUnavailableError("there is no such library", todo="install it")


def load_broken(loading: Loading) -> Runner:
    raise RuntimeError("this is\nnobody's fault")


def load_killed(loading: Loading) -> Runner:
    """Prints to stdout, which must not be taken for an answer, and is killed when it runs."""
    print("libraries print what they like")  # noqa: T201
    runner = load_right(loading)
    calls = iter(range(10**6))

    def labels(slices: np.ndarray) -> np.ndarray:
        if next(calls) > 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return runner.labels(slices)

    return Runner(labels, runner.outputs, runner.info)


def load_exits(loading: Loading) -> Runner:
    sys.stderr.write("the library says good-bye\n")
    sys.exit(7)


def load_hangs(loading: Loading) -> Runner:
    time.sleep(600)
    raise AssertionError


def load_fails_later(loading: Loading) -> Runner:
    runner = load_right(loading)
    calls = iter(range(10**6))

    def labels(slices: np.ndarray) -> np.ndarray:
        if next(calls) > 4:
            raise BackendError("the device fell off the bus")
        return runner.labels(slices)

    return Runner(labels, runner.outputs, runner.info)


def load_slow(loading: Loading) -> Runner:
    """Slower than the right one however busy the machine is, and with a clock of its own."""
    runner = load_right(loading)
    taken = [0.0]

    def labels(slices: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        found = runner.labels(slices)
        taken[0] = time.perf_counter() - start
        time.sleep(0.03)
        return found

    return Runner(labels, runner.outputs, {**runner.info, **INFO}, lambda: taken[0])
