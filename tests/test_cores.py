from __future__ import annotations

from pathlib import Path

import pytest

from autosam_deploy.cores import usable_cores


@pytest.fixture
def cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight hardware threads on four cores; this process may use six of them on three cores."""
    for cpu in range(8):
        topology = tmp_path / "cpu" / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 4, 5, 6}, raising=False)
    return tmp_path / "cpu"


def test_threads_of_one_core_count_once(cpus: Path, tmp_path: Path) -> None:
    assert usable_cores(cpus=cpus, cgroup=tmp_path / "none") == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [("200000 100000", 2), ("max 100000", 3), ("50000 100000", 1), ("900000 100000", 3)],
)
def test_quota_of_a_container(cpus: Path, tmp_path: Path, text: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert usable_cores(cpus=cpus, cgroup=tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 3), ("200000", 2)])
def test_quota_of_version_1(cpus: Path, tmp_path: Path, quota: str, expected: int) -> None:
    (cpus / "cpu.cfs_quota_us").write_text(quota)
    (cpus / "cpu.cfs_period_us").write_text("100000")
    assert usable_cores(cpus=cpus, cgroup=tmp_path) == expected


def test_without_topology_every_thread_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 9}, raising=False)
    assert usable_cores(cpus=tmp_path, cgroup=tmp_path) == 2


def test_without_affinity_all_cores_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert usable_cores(cpus=tmp_path, cgroup=tmp_path) == 5
