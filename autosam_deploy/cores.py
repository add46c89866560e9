"""How many threads are worth starting: physical cores, as far as this process may use them."""

from __future__ import annotations

import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")


def usable_cores(*, cpus: Path = _CPUS, cgroup: Path = _CGROUP) -> int:
    """Return how many physical cores this process may use, at least 1.

    Counts each core of the process's CPU affinity once, however many hardware threads it has (two
    threads of dense float32 work on one core only share its arithmetic units), and no more than a
    container's CPU quota: a container sees all cores of its host, and threads beyond its quota are
    stopped in turns.

    Args:
        cpus: Linux's description of the processors.
        cgroup: the root of the control groups as this process sees it.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = {_core(cpus, cpu) for cpu in os.sched_getaffinity(0)}
    quota = _quota(cgroup)
    return max(1, len(cores) if quota is None else min(len(cores), int(quota)))


def _core(cpus: Path, cpu: int) -> str:
    """Return a name that hardware threads of one core share."""
    text = _read(cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list")
    return text or str(cpu)


def _quota(cgroup: Path) -> float | None:
    """Return the CPUs' worth of time that a container may use (cgroup v2, then v1)."""
    limit, _, period = _read(cgroup / "cpu.max").partition(" ")
    if not limit:
        limit = _read(cgroup / "cpu" / "cpu.cfs_quota_us")
        period = _read(cgroup / "cpu" / "cpu.cfs_period_us")
    if not limit.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None
    return int(limit) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except OSError:
        return ""
