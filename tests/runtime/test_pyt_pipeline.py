"""The pipeline on a device that is no GPU (see `tests/fakes/streams.py`)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autosam_deploy.runtime.pyt_pipeline import MOST_SIZES, WARM_RUNS, CudaDevice, Pipeline


class Model:
    """Doubles slices into "logits" of two classes, and labels what is above one."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, slices: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        self.batches.append(len(slices))
        found = {
            "logits": torch.cat([slices * 2, slices * 3], dim=1),
            "labels": (slices[:, 0] > 1).to(torch.uint8),
        }
        return {name: found[name] for name in names}


def numbered(count: int, height: int = 3, width: int = 5) -> Any:
    values = np.arange(count * height * width, dtype=np.float32) / 20
    return values.reshape(count, 1, height, width)


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("count", [1, 4, 5, 11])
def test_every_slice_comes_out_in_its_place(count: int, graphs: bool, fake_streams: Any) -> None:
    pipeline = Pipeline(fake_streams(), Model(), part=4, graphs=graphs)
    slices = numbered(count)
    found = pipeline.run(slices, ("labels", "logits"))
    assert set(found) == {"labels", "logits"}
    assert found["labels"].dtype == np.uint8
    assert np.array_equal(found["labels"], slices[:, 0] > 1)
    assert np.array_equal(found["logits"], np.concatenate([slices * 2, slices * 3], axis=1))


def test_results_do_not_change_with_the_next_run(fake_streams: Any) -> None:
    pipeline = Pipeline(fake_streams(), Model(), part=2, graphs=True)
    first = pipeline.run(numbered(3), ("logits",))["logits"]
    kept = first.copy()
    pipeline.run(numbered(3) + 9, ("logits",))
    assert np.array_equal(first, kept)


def test_a_size_is_captured_once(fake_streams: Any) -> None:
    device, model = fake_streams(), Model()
    pipeline = Pipeline(device, model, part=4, graphs=True)
    for _ in range(3):
        pipeline.run(numbered(6), ("labels",))
    # Parts of four and of two; outputs are part of what is captured.
    assert device.captures == 2
    pipeline.run(numbered(6), ("logits",))
    assert device.captures == 4
    assert model.batches[: WARM_RUNS + 1] == [4] * (WARM_RUNS + 1)


def test_without_graphs_nothing_is_captured(fake_streams: Any) -> None:
    device = fake_streams()
    Pipeline(device, Model(), part=4, graphs=False).run(numbered(6), ("labels",))
    assert device.captures == 0


def test_the_oldest_size_makes_room(fake_streams: Any) -> None:
    device = fake_streams()
    pipeline = Pipeline(device, Model(), part=1, graphs=True)
    for width in range(2, 2 + MOST_SIZES):
        pipeline.run(numbered(1, width=width), ("labels",))
    pipeline.run(numbered(1, width=2), ("labels",))
    assert device.captures == MOST_SIZES
    pipeline.run(numbered(1, width=50), ("labels",))
    pipeline.run(numbered(1, width=2), ("labels",))
    assert device.captures == MOST_SIZES + 1, "the size used last was thrown out"
    pipeline.run(numbered(1, width=3), ("labels",))
    assert device.captures == MOST_SIZES + 2


def test_each_step_waits_for_the_one_before(fake_streams: Any) -> None:
    device = fake_streams()
    pipeline = Pipeline(device, Model(), part=2, graphs=True)
    pipeline.run(numbered(2), ("labels",))
    device.log.clear()
    pipeline.run(numbered(2), ("labels",))
    incoming, computing, outgoing = pipeline.incoming, pipeline.computing, pipeline.outgoing
    steps = [entry[:2] if entry[0] != "wait" else entry for entry in device.log]
    assert steps == [
        ("use", incoming),
        ("record", incoming),
        ("wait", computing, incoming),
        ("use", computing),
        ("record", computing),
        ("wait", outgoing, computing),
        ("use", outgoing),
        ("record", outgoing),
        ("reached", outgoing),
    ]


def test_a_slot_is_not_filled_before_it_was_emptied(fake_streams: Any) -> None:
    """Six parts through two slots: the third waits for the first to be back."""
    device = fake_streams()
    pipeline = Pipeline(device, Model(), part=1, graphs=True)
    pipeline.run(numbered(1), ("labels",))
    device.log.clear()
    pipeline.run(numbered(6), ("labels",))
    order = [entry for entry in device.log if entry[0] == "reached" or entry[:2] == ("use", 1)]
    kinds = "".join("i" if entry[0] == "use" else "r" for entry in order)
    assert kinds == "iiririririrr"


def test_what_is_running_is_waited_for_when_a_part_fails(fake_streams: Any) -> None:
    class Failing(Model):
        def __call__(self, slices: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
            if len(slices) == 1:
                raise RuntimeError("out of memory")
            return super().__call__(slices, names)

    device = fake_streams()
    pipeline = Pipeline(device, Failing(), part=2, graphs=True)
    with pytest.raises(RuntimeError, match="out of memory"):
        pipeline.run(numbered(3), ("labels",))
    assert device.log[-1][:2] == ("reached", pipeline.outgoing)
    slices = numbered(4)
    assert np.array_equal(pipeline.run(slices, ("labels",))["labels"], slices[:, 0] > 1)


def test_read_only_slices_are_taken(fake_streams: Any) -> None:
    slices = numbered(2)
    slices.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pipeline(fake_streams(), Model(), part=2, graphs=True).run(slices, ("labels",))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu() -> None:
    with torch.inference_mode():
        pipeline = Pipeline(CudaDevice("cuda:0"), Model(), part=4, graphs=True)
        for count in (11, 3, 11):
            slices = numbered(count)
            found = pipeline.run(slices, ("labels", "logits"))
            assert np.array_equal(found["labels"], slices[:, 0] > 1)
            assert np.array_equal(found["logits"][:, :1], slices * 2)
