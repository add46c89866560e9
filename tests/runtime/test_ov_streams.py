"""Mode throughput of backend `openvino`: parts of a batch side by side."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError, OutOfMemoryError
from autosam_deploy.runtime.backend import Request
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.ov import OvBackend, OvOptions
from autosam_deploy.spec import HeadKind

openvino = pytest.importorskip("openvino")

ToyBundle = Callable[..., Path]
SLICES = np.linspace(-3, 5, 5 * 5 * 7, dtype=np.float32).reshape(5, 5, 7)
#: OpenVINO takes no more streams than threads, and no more threads than there are.
several = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has one stream")


def opened(path: Path, *, threads: int = 2, precision: Any = "auto", **options: Any) -> Engine:
    return Engine.open(
        path, backend="openvino", threads=threads, precision=precision, options=options
    )


def backend_of(engine: Engine) -> OvBackend:
    assert isinstance(engine.backend, OvBackend)
    return engine.backend


def property_of(engine: Engine, name: str) -> str:
    return str(backend_of(engine).chain._compiled[0].get_property(name))


@several
def test_mode_and_streams_reach_openvino(toy_bundle: ToyBundle) -> None:
    with opened(toy_bundle(), mode="throughput", streams="2") as engine:
        assert property_of(engine, "NUM_STREAMS") == "2"
        assert property_of(engine, "PERFORMANCE_HINT") == "THROUGHPUT"
        assert engine.info.options == {"mode": "throughput", "streams": "2"}
        assert engine.info.notes == ("batches run in up to 2 parts side by side",)
        assert engine.info.threads == 2


def test_latency_has_one_stream(toy_bundle: ToyBundle) -> None:
    with opened(toy_bundle()) as engine:
        assert property_of(engine, "NUM_STREAMS") == "1"
        assert (engine.info.options, engine.info.notes) == ({}, ())


def test_number_of_streams_is_openvino_s_own_if_not_given(toy_bundle: ToyBundle) -> None:
    with opened(toy_bundle(), mode="throughput") as engine:
        assert int(property_of(engine, "NUM_STREAMS")) == engine.backend.side_by_side >= 1


def test_streams_beyond_the_threads_are_told(toy_bundle: ToyBundle) -> None:
    with opened(toy_bundle(), mode="throughput", streams=4096) as engine:
        found = backend_of(engine).chain.streams
        assert found < 4096
        assert f"4096 streams were asked for, OpenVINO takes {found}" in engine.info.notes


@several
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_are_put_together_in_order(toy_bundle: ToyBundle, count: int) -> None:
    path = toy_bundle()
    with opened(path) as one, opened(path, mode="throughput", streams=2) as many:
        expected, found = (engine.outputs(SLICES[:count]) for engine in (one, many))
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert (found[name] == array).all()
            assert found[name].dtype == array.dtype
            found[name][:] = 0  # memory of the caller
        assert (many.labels(SLICES[:count]) == expected["labels"]).all()


@several
def test_parts_run_at_the_same_time(toy_bundle: ToyBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(toy_bundle(), mode="throughput", streams=2) as engine:
        chain = backend_of(engine).chain
        real, both = chain.run, threading.Barrier(2)
        sizes = []

        def meet(inputs: Any) -> Any:
            sizes.append(len(inputs["slices"]))
            both.wait(10)
            return real(inputs)

        monkeypatch.setattr(chain, "run", meet)
        assert engine.labels(SLICES).shape == (5, 5, 7)
        assert sorted(sizes) == [2, 3]


@several
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_real_model(exported: Callable[[HeadKind], Path], precision: str) -> None:
    """In bf16 three models run one after the other, in every part."""
    if precision == "bf16" and "BF16" not in openvino.Core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        pytest.skip("this CPU has no bf16")
    slices = np.random.default_rng(0).integers(-300, 1900, (4, 40, 56))
    path = exported("cnn")
    with (
        opened(path, precision=precision) as one,
        opened(path, precision=precision, mode="throughput", streams=2) as many,
    ):
        expected = one.logits(slices)
        spread = float(expected.max() - expected.min())
        # Other batches may be summed in another order.
        rounding = 1e-5 if precision == "fp32" else 0.05
        assert np.abs(many.logits(slices) - expected).max() < rounding * spread
        # `auto` gives every stream something to do.
        assert many.auto_batch(100) >= 2


@several
def test_memory_that_runs_out_in_one_part(
    toy_bundle: ToyBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All parts have ended when the model is closed, and it is loaded again as it was."""
    with opened(toy_bundle(), mode="throughput", streams=2) as engine:
        before = backend_of(engine).chain
        real, failed, slow = before.run, threading.Event(), []

        def full(inputs: Any) -> Any:
            if len(inputs["slices"]) == 2:
                failed.set()
                raise MemoryError("no room")
            assert failed.wait(10)
            slow.append(before.closed)
            return real(inputs)

        monkeypatch.setattr(before, "run", full)
        with pytest.raises(OutOfMemoryError, match=r"batch of 5 slices .*; got no room"):
            engine.labels(SLICES)
        assert slow == [False]
        assert engine.labels(SLICES).shape == (5, 5, 7)
        after = backend_of(engine).chain
        assert after is not before
        assert after.streams == 2


@several
def test_cache_serves_every_mode(toy_bundle: ToyBundle, tmp_path: Path) -> None:
    path = toy_bundle()
    with opened(path, cache=tmp_path / "c"):
        pass
    with opened(path, cache=str(tmp_path / "c"), mode="throughput", streams=2) as engine:
        assert engine.info.notes[0].endswith("(used)")
        assert property_of(engine, "NUM_STREAMS") == "2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (OvOptions(streams=2), "belong to mode 'throughput'; got 2 streams in mode latency; set"),
        (OvOptions(mode="throughput", streams=0), "streams; got 0; expected 1 or more"),
        (OvOptions(streams=0), "streams; got 0; expected 1 or more"),
    ],
)
def test_what_contradicts_itself(toy_bundle: ToyBundle, options: OvOptions, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        OvBackend(Bundle.open(toy_bundle()), Request(), options=options)
