"""Threads on one backend, CUDA graphs, the caller's stream, and closing while all that goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError
from autosam_deploy.runtime.backend import Request
from autosam_deploy.runtime.trt import TrtBackend, TrtOptions

EngineBundle = Callable[..., Path]
TENSORRT = {"family": "tensorrt", "version": "10.13.3.9"}


def open_backend(folder: Path, **options: Any) -> TrtBackend:
    return TrtBackend(Bundle.open(folder), Request(), options=TrtOptions(**options))


def slices_of(count: int, seed: int = 0, side: int = 8) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(1, 2, (count, 1, side, side)).astype(np.float32)


def check(backend: TrtBackend, slices: np.ndarray, gpu: Any) -> None:
    found = backend.run(slices, ("labels", "logits"))
    for name, values in gpu.function(slices).items():
        np.testing.assert_array_equal(found[name], values)


def contexts_of(gpu: Any) -> int:
    return sum(type(one).__name__ == "Context" for one in gpu.objects)


def test_four_threads_share_a_backend(engine_bundle: EngineBundle, gpu: Any) -> None:
    """Two at a time run on the device, which the barrier proves: it lets nobody through alone."""
    barrier = threading.Barrier(2, timeout=20)
    gpu.during = barrier.wait
    backend = open_backend(engine_bundle(), contexts=2)
    slices = [slices_of(1 + seed % 4, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: check(backend, one, gpu), slices))
    assert contexts_of(gpu) == 2
    backend.close()


def test_one_thread_makes_one_context(engine_bundle: EngineBundle, gpu: Any) -> None:
    backend = open_backend(engine_bundle(), contexts=4)
    for seed in range(3):
        check(backend, slices_of(2, seed), gpu)
    assert contexts_of(gpu) == 1
    backend.close()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does; a minute is for busy machines."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_threads_wait_where_a_second_context_has_no_room(
    engine_bundle: EngineBundle, gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.most_contexts = 1
    backend = open_backend(engine_bundle(), contexts=2)
    with ThreadPoolExecutor(1) as pool:
        with backend._pool.lease():
            waiting = pool.submit(check, backend, slices_of(2), gpu)
            eventually(lambda: "no memory for more than 1 contexts" in caplog.text)
            assert not waiting.done()
        waiting.result()
    backend.close()


def test_other_failures_of_a_second_context_are_raised(
    engine_bundle: EngineBundle, gpu: Any
) -> None:
    backend = open_backend(engine_bundle(), contexts=2)
    gpu.refuse_context = True
    with (
        backend._pool.lease(),
        pytest.raises(BackendError, match="makes no execution context; got no reason given"),
    ):
        backend.run(slices_of(1), ("labels",))
    check(backend, slices_of(2), gpu)
    backend.close()


def test_closing_waits_for_what_runs(engine_bundle: EngineBundle, gpu: Any) -> None:
    started, finish = threading.Event(), threading.Event()

    def during() -> None:
        started.set()
        finish.wait(60)

    gpu.during = during
    backend = open_backend(engine_bundle(), contexts=1)
    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(check, backend, slices_of(2), gpu)
        started.wait(60)
        waiting = pool.submit(backend.run, slices_of(2), ("labels",))
        closing = pool.submit(backend.close)
        eventually(lambda: backend._pool._closed)
        assert not closing.done()
        finish.set()
        running.result()
        closing.result()
        with pytest.raises(BackendError, match="the engine is closed"):
            waiting.result()
    backend.close()
    with pytest.raises(BackendError, match="the engine is closed"):
        backend.run(slices_of(1), ("labels",))


def test_a_graph_is_recorded_for_a_size_that_comes_again(
    engine_bundle: EngineBundle, gpu: Any
) -> None:
    backend = open_backend(engine_bundle(**TENSORRT), graphs=True)
    for seed in range(4):
        check(backend, slices_of(2, seed), gpu)
    # Once plainly, once while recording.
    assert gpu.calls["execute"] == 2
    assert (gpu.calls["cudaGraphInstantiate"], gpu.calls["cudaGraphLaunch"]) == (1, 3)
    assert gpu.calls["computed"] == 4
    for side in (9, 8, 9, 8):
        check(backend, slices_of(2, side=side), gpu)
    assert gpu.calls["cudaGraphLaunch"] == 3
    assert not gpu.graphs
    check(backend, slices_of(2), gpu)
    assert gpu.calls["cudaGraphLaunch"] == 4
    backend.close()


def test_failure_while_recording_ends_the_recording(engine_bundle: EngineBundle, gpu: Any) -> None:
    backend = open_backend(engine_bundle(**TENSORRT), graphs=True)
    check(backend, slices_of(2), gpu)
    gpu.refuse_run = "cannot be captured"
    with pytest.raises(BackendError, match="got cannot be captured"):
        backend.run(slices_of(2), ("labels",))
    assert not gpu.capturing
    gpu.refuse_run = ""
    for seed in range(3):
        check(backend, slices_of(2, seed), gpu)
    backend.close()


def test_rtx_records_graphs_itself(engine_bundle: EngineBundle, gpu: Any) -> None:
    backend = open_backend(engine_bundle(), graphs=True)
    (context,) = [one for one in gpu.objects if type(one).__name__ == "Context"]
    assert context.how.cuda_graph_strategy == "WHOLE_GRAPH_CAPTURE"
    del context
    for seed in range(3):
        check(backend, slices_of(2, seed), gpu)
    assert gpu.calls["cudaStreamBeginCapture"] == 0
    assert any("CUDA graphs on" in note for note in backend.info.notes)
    backend.close()


@pytest.mark.parametrize("graphs", [False, True])
def test_callers_stream_is_used_and_left_alone(
    engine_bundle: EngineBundle, gpu: Any, graphs: bool
) -> None:
    gpu.streams[7] = []
    folder = engine_bundle(**TENSORRT)
    backend = open_backend(folder, contexts=1, stream=7, graphs=graphs)
    for seed in range(3):
        check(backend, slices_of(2, seed), gpu)
    backend.close()
    assert gpu.calls["cudaStreamCreateWithFlags"] == 0
    assert gpu.streams.pop(7) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contexts": 0}, "contexts; got 0; expected 1 or more"),
        ({"stream": 7}, "cannot share the caller's stream; got 2 contexts; expected 1"),
        ({"contexts": 1, "stream": 0, "graphs": True}, "cannot record the default stream"),
    ],
)
def test_options_that_contradict_each_other(
    engine_bundle: EngineBundle, gpu: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        open_backend(engine_bundle(), **options)
