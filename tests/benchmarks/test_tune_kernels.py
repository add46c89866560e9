"""The tuner's work on kernels: in Triton's interpreter, or on the GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from autosam_deploy.benchmarks import tune_kernels
from autosam_deploy.benchmarks.tune import jobs_of, measure_with
from autosam_deploy.benchmarks.tune_kernels import (
    Problem,
    RefusedError,
    Work,
    problem_of,
    refusals,
    worst_token,
)
from autosam_deploy.encoders import ENCODERS, EncoderSpec
from autosam_deploy.errors import BackendError, OutOfMemoryError
from autosam_deploy.kernels.launch import interpreted
from autosam_deploy.kernels.relpos_plan import Plan
from autosam_deploy.kernels.tiles import Kind, Tiles

SMALL = Tiles(16, 16, 1, 1)
KINDS: tuple[Kind, ...] = ("grid", "window", "bias")


@pytest.fixture(scope="module")
def device() -> torch.device:
    pytest.importorskip("triton")
    return torch.device("cpu" if interpreted() else "cuda")


def test_jobs_are_those_of_the_encoders(device: torch.device) -> None:
    encoders = [ENCODERS[name] for name in ("vit_b", "vit_l", "vit_h")]
    jobs = jobs_of(encoders, dtypes=["fp16", "bf16"], batch=2, device=device)
    assert list(jobs) == [(kind, width) for width in (64, 80) for kind in KINDS]
    assert [(one.plan.heads, one.blocks, one.dtype) for one in jobs["grid", 64]] == [
        (heads, 4, dtype) for heads in (12, 16) for dtype in (torch.float16, torch.bfloat16)
    ]
    assert [one.blocks for one in jobs["window", 80]] == [28, 28]
    assert [(one.plan.window, one.blocks) for one in jobs["bias", 80][::2]] == [(14, 28), (0, 4)]
    assert {one.batch for found in jobs.values() for one in found} == {2}


def problems(device: torch.device, kind: Kind, encoder: EncoderSpec, dtype: str) -> list[Problem]:
    (found,) = [
        problem
        for (one, _), problem in jobs_of([encoder], dtypes=[dtype], batch=2, device=device).items()
        if one == kind
    ]
    return found


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_pass_their_check_and_are_timed(
    kind: Kind, dtype: str, device: torch.device, tiny_encoder: EncoderSpec
) -> None:
    found = problems(device, kind, tiny_encoder, dtype)
    turns: list[int] = []

    def timer(run: Callable[[int], None]) -> float:
        for turn in range(3):
            run(turn)
        turns.append(1)
        return 0.5

    seconds = measure_with(found, device, timer)(SMALL)
    assert len(turns) == len(found)
    assert seconds == 0.5 * sum(one.blocks for one in found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_result_is_refused_and_not_timed(
    kind: Kind,
    device: torch.device,
    tiny_encoder: EncoderSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (problem, *_) = problems(device, kind, tiny_encoder, "fp16")
    work = Work(problem, device)
    measure = measure_with([problem], device, lambda run: pytest.fail("timed"))
    launch = Work.launch

    def wrong(self: Work, tiles: Tiles, turn: int) -> None:
        launch(self, tiles, turn)
        for one in (self._out, *self._written):
            one.view(-1, one.shape[-1])[3] *= 1.5

    monkeypatch.setattr(Work, "launch", wrong)
    with pytest.raises(RefusedError, match="wrong by") as caught:
        measure(SMALL)
    assert caught.value.wrong
    # What the kernel leaves unwritten is NaN, which no comparison lets pass.
    monkeypatch.setattr(Work, "launch", lambda self, tiles, turn: None)
    with pytest.raises(RefusedError, match="wrong by nan"):
        work.check(SMALL)


def test_inputs_take_turns(device: torch.device, tiny_encoder: EncoderSpec) -> None:
    work = Work(problems(device, "grid", tiny_encoder, "fp16")[0], device)
    found = []
    for turn in range(3):
        work.launch(SMALL, turn)
        found.append(work._out.clone())
    assert not torch.equal(found[0], found[1])
    count = len(work._projections)
    assert torch.equal(found[0], found[2]) == (count == 2)


def test_worst_token() -> None:
    expected = torch.ones(4, 9)
    found = expected.clone()
    assert worst_token(found, expected) == 0
    found[2] += 0.25
    assert worst_token(found, expected) == pytest.approx(0.25)
    found[0, 0] = float("nan")
    assert not worst_token(found, expected) <= 1e9


def test_what_a_compiler_or_a_driver_raises_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = pytest.importorskip("triton.runtime.errors")
    with (
        pytest.raises(RefusedError, match=r"OutOfResources: out of resource: shared memory") as it,
        refusals(),
    ):
        raise errors.OutOfResources(200000, 101376, "shared memory")
    assert not it.value.wrong
    with pytest.raises(RefusedError, match="RuntimeError: PassManager"), refusals():
        raise RuntimeError("PassManager::run failed")
    with pytest.raises(RefusedError, match=r"^wrong$") as it, refusals():
        raise RefusedError("wrong", wrong=True)
    assert it.value.wrong
    with pytest.raises(KeyError, match="mistake"), refusals():
        raise KeyError("mistake")

    def lost() -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.synchronize", lost)
    with (
        pytest.raises(BackendError, match="GPU failed while a kernel ran; got RuntimeError: x"),
        refusals(),
    ):
        raise RuntimeError("x")


def test_inputs_that_do_not_fit(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(problem: Problem, device: torch.device) -> Work:
        raise torch.OutOfMemoryError("tried to allocate 3 GiB")

    monkeypatch.setattr(tune_kernels, "Work", full)
    problem = problem_of(
        "grid", Plan(4, 4, 0, 1, 16), dtype="fp16", batch=1, blocks=1, device=device
    )
    with pytest.raises(OutOfMemoryError, match="inputs of 'grid'; got tried to allocate 3 GiB"):
        measure_with([problem], device, lambda run: 0.0)


def test_sets_of_inputs_exceed_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        L2_cache_size = 50 << 20

    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: Card())
    cuda = torch.device("cuda")
    found = [tune_kernels.sets_of(size << 20, cuda) for size in (1, 30, 80)]
    assert found == [8, 4, 2]


@pytest.mark.gpu
def test_a_timer_of_events_sees_work(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("no GPU")
    small, large = (torch.zeros(size, device=device) for size in (1 << 20, 1 << 28))
    times = [tune_kernels.cuda_seconds(lambda turn, x=x: x.add_(1)) for x in (small, large)]
    assert 0 < times[0] < times[1] < 1
