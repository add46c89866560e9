from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autosam_deploy.benchmarks import machine
from autosam_deploy.benchmarks.harness import environment
from autosam_deploy.benchmarks.harness.environment import (
    Heat,
    Watch,
    describe_machine,
    joined,
    load_doubts,
)


def test_this_machine_is_described() -> None:
    found = describe_machine(threads=3)
    assert found.threads == 3
    assert found.processor
    assert 1 <= found.usable_cores <= found.cores
    assert found.memory_gib > 0.5
    assert "numpy" in found.versions


def test_gpus_come_from_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    answer = subprocess.CompletedProcess(
        [], 0, "NVIDIA L4, 580.1, 23034, 2040, 72.00\nNVIDIA T4, 580.1, 15360, [N/A], [N/A]\n", ""
    )
    monkeypatch.setattr(machine.subprocess, "run", lambda *args, **options: answer)
    first, second = describe_machine(threads=1).gpus
    assert (first.name, first.memory_mib, first.clock_mhz, first.power_limit_w) == (
        "NVIDIA L4",
        23034,
        2040,
        72.0,
    )
    assert (second.clock_mhz, second.power_limit_w) == (None, None)
    broken = subprocess.CompletedProcess([], 9, "", "no driver")
    monkeypatch.setattr(machine.subprocess, "run", lambda *args, **options: broken)
    assert machine.gpu_query("name") == []
    assert machine.gpu_used_mib() is None


def test_memory_of_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    free = machine.available_bytes()
    (tmp_path / "memory.max").write_text("max\n", "ascii")
    (tmp_path / "memory.current").write_text("5000\n", "ascii")
    assert free is None or machine.available_bytes() is not None
    (tmp_path / "memory.max").write_text("9000\n", "ascii")
    assert machine.available_bytes() == 4000


def test_peak_is_of_this_process_alone() -> None:
    # A process of its own: this one may have had a higher peak before.
    code = (
        "from autosam_deploy.benchmarks import machine\n"
        "before = machine.peak_rss()\n"
        "block = bytearray(96 << 20)\n"
        "block[:: 1 << 12] = b'x' * len(block[:: 1 << 12])\n"
        "print(before, machine.peak_rss())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    before, after = map(int, done.stdout.split())
    assert before < 500 << 20
    assert after - before > 60 << 20


def test_other_work_is_told_from_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second in which all cores together worked 1.7 s, of which 0.5 were ours."""
    samples = iter(
        [(0.0, 10.0, (100.0, 1.0)), (1.0, 10.5, (101.7, 1.1)), (5.0, 11.0, None), (6.0, 12.0, None)]
    )
    monkeypatch.setattr(environment, "_sample", lambda: next(samples))
    watch = Watch()
    watch.begin()
    watch.end()
    assert watch.as_dict() == pytest.approx({"elapsed": 1, "other": 1.2, "stolen": 0.1})
    watch.begin()  # where the system says nothing, nothing is known
    watch.end()
    assert watch.as_dict() == pytest.approx({"elapsed": 2, "other": 0.6, "stolen": 0.05})


def test_doubts_of_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.os, "cpu_count", lambda: 2)
    assert load_doubts({"elapsed": 9.0, "other": 0.1, "stolen": 0.0}) == []
    assert load_doubts({"elapsed": 0.1, "other": 2.0, "stolen": 1.0}) == []
    assert load_doubts({"elapsed": 9.0, "other": 1.3, "stolen": 0.1}) == [
        "other work took 1.3 of 2 cores meanwhile",
        "the host took away 5% of the processor's time",
    ]
    whole = joined(
        [
            {"elapsed": 1.0, "other": 1.0, "stolen": 0.0},
            {"elapsed": 3.0, "other": 0.0, "stolen": 0.4},
        ]
    )
    assert whole == pytest.approx({"elapsed": 4, "other": 0.25, "stolen": 0.3})
    assert joined([])["elapsed"] == 0


def test_heat(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, clocks = iter([3, 5]), iter([3000.0, 2000.0])
    monkeypatch.setattr(machine, "throttle_count", lambda: next(counts))
    monkeypatch.setattr(machine, "clock_mhz", lambda: next(clocks))
    monkeypatch.setattr(
        machine, "gpu_query", lambda *fields: [["0x0000000000000001"], ["0x24"], ["[N/A]"]]
    )
    assert Heat().doubts() == [
        "the processor was slowed down for heat 2 times",
        "the processor's clock moved from 3000 to 2000 MHz",
        "the GPU's clock is held down: power limit, thermal limit (software)",
    ]
