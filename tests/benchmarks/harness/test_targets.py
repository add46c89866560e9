from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autosam_deploy.benchmarks.harness.record import (
    BundleRecord,
    GroundTruth,
    Judged,
    Machine,
    Parity,
    Row,
)
from autosam_deploy.benchmarks.harness.targets import (
    Target,
    device_name,
    judge_targets,
    load_targets,
    matches,
    packaged_text,
    parse_targets,
)
from autosam_deploy.benchmarks.harness.times import summarise
from autosam_deploy.errors import UsageError
from autosam_deploy.strict import parse_spec

MakeRow = Callable[..., Row]
Judge = Callable[..., list[Judged]]


def target(**fields: Any) -> Target:
    return parse_spec(Target, {"name": "t", **fields})


@pytest.fixture
def judged(machine: Machine, bundle_record: BundleRecord) -> Callable[..., list[Judged]]:
    """Factory: judged(target, row, others...) -> what was found for the first row."""

    def run(one: Target, *rows: Row) -> list[Judged]:
        found, unmatched = judge_targets((one,), list(rows), [bundle_record], machine)
        assert unmatched == []
        return found[0].targets

    return run


def test_margins_on_both_sides(judged: Judge, make_row: MakeRow) -> None:
    (met,) = judged(target(p50_ms=125), make_row())
    assert (met.met, met.margin) == (True, pytest.approx(0.2))
    (missed,) = judged(target(p50_ms=80), make_row())
    assert (missed.met, missed.margin) == (False, pytest.approx(-0.25))
    (fast,) = judged(target(slices_per_second=8), make_row())
    assert (fast.met, fast.found) == (True, pytest.approx(10))
    (slow,) = judged(target(slices_per_second=20), make_row())
    assert (slow.met, slow.margin) == (False, pytest.approx(-0.5))


def test_what_was_not_measured_is_not_met(judged: Judge, make_row: MakeRow) -> None:
    for name in ("end_to_end_ms", "device_mib", "max_dice_loss", "start_to_labels_s"):
        (one,) = judged(target(**{name: 0.5}), make_row())
        assert (one.met, one.found, one.detail) == (False, None, "was not measured")


def test_parity_gates_of_a_target(judged: Judge, make_row: MakeRow) -> None:
    parity = Parity(
        inputs="volumes",
        slices=3,
        truth="torch fp32",
        reference="float64",
        reference_error=1e-5,
        gate=1e-4,
        agreement=0.9995,
        dice=[1.0, None, 0.998],
        ground_truth=GroundTruth(truth_dice=[], row_dice=[], loss=0.002),
    )
    limits = {"min_agreement": 0.9999, "min_dice": 0.99, "max_dice_loss": 0.001}
    found = judged(target(**limits), make_row(parity=[parity]))
    assert [(one.found, one.met) for one in found] == [
        (0.9995, False),
        (0.998, True),
        (0.002, False),
    ]


def test_relative_targets_need_their_peer_in_turns(judged: Judge, make_row: MakeRow) -> None:
    wish = target(relative=[{"peer": "eager", "at_most": 0.5}])
    eager = make_row("eager", ms=300, role="peer")
    (one,) = judged(wish, make_row(), eager)
    assert (one.met, one.found) == (True, pytest.approx(1 / 3))
    assert "in 2 turns" in one.detail
    # The backend that is the same thing may stand for the peer.
    (one,) = judged(wish, make_row(), make_row("torch", ms=400))[:1]
    assert one.found == pytest.approx(1 / 4)
    (one,) = judged(wish, make_row())
    assert (one.met, one.found) == (False, None)
    assert one.detail == "peer 'eager' was not measured (--peers)"
    other = eager.model_copy(update={"latency": summarise({7: [0.3]}, batch=1, warm_up_runs=1)})
    (one,) = judged(wish, make_row(), other)
    assert (one.met, one.detail) == (False, "the two were not measured in turns")
    memory = target(relative=[{"peer": "eager", "measure": "memory", "at_most": 0.5}])
    (one,) = judged(memory, make_row(), make_row("eager", role="peer"))
    assert (one.met, one.found) == (False, 1.0)


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({}, True),
        ({"device": "amd epyc*"}, True),
        ({"device": "Intel*"}, False),
        ({"model": "vit_[bl]", "head": "autosam", "precision": "fp*", "batch": 1}, True),
        ({"model": "vit_h"}, False),
        ({"batch": 4}, False),
        ({"backend": "tensorrt"}, False),
    ],
)
def test_patterns(
    make_row: MakeRow,
    bundle_record: BundleRecord,
    machine: Machine,
    fields: dict[str, Any],
    fits: bool,
) -> None:
    assert matches(target(**fields), make_row(), bundle_record, machine) is fits


def test_rows_on_a_gpu_have_its_name(make_row: MakeRow, machine: Machine) -> None:
    assert device_name(make_row(device="cuda:0"), machine) == "NVIDIA L4"
    assert device_name(make_row(), machine) == "AMD EPYC 9R14"


def test_a_target_about_no_row_is_told(
    make_row: MakeRow, bundle_record: BundleRecord, machine: Machine
) -> None:
    found, unmatched = judge_targets(
        (target(model="vit_h", p50_ms=1),),
        [make_row(), make_row("eager", role="peer")],
        [bundle_record],
        machine,
    )
    assert unmatched == ["t"]
    assert found[0].targets == []


def test_packaged_targets_are_valid() -> None:
    names = {one.name for one in parse_targets(packaged_text(), name="targets.toml")}
    assert names == {"cpu", "gpu"}
    assert len(load_targets("cpu")[0].relative) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[[target]]\nname = "a"\np50 = 3',
            r"at 'target\.0\.p50'; got 3; expected Extra",
        ),
        ('[[target]]\nname = "a"\np50_ms = "fast"', r"at 'target\.0\.p50_ms'; got 'fast'"),
        ('[[target]]\nname = "a"\np50_ms = -1', r"at 'target\.0\.p50_ms'; got -1"),
        ("[[target]]\np50_ms = 1", r"at 'target\.0\.name'"),
        ("target = 3", r"at 'target'"),
        ("", r"at 'target'; .*Field required"),
        ("[[target]", r"is no TOML"),
        ('[[target]]\nname = "a"\n[[target.relative]]\npeer = "x"', r"relative\.0\.at_most"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=message):
        load_targets(str(path))


def test_no_such_target() -> None:
    with pytest.raises(UsageError, match=r"--target; got 'fast'; expected a .toml file, or one of"):
        load_targets("fast")
    with pytest.raises(UsageError, match=r"target file 'missing.toml' cannot be read"):
        load_targets("missing.toml")
