"""What can be said about a handful of times: percentiles, spread, intervals, and when to doubt.

Times of one machine are not independent: neighbours in time share its clock and its other work. So
intervals are bootstrapped over turns (Davison & Hinkley 1997, section 8.2.3, blocks of a series),
not over single runs, wherever there are turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.benchmarks.harness.record import Latency

_RESAMPLES = 1000
#: Samples that a report keeps for its plots.
KEPT = 512
#: A coefficient of variation beyond this makes a median hard to believe.
MOST_CV = 0.05


def median_interval(
    turns: Sequence[Sequence[float]], *, seed: int = 0, resamples: int = _RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median of all values.

    Args:
        turns: values by turn; whole turns are drawn again. With one turn single values are.
        seed: of the draws.
        resamples: how often is drawn.

    Returns:
        Lower and upper bound; both the value itself where there is only one.
    """
    groups = [np.asarray(turn, float) for turn in turns if len(turn)]
    random = np.random.default_rng(seed)
    count = len(groups[0]) if len(groups) == 1 else len(groups)
    draws = (random.integers(count, size=count) for _ in range(resamples))
    if len(groups) == 1:
        medians = [float(np.median(groups[0][draw])) for draw in draws]
    else:
        medians = [float(np.median(np.concatenate([groups[n] for n in draw]))) for draw in draws]
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(low), float(high)


def is_stable(seconds: Sequence[float], *, within: float = 0.05) -> bool:
    """Tell whether warm-up may end: the later of the last runs are as fast as the earlier.

    Two runs on either side are compared by their medians where there are four, else the last two
    by themselves; the first run of all is never one of them.
    """
    later = list(seconds[1:])
    if len(later) >= 4:
        before, now = float(np.median(later[-4:-2])), float(np.median(later[-2:]))
    elif len(later) >= 2:
        before, now = later[-2], later[-1]
    else:
        return False
    return abs(now - before) <= within * before


def summarise(
    turns: Mapping[int, Sequence[float]],
    *,
    batch: int,
    warm_up_runs: int,
    device: Sequence[float] = (),
    seed: int = 0,
    resamples: int = _RESAMPLES,
) -> Latency:
    """Summarise runs as milliseconds a slice.

    Args:
        turns: number of the turn -> seconds of its runs.
        batch: slices a run.
        warm_up_runs: runs before these.
        device: seconds of the same runs on the device's clock, if it has one.
        seed: of the bootstrap.
        resamples: of the bootstrap; few do while more runs are to come.
    """
    scaled = {n: [1e3 * s / batch for s in runs] for n, runs in turns.items() if len(runs)}
    values: NDArray[np.float64] = np.concatenate([np.asarray(v) for v in scaled.values()])
    p50 = float(np.median(values))
    p90, p99 = (float(np.percentile(values, p, method="higher")) for p in (90, 99))
    mean = float(values.mean())
    kept = values[np.linspace(0, len(values) - 1, min(KEPT, len(values))).astype(int)]
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Latency(
        runs=len(values),
        seconds=round(float(sum(sum(runs) for runs in turns.values())), 4),
        warm_up_runs=warm_up_runs,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=mean,
        min_ms=float(values.min()),
        max_ms=float(values.max()),
        cv=spread / mean,
        interval_ms=median_interval(list(scaled.values()), seed=seed, resamples=resamples),
        slices_per_second=1e3 / p50,
        device_ms=1e3 * float(np.median(device)) / batch if device else None,
        samples_ms=[round(float(value), 5) for value in kept],
        rounds_ms={str(n): float(np.median(runs)) for n, runs in scaled.items()},
    )


def doubts(latency: Latency, *, stable: bool, wanted_runs: int) -> list[str]:
    """Return what makes a latency hard to believe, a sentence each."""
    found = []
    if latency.runs == 1:
        found.append("a single run: neither spread nor percentiles mean anything")
    elif latency.runs < wanted_runs:
        found.append(f"only {latency.runs} of {wanted_runs} runs fitted the time of a row")
    if latency.cv > MOST_CV:
        found.append(f"times vary by {latency.cv:.0%} (coefficient of variation, over 5 %)")
    if not stable:
        found.append("warm-up ended before times were stable")
    if latency.device_ms is not None and latency.device_ms < 0.7 * latency.p50_ms:
        share = 1 - latency.device_ms / latency.p50_ms
        found.append(f"{share:.0%} of a run is transfers and the host, not the device")
    return found


def ratio_of(
    mine: Mapping[str, float], anchor: Mapping[str, float], *, seed: int = 0
) -> tuple[float, tuple[float, float], int] | None:
    """Return my times over the anchor's in the turns that both took: median, interval, turns."""
    shared = sorted(mine.keys() & anchor.keys(), key=int)
    if not shared:
        return None
    ratios = [mine[turn] / anchor[turn] for turn in shared]
    interval = median_interval([ratios], seed=seed)
    return float(np.median(ratios)), interval, len(ratios)
