"""What else the machine is doing while it is measured: other work, stolen time, heat."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autosam_deploy.benchmarks import machine
from autosam_deploy.benchmarks.harness.record import Gpu, Machine
from autosam_deploy.cores import usable_cores

#: Cores' worth of other work, as a share of all cores, beyond which times cannot be trusted.
MOST_OTHER = 0.10
_MOST_STOLEN = 0.02
_GPU_FIELDS = ("name", "driver_version", "memory.total", "clocks.sm", "power.limit")


def describe_machine(*, threads: int) -> Machine:
    """Return the machine record, GPUs and clocks included."""
    gpus = []
    for name, driver, memory, clock, power in machine.gpu_query(*_GPU_FIELDS):
        gpus.append(
            Gpu(
                name=name,
                driver=driver,
                memory_mib=int(_number(memory) or 0),
                clock_mhz=int(found) if (found := _number(clock)) is not None else None,
                power_limit_w=_number(power),
            )
        )
    return Machine(
        **machine.machine_record(threads=threads),
        usable_cores=usable_cores(),
        clock_mhz=machine.clock_mhz(),
        governor=machine.governor(),
        gpus=gpus,
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # nvidia-smi writes [N/A] for what a card does not tell
        return None


@dataclass
class Watch:
    """Cores' worth of work that was not ours, over one or many pieces of time.

    Used in the measuring process itself: what it and its threads burn is its own.
    """

    elapsed: float = 0.0
    other: float = 0.0
    stolen: float = 0.0

    def begin(self) -> None:
        """Start a piece."""
        self._at = _sample()

    def end(self) -> None:
        """End the piece."""
        before, now = self._at, _sample()
        self.elapsed += now[0] - before[0]
        if before[2] is not None and now[2] is not None:
            busy, own = now[2][0] - before[2][0], now[1] - before[1]
            self.other += max(0.0, busy - own)
            self.stolen += max(0.0, now[2][1] - before[2][1])

    def as_dict(self) -> dict[str, float]:
        """Return mean cores of other work and of time that a host took away."""
        whole = max(self.elapsed, 1e-9)
        return {
            "elapsed": self.elapsed,
            "other": self.other / whole,
            "stolen": self.stolen / whole,
        }


def _sample() -> tuple[float, float, tuple[float, float] | None]:
    spent = os.times()
    return time.perf_counter(), spent.user + spent.system, machine.cpu_times()


def load_doubts(found: dict[str, float]) -> list[str]:
    """Return warnings for what a watch saw.

    Short pieces say nothing: the system counts in hundredths of a second.
    """
    if found["elapsed"] < 0.5:
        return []
    cores = os.cpu_count() or 1
    doubts = []
    if found["other"] > MOST_OTHER * cores:
        doubts.append(f"other work took {found['other']:.1f} of {cores} cores meanwhile")
    if found["stolen"] > _MOST_STOLEN * cores:
        doubts.append(f"the host took away {found['stolen'] / cores:.0%} of the processor's time")
    return doubts


def joined(pieces: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return what many watches saw together, weighted by their time."""
    whole = sum(one["elapsed"] for one in pieces)
    mean = {
        name: sum(one[name] * one["elapsed"] for one in pieces) / max(whole, 1e-9)
        for name in ("other", "stolen")
    }
    return {"elapsed": whole, **mean}


class Heat:
    """Slowed clocks between two moments, where the processor or driver counts them."""

    def __init__(self) -> None:
        """Remember now."""
        self.count = machine.throttle_count()
        self.clock = machine.clock_mhz()

    def doubts(self) -> list[str]:
        """Return what happened since."""
        found = []
        if (more := machine.throttle_count() - self.count) > 0:
            found.append(f"the processor was slowed down for heat {more} times")
        now = machine.clock_mhz()
        if self.clock and now and abs(now - self.clock) > 0.1 * self.clock:
            found.append(f"the processor's clock moved from {self.clock:.0f} to {now:.0f} MHz")
        for row in machine.gpu_query("clocks_throttle_reasons.active"):
            reasons = _reasons(row[0])
            if reasons:
                found.append(f"the GPU's clock is held down: {reasons}")
        return found


#: Bits of NVML's clock event reasons that slow a card under load; idle and set clocks are none.
_SLOW: dict[int, str] = {
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x20: "thermal limit (software)",
    0x40: "thermal limit (hardware)",
    0x80: "power brake",
}


def _reasons(text: Any) -> str:
    try:
        bits = int(str(text), 16)
    except ValueError:
        return ""
    return ", ".join(name for bit, name in _SLOW.items() if bits & bit)
