from __future__ import annotations

import numpy as np
import pytest

from autosam_deploy.benchmarks.harness.record import Latency
from autosam_deploy.benchmarks.harness.times import (
    KEPT,
    doubts,
    is_stable,
    median_interval,
    ratio_of,
    summarise,
)


def noisy(mean: float, cv: float, *, turns: int = 10, runs: int = 4, seed: int = 0) -> list:
    random = np.random.default_rng(seed)
    return [list(mean * (1 + random.normal(0, cv, runs))) for _ in range(turns)]


def latency(turns: list, **options: object) -> Latency:
    return summarise(dict(enumerate(turns)), batch=1, warm_up_runs=2, **options)  # type: ignore[arg-type]


def test_interval_holds_the_median_and_narrows_with_runs() -> None:
    few, many = noisy(1, 0.1, turns=5), noisy(1, 0.1, turns=80)
    for turns in (few, many):
        low, high = median_interval(turns)
        assert low <= np.median(np.concatenate(turns)) <= high
    assert np.ptp(median_interval(many)) < np.ptp(median_interval(few)) / 2


def test_interval_is_seeded() -> None:
    turns = noisy(1, 0.1)
    assert median_interval(turns, seed=3) == median_interval(turns, seed=3)
    assert median_interval([[2.0]]) == (2.0, 2.0)


def test_turns_are_drawn_whole() -> None:
    """Two turns at two speeds: a hundred runs of each say no more than two numbers do."""
    low, high = median_interval([[1.0] * 100, [2.0] * 100])
    assert (low, high) == (1.0, 2.0)


def test_coverage_is_near_what_it_says() -> None:
    inside = 0
    for seed in range(60):
        low, high = median_interval(noisy(1, 0.1, turns=12, runs=3, seed=seed))
        inside += low <= 1 <= high
    assert inside / 60 > 0.85


def test_summary_is_per_slice() -> None:
    found = summarise({0: [0.2, 0.4], 3: [0.4, 0.6]}, batch=2, warm_up_runs=1, device=[0.1, 0.3])
    assert found.p50_ms == pytest.approx(200)
    assert (found.min_ms, found.max_ms) == pytest.approx((100, 300))
    assert found.p90_ms == found.p99_ms == pytest.approx(300)
    assert found.slices_per_second == pytest.approx(5)
    assert found.device_ms == pytest.approx(100)
    assert found.rounds_ms == pytest.approx({"0": 150, "3": 250})
    assert (found.runs, found.warm_up_runs) == (4, 1)
    assert found.seconds == pytest.approx(1.6)
    assert found.cv == pytest.approx(np.std([100, 200, 200, 300], ddof=1) / 200)


def test_a_report_keeps_some_hundred_samples() -> None:
    found = latency([list(np.linspace(1, 2, 5000))])
    assert len(found.samples_ms) == KEPT
    assert (found.samples_ms[0], found.samples_ms[-1]) == (1000, 2000)


@pytest.mark.parametrize(
    ("seconds", "stable"),
    [
        ([1.0], False),
        ([9.0, 1.0], False),  # the first run is never one that counts
        ([9.0, 1.0, 1.02], True),
        ([9.0, 1.0, 1.2], False),
        ([9.0, 2.0, 1.5, 1.0, 1.01], False),
        ([9.0, 2.0, 1.0, 1.01, 1.0, 1.0], True),
    ],
)
def test_warm_up_ends_when_times_stay(seconds: list[float], stable: bool) -> None:
    assert is_stable(seconds) is stable


def test_doubts() -> None:
    quiet = latency(noisy(1, 0.01))
    assert doubts(quiet, stable=True, wanted_runs=10) == []
    assert doubts(quiet, stable=False, wanted_runs=10) == ["warm-up ended before times were stable"]
    (text,) = doubts(latency(noisy(1, 0.2)), stable=True, wanted_runs=10)
    assert text.startswith("times vary by ")
    assert doubts(latency([[1.0]]), stable=True, wanted_runs=3)[0].startswith("a single run")
    (text,) = doubts(latency([[1.0, 1.0]]), stable=True, wanted_runs=3)
    assert text == "only 2 of 3 runs fitted the time of a row"
    moved = latency([[1.0, 1.0]], device=[0.25, 0.25])
    (text,) = doubts(moved, stable=True, wanted_runs=2)
    assert text == "75% of a run is transfers and the host, not the device"


def test_ratios_are_taken_turn_by_turn() -> None:
    """Both slow down threefold in the middle; their ratio does not."""
    anchor = {str(n): 1.0 if n < 5 else 3.0 for n in range(10)}
    mine = {n: 2 * value for n, value in anchor.items()}
    assert ratio_of(mine, anchor) == (2.0, (2.0, 2.0), 10)
    assert ratio_of({"3": 4.0, "11": 9.0}, anchor) == (4.0, (4.0, 4.0), 1)
    assert ratio_of({"11": 1.0}, anchor) is None
