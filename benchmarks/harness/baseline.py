"""Is it slower than it was? Judged by intervals and by the machine's own speed, not by two numbers.

A change of a median is a regression when all of these hold:

* the bootstrap intervals of the two medians lie apart,
* the median grew by more than the margin (10 % unless asked otherwise),
* it still did after dividing by how much the machine's own matrix products slowed down between the
  two runs, where both runs measured that.

Ratios to peers are judged by the first two alone: turns have taken the machine out of them already.
Absolute numbers of another machine are not compared at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from autosam_deploy.benchmarks.harness.record import (
    Change,
    Compared,
    Machine,
    Report,
    Row,
    Verdict,
)
from autosam_deploy.errors import SpecError, UsageError
from autosam_deploy.strict import parse_spec

MARGIN = 0.10
_MOST_BYTES = 256 << 20
#: What makes a machine another machine.
_SAME = ("processor", "cores", "memory_gib", "threads")
Interval = tuple[float, float]


def read_report(path: Path, *, what: str = "report") -> Report:
    """Read a report.

    Raises:
        UsageError: no file, no report, or one of another version.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{what} '{path}' is too large", expected="under 256 MiB")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{what} '{path}' cannot be read", got=str(error)) from error
    try:
        return parse_spec(Report, text, what=f"{what} '{path}'")
    except SpecError as error:
        raise UsageError(str(error), todo="give a file of autosam-bench --json") from error


def other_machine(before: Machine, now: Machine) -> str | None:
    """Say what differs between two machines; None when they are one as far as one can tell."""
    for name in _SAME:
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            return f"{name}: {old} then, {new} now"
    old_gpus, new_gpus = ([gpu.name for gpu in one.gpus] for one in (before, now))
    if old_gpus != new_gpus:
        return f"GPUs: {', '.join(old_gpus) or 'none'} then, {', '.join(new_gpus) or 'none'} now"
    return None


def check_baseline(before: Report, now: Machine, *, peers: bool, file: Path) -> None:
    """Refuse, before anything is measured, a baseline that leaves nothing to compare.

    Raises:
        UsageError: it is from another machine, and there are no ratios in both runs.
    """
    difference = other_machine(before.machine, now)
    if difference is not None and not (peers and any(row.ratio for row in before.rows)):
        raise UsageError(
            f"baseline '{file}' is from another machine, and times of two machines do not compare",
            got=difference,
            todo="take a baseline here, or use --peers in both runs to compare ratios",
        )


def compare_reports(before: Report, now: Report, *, file: Path, margin: float = MARGIN) -> Compared:
    """Compare the rows that both reports have measured.

    Raises:
        UsageError: there is none.
    """
    difference = other_machine(before.machine, now.machine)
    refused = None if difference is None else f"another machine ({difference})"
    old = {row.key: row for row in before.rows}
    pairs = [(old[row.key], row) for row in now.rows if row.key in old]
    speed = _speed_change(before, now)
    changes = list(_ratios(pairs, margin))
    if refused is None:
        changes = [*_latencies(pairs, margin, speed), *_memory(pairs, margin), *changes]
    if not changes:
        raise UsageError(
            f"no row of baseline '{file}' was measured now",
            got=", ".join(row.key for row in now.rows) or "no rows",
            expected="; ".join(row.key for row in before.rows)[:300],
        )
    return Compared(
        file=str(file), created=before.created, margin=margin, refused=refused, changes=changes
    )


def _speed_change(before: Report, now: Report) -> dict[str, float]:
    """Return, by device, how many times faster its products in float32 are now."""
    rates = [
        {line.device: line.best for line in report.rooflines if line.dtype == "fp32"}
        for report in (before, now)
    ]
    return {device: rates[1][device] / rates[0][device] for device in rates[0].keys() & rates[1]}


def judge_change(
    before: float,
    now: float,
    intervals: tuple[Interval, Interval],
    *,
    margin: float,
    speed: float | None = None,
) -> tuple[Verdict, float | None, str]:
    """Judge one number, of which less is better.

    Args:
        before: the baseline's median.
        now: this run's median.
        intervals: of both medians.
        margin: relative change that matters.
        speed: how many times faster the machine itself is now; None where it is not known.

    Returns:
        Verdict (see `Change`), the change adjusted for `speed`, and a remark.
    """
    change = now / before - 1
    adjusted = None if speed is None else (now / before) * speed - 1
    apart = intervals[1][0] > intervals[0][1] or intervals[1][1] < intervals[0][0]
    worse = [change] if adjusted is None else [change, adjusted]
    if apart and min(worse) > margin:
        return "regression", adjusted, ""
    if apart and max(worse) < -margin:
        return "improvement", adjusted, ""
    if abs(change) <= margin:
        return "same", adjusted, ""
    if not apart:
        return "unclear", adjusted, "the intervals overlap"
    return "unclear", adjusted, f"the machine itself is {speed:.2f} times as fast as then"


def _latencies(
    pairs: Iterable[tuple[Row, Row]], margin: float, speed: dict[str, float]
) -> Iterable[Change]:
    for before, now in pairs:
        if before.latency is None or now.latency is None or now.role == "peer":
            continue
        verdict, adjusted, detail = judge_change(
            before.latency.p50_ms,
            now.latency.p50_ms,
            (before.latency.interval_ms, now.latency.interval_ms),
            margin=margin,
            speed=speed.get(now.device),
        )
        yield _change(
            now.key,
            "p50, ms a slice",
            before.latency.p50_ms,
            now.latency.p50_ms,
            verdict=verdict,
            adjusted=adjusted,
            detail=detail,
        )


def _memory(pairs: Iterable[tuple[Row, Row]], margin: float) -> Iterable[Change]:
    for before, now in pairs:
        if before.memory is None or now.memory is None or now.role == "peer":
            continue
        old, new = before.memory.peak_mib, now.memory.peak_mib
        # One peak is one number; memory does not drift like time.
        verdict, _, detail = judge_change(old, new, ((old, old), (new, new)), margin=margin)
        yield _change(now.key, "peak memory, MiB", old, new, verdict=verdict, detail=detail)


def _ratios(pairs: Iterable[tuple[Row, Row]], margin: float) -> Iterable[Change]:
    """Ratios are a peer's time over ours: less than before means that ours became slower."""
    for before, now in pairs:
        if before.ratio is None or now.ratio is None or before.ratio.anchor != now.ratio.anchor:
            continue
        inverse = [
            (1 / one.times, (1 / one.interval[1], 1 / one.interval[0]))
            for one in (before.ratio, now.ratio)
        ]
        verdict, _, detail = judge_change(
            inverse[0][0], inverse[1][0], (inverse[0][1], inverse[1][1]), margin=margin
        )
        yield _change(
            now.ratio.anchor,
            f"times '{now.backend}' of the same run",
            inverse[0][0],
            inverse[1][0],
            verdict=verdict,
            detail=detail,
        )


def _change(
    key: str,
    what: str,
    before: float,
    now: float,
    *,
    verdict: Verdict,
    adjusted: float | None = None,
    detail: str = "",
) -> Change:
    return Change(
        key=key,
        what=what,
        before=before,
        now=now,
        change=now / before - 1,
        adjusted=adjusted,
        verdict=verdict,
        detail=detail,
    )
