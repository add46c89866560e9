from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosam_deploy.benchmarks.harness.baseline import (
    check_baseline,
    compare_reports,
    judge_change,
    other_machine,
    read_report,
)
from autosam_deploy.benchmarks.harness.record import (
    Machine,
    Memory,
    Ratio,
    Report,
    Roofline,
    Row,
)
from autosam_deploy.benchmarks.harness.times import summarise
from autosam_deploy.errors import UsageError
from autosam_deploy.files import write_json

MakeRow = Callable[..., Row]
MakeReport = Callable[..., Report]
OLD = Path("old.json")


def turns(mean: float, cv: float, seed: int) -> list[list[float]]:
    """A noisy machine: turns drift against each other, runs within a turn less."""
    random = np.random.default_rng(seed)
    return [
        list(mean * (1 + random.normal(0, cv)) * (1 + random.normal(0, cv / 2, 3)))
        for _ in range(10)
    ]


@pytest.mark.parametrize("cv", [0.02, 0.08])
@pytest.mark.parametrize("seed", range(8))
def test_two_percent_is_no_regression_and_thirty_is(
    make_row: MakeRow, make_report: MakeReport, cv: float, seed: int
) -> None:
    before = make_report([make_row(turns=turns(0.1, cv, seed))])
    for factor, verdicts in ((1.02, {"same", "unclear"}), (1.3, {"regression"})):
        now = make_report([make_row(turns=turns(0.1 * factor, cv, seed + 100))])
        latency, memory = compare_reports(before, now, file=OLD).changes
        assert latency.verdict in verdicts, latency
        assert memory.verdict == "same"


def test_faster_is_no_regression(make_row: MakeRow, make_report: MakeReport) -> None:
    before = make_report([make_row(turns=turns(0.1, 0.02, 0))])
    now = make_report([make_row(turns=turns(0.07, 0.02, 1))])
    assert compare_reports(before, now, file=OLD).changes[0].verdict == "improvement"


def test_overlapping_intervals_are_unclear() -> None:
    found = judge_change(1.0, 1.3, ((0.8, 1.25), (1.2, 1.4)), margin=0.1)
    assert found == ("unclear", None, "the intervals overlap")


def test_a_slower_machine_is_not_a_slower_model() -> None:
    apart = ((0.99, 1.01), (1.49, 1.51))
    assert judge_change(1.0, 1.5, apart, margin=0.1)[0] == "regression"
    verdict, adjusted, detail = judge_change(1.0, 1.5, apart, margin=0.1, speed=0.66)
    assert verdict == "unclear"
    assert adjusted == pytest.approx(-0.01)
    assert detail == "the machine itself is 0.66 times as fast as then"
    assert judge_change(1.0, 1.5, apart, margin=0.1, speed=0.98)[0] == "regression"


def test_speed_of_the_machine_is_read_from_both_reports(
    make_row: MakeRow, make_report: MakeReport
) -> None:
    def report(ms: float, rates: list[float]) -> Report:
        line = Roofline(device="cpu", dtype="fp32", gflops=rates, by="torch")
        return make_report([make_row(ms=ms)], rooflines=[line])

    found = compare_reports(report(100, [150, 160]), report(200, [70, 80]), file=OLD).changes[0]
    assert found.change == pytest.approx(1)
    assert found.adjusted == pytest.approx(0)
    assert found.verdict == "unclear"


def test_the_margin_is_the_users(make_row: MakeRow, make_report: MakeReport) -> None:
    before, now = make_report([make_row(ms=100)]), make_report([make_row(ms=130)])
    assert compare_reports(before, now, file=OLD).changes[0].verdict == "regression"
    assert compare_reports(before, now, file=OLD, margin=0.5).changes[0].verdict == "same"


def test_memory_that_grew(make_row: MakeRow, make_report: MakeReport) -> None:
    grown = Memory(loaded_mib=1.0, peak_mib=260.0)
    found = compare_reports(
        make_report([make_row()]), make_report([make_row(memory=grown)]), file=OLD
    )
    assert [one.verdict for one in found.changes] == ["same", "regression"]
    assert found.changes[1].change == pytest.approx(0.3)


def moved(machine: Machine, **fields: Any) -> Machine:
    return machine.model_copy(update=fields)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"processor": "Intel"}, "processor: AMD EPYC 9R14 then, Intel now"),
        ({"cores": 8}, "cores: 2 then, 8 now"),
        ({"threads": 1}, "threads: 2 then, 1 now"),
        ({"gpus": []}, "GPUs: NVIDIA L4 then, none now"),
    ],
)
def test_what_makes_another_machine(machine: Machine, fields: Any, text: str) -> None:
    assert other_machine(machine, moved(machine, **fields)) == text
    assert other_machine(machine, moved(machine, versions={"numpy": "3"}, load_before=9.0)) is None


def test_another_machine_is_refused_before_anything_runs(
    make_row: MakeRow, make_report: MakeReport, machine: Machine
) -> None:
    before, other = make_report([make_row()]), moved(machine, processor="Intel")
    check_baseline(before, machine, peers=False, file=OLD)
    with pytest.raises(UsageError, match=r"'old.json' is from another machine.*processor: AMD"):
        check_baseline(before, other, peers=True, file=OLD)
    with_ratio = make_report([make_row(), make_row("eager", role="peer", ratio=ratio(3.0))])
    with pytest.raises(UsageError, match="use --peers in both runs to compare ratios"):
        check_baseline(with_ratio, other, peers=False, file=OLD)
    check_baseline(with_ratio, other, peers=True, file=OLD)


def ratio(times: float) -> Ratio:
    return Ratio(
        anchor="heart/onnxruntime/b1",
        times=times,
        interval=(0.98 * times, 1.02 * times),
        turns=9,
    )


def test_ratios_hold_across_machines(
    make_row: MakeRow, make_report: MakeReport, machine: Machine
) -> None:
    """The peer was three times as slow as ours; here it is only twice."""

    def report(times: float, on: Machine) -> Report:
        rows = [make_row(ms=100), make_row("eager", role="peer", ratio=ratio(times))]
        return make_report(rows, machine=on)

    found = compare_reports(
        report(3.0, machine), report(2.0, moved(machine, processor="Intel")), file=OLD
    )
    assert found.refused == "another machine (processor: AMD EPYC 9R14 then, Intel now)"
    (change,) = found.changes
    assert change.what == "times 'eager' of the same run"
    assert (change.before, change.now) == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    assert change.verdict == "regression"


def test_nothing_in_common_is_an_error(make_row: MakeRow, make_report: MakeReport) -> None:
    with pytest.raises(UsageError, match=r"no row of baseline 'old.json' was measured now"):
        compare_reports(make_report([make_row("torch")]), make_report([make_row()]), file=OLD)


def test_reports_come_back_as_they_were(
    tmp_path: Path, make_row: MakeRow, make_report: MakeReport
) -> None:
    latency = summarise({0: [0.1]}, batch=1, warm_up_runs=1, device=[0.05])
    report = make_report([make_row(latency=latency, ratio=ratio(2.0))])
    write_json(tmp_path / "r.json", report.model_dump(mode="json"))
    assert read_report(tmp_path / "r.json") == report


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid at 'value'"),
        ("[1, 2]", "is not valid at 'value'"),
        ('{"report_version": 2}', "is not valid at 'report_version'; got 2; expected Input"),
        ('{"report_version": 1}', "'created'.*give a file of autosam-bench --json"),
    ],
)
def test_files_that_are_no_report(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.json").write_text(text, "utf-8")
    with pytest.raises(UsageError, match=message):
        read_report(tmp_path / "r.json", what="baseline")


def test_a_missing_baseline(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"baseline '.*none.json' cannot be read"):
        read_report(tmp_path / "none.json", what="baseline")
