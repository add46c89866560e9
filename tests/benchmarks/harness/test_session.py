"""Rows in processes of their own: what goes wrong with one stays with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autosam_deploy.benchmarks.harness import session as sessions
from autosam_deploy.benchmarks.harness.child import ChildError
from autosam_deploy.benchmarks.harness.plan import Group, Options, RowPlan
from autosam_deploy.benchmarks.harness.record import Memory, Row
from autosam_deploy.benchmarks.harness.session import Session
from autosam_deploy.benchmarks.harness.standards import Standards

Run = Callable[..., dict[str, Row]]


@pytest.fixture
def run(tiny_standards: Standards, tmp_path: Path, fakes: str) -> Run:
    """Factory: run("right", "killed", timeout_s=3) -> rows by the fake's name."""

    def build(*names: str, **fields: Any) -> dict[str, Row]:
        bundle = tiny_standards.bundle
        rows = tuple(
            RowPlan(
                key=f"tiny/{name}/b1",
                label="tiny",
                bundle=bundle,
                role="peer" if name == "slow" else "bundle",
                backend=name,
                precision="fp32",
                batch=1,
                asked=True,
                loader=f"{fakes}:load_{name}",
            )
            for name in names
        )
        options: Options = replace(tiny_standards.options, **fields)
        seen: list[tuple[str, bool]] = []
        session = Session(
            Group("tiny", bundle, 1, rows), tiny_standards, options, folder=tmp_path, plain=None
        )
        found = session.run(lambda row, done: seen.append((row.key, done)))
        assert [row.key for row in found] == [plan.key for plan in rows]
        # Every row is told of as finished, once.
        assert sorted(key for key, done in seen if done) == sorted(plan.key for plan in rows)
        return {row.backend: row for row in found}

    return build


def test_one_bad_row_after_the_other(run: Run) -> None:
    rows = run("absent", "broken", "exits", "right", "killed", "fails_later")
    assert (rows["absent"].status, rows["absent"].reason) == (
        "unavailable",
        "there is no such library; install it",
    )
    assert (rows["broken"].status, rows["broken"].reason) == (
        "failed",
        "RuntimeError: this is nobody's fault",
    )
    assert rows["exits"].status == "failed"
    assert "ended with exit code 7" in rows["exits"].reason
    assert "the library says good-bye" in rows["exits"].reason
    assert rows["killed"].status == "failed"
    assert "ended by SIGKILL (often: no memory left)" in rows["killed"].reason
    assert rows["fails_later"].status == "failed"
    assert rows["fails_later"].reason == "the device fell off the bus"
    right = rows["right"]
    assert right.status == "running"  # judged at the end, by all that was found
    assert right.latency is not None
    assert right.latency.runs >= 3
    assert [one.failures for one in right.parity] == [[], []]
    assert right.end_to_end is not None
    assert set(right.end_to_end.stages_ms) == {"load", "preprocess", "run", "write"}
    assert right.end_to_end.p50_ms >= right.end_to_end.stages_ms["run"] > 0
    assert right.memory is not None
    assert 30 < right.memory.loaded_mib <= right.memory.peak_mib < 600
    assert right.cold is not None
    assert right.cold.start_to_labels_s > right.cold.load_s + right.cold.first_run_s > 0


def test_turns_ratio_and_the_clock_of_the_device(run: Run) -> None:
    rows = run("right", "slow")
    slow, right = rows["slow"], rows["right"]
    assert slow.status == "measured"
    assert slow.latency is not None
    assert right.latency is not None
    assert right.latency.rounds_ms.keys() >= slow.latency.rounds_ms.keys()
    assert slow.ratio is not None
    assert slow.ratio.anchor == right.key
    assert slow.ratio.times > 1.3
    assert slow.ratio.interval[0] <= slow.ratio.times <= slow.ratio.interval[1]
    assert right.ratio is None
    assert slow.latency.device_ms is not None
    assert slow.latency.device_ms < slow.latency.p50_ms - 4
    assert any("transfers and the host" in text for text in slow.warnings)
    # A peer runs what it is timed on, or the golden slices where nothing was prepared for it.
    assert [one.inputs for one in slow.parity] == ["golden"]


def test_a_row_that_hangs_is_ended(run: Run) -> None:
    rows = run("hangs", timeout_s=1.0)
    assert rows["hangs"].status == "failed"
    assert rows["hangs"].reason == "no answer within 1 s; the process was ended"


def test_memory_that_does_not_hold_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The anchor stays and takes part in every group of turns."""
    monkeypatch.setattr(sessions, "available_bytes", lambda: 1 << 20)
    rows = run("right", "slow")
    assert rows["slow"].ratio is not None
    assert rows["right"].latency is not None
    assert len(rows["right"].latency.rounds_ms) > len(rows["slow"].latency.rounds_ms)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("host", "device", "fits"),
    [(5000, 5000, True), (700, 5000, False), (5000, 700, False), (5000, None, True)],
)
def test_room_for_one_more(
    tiny_standards: Standards,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    host: float,
    device: float | None,
    fits: bool,
) -> None:
    """200 MiB there and 300 on the GPU; half as much again and 512 must be free."""
    monkeypatch.setattr(sessions, "available_bytes", lambda: host * 2**20)
    monkeypatch.setattr(sessions, "gpu_free_mib", lambda: device)
    group = Group("tiny", tiny_standards.bundle, 1, ())
    session = Session(group, tiny_standards, tiny_standards.options, folder=tmp_path, plain=None)
    memory = Memory(loaded_mib=1.0, peak_mib=200.0, device_mib=300.0)
    live = SimpleNamespace(row=SimpleNamespace(memory=memory))
    assert session._fits([live]) is fits  # type: ignore[list-item]


def test_apart_there_are_no_turns(run: Run) -> None:
    rows = run("right", "slow", apart=True)
    assert rows["slow"].latency is not None
    assert rows["slow"].ratio is None


def test_when_time_is_up_no_row_is_started(run: Run) -> None:
    rows = run("right", deadline=0.0)
    assert rows["right"].status == "unavailable"
    assert rows["right"].reason == "the time of this run is used up"


def test_a_plain_export_that_fails_costs_its_row(
    tiny_standards: Standards, tmp_path: Path, fakes: str
) -> None:
    def plain() -> Path:
        raise ChildError("the plain export failed: no memory")

    plan = RowPlan(
        "k", "tiny", tiny_standards.bundle, "peer", "onnx-plain", "auto", 1, False,
        loader=f"{fakes}:load_right", needs_plain=True,
    )  # fmt: skip
    group = Group("tiny", tiny_standards.bundle, 1, (plan,))
    session = Session(group, tiny_standards, tiny_standards.options, folder=tmp_path, plain=plain)
    (row,) = session.run(lambda row, done: None)
    assert (row.status, row.reason) == ("failed", "the plain export failed: no memory")
