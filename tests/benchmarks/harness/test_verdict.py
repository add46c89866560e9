from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autosam_deploy.benchmarks.harness.record import (
    BundleRecord,
    Change,
    Compared,
    Judged,
    Parity,
    Roofline,
    Row,
)
from autosam_deploy.benchmarks.harness.verdict import (
    conclude,
    with_bundle_problems,
    with_rooflines,
    with_status,
)

MakeRow = Callable[..., Row]


def parity(*failures: str) -> Parity:
    return Parity(
        inputs="golden",
        slices=1,
        truth="torch fp32",
        reference="float64",
        reference_error=0.0,
        gate=1e-4,
        failures=list(failures),  # type: ignore[arg-type]
        detail="too far" if failures else "",
    )


def missed(*, met: bool = False) -> Judged:
    return Judged(target="t", what="p50", limit=1.0, found=2.0, met=met, margin=-1.0)


def verdict(*rows: Row, **options: Any) -> tuple[int, str]:
    return conclude(with_status(list(rows)), **options)


def test_all_is_well(make_row: MakeRow) -> None:
    rows = (make_row(parity=[parity()], targets=[missed(met=True)]), make_row("eager", role="peer"))
    assert verdict(*rows) == (0, "1 of 1 measured rows passed")


@pytest.mark.parametrize(
    ("fields", "status", "code", "text"),
    [
        ({"parity": []}, "parity", 2, "parity failed"),
        ({"parity": None, "failures": ("values",)}, "parity", 2, "parity failed"),
        ({"targets": True}, "missed", 3, "target missed"),
        ({"status": "failed"}, "failed", 4, "could not be measured"),
        ({"status": "unavailable", "asked": True}, "unavailable", 4, "asked for and not available"),
        ({"status": "unavailable"}, "unavailable", 4, "nothing was shown"),
    ],
)
def test_one_row_each(
    make_row: MakeRow, fields: dict[str, Any], status: str, code: int, text: str
) -> None:
    failures = fields.pop("failures", ())
    fields["parity"] = fields.get("parity", [parity()]) if not failures else [parity(*failures)]
    if fields.pop("targets", False):
        fields["targets"] = [missed()]
    row = make_row(**fields)
    assert with_status([row])[0].status == status
    found, sentence = verdict(row)
    assert found == code
    assert text in sentence


def test_a_peer_is_not_judged(make_row: MakeRow) -> None:
    good = make_row(parity=[parity()])
    peer = make_row("autocast", role="peer", parity=[parity("values")])
    assert with_status([peer])[0].status == "measured"
    assert verdict(good, peer)[0] == 0
    broken = make_row("compile", role="peer", status="failed")
    assert verdict(good, broken)[0] == 0


def test_what_is_not_there_is_an_error_only_when_asked_for(make_row: MakeRow) -> None:
    good = make_row(parity=[parity()])
    absent = make_row("tensorrt", status="unavailable")
    assert verdict(good, absent)[0] == 0
    asked = absent.model_copy(update={"asked": True})
    assert verdict(good, asked) == (4, "asked for and not available: heart/tensorrt/b1")
    code, text = verdict(good, absent, asked=("onnxruntime", "tensorrt"))
    assert (code, text) == (4, "asked for and not available: tensorrt")
    assert verdict(good, asked=("all",))[0] == 0


def test_parity_before_environment_before_latency(make_row: MakeRow) -> None:
    slow = make_row("a", parity=[parity()], targets=[missed()])
    broken = make_row("b", status="failed")
    wrong = make_row("c", parity=[parity("labels")])
    assert verdict(slow, broken)[0] == 4
    assert verdict(slow, broken, wrong)[0] == 2
    code, text = verdict(slow, wrong)
    assert code == 2
    assert text == "parity failed: heart/c/b1; target missed: heart/a/b1"


def test_targets_that_nothing_was_about_and_regressions(make_row: MakeRow) -> None:
    good = make_row(parity=[parity()])
    code, text = verdict(good, unmatched=["gpu", "gpu"])
    assert (code, text) == (3, "targets that no row was about: gpu")
    change = Change(
        key="k", what="p50", before=1.0, now=2.0, change=1.0, adjusted=None, verdict="regression"
    )
    compared = Compared(file="old.json", created="then", margin=0.1, changes=[change])
    code, text = verdict(good, compared=compared)
    assert (code, text) == (3, "slower or larger than the baseline: k (p50 +100%)")
    fine = change.model_copy(update={"verdict": "unclear"})
    assert verdict(good, compared=compared.model_copy(update={"changes": [fine]}))[0] == 0


def test_a_tampered_bundle_fails_every_row(make_row: MakeRow) -> None:
    rows = [make_row(parity=[parity()]), make_row("eager", role="peer", parity=[parity()])]
    found = with_bundle_problems(rows, {"heart": ["golden labels are others"]})
    assert found[0].parity[0].failures == ["golden"]
    assert found[0].parity[0].detail == "golden labels are others"
    assert found[1].parity[0].failures == []
    assert conclude(with_status(found))[0] == 2
    assert with_bundle_problems(rows, {"heart": []}) == rows


def test_share_of_the_roofline(make_row: MakeRow, bundle_record: BundleRecord) -> None:
    lines = [
        Roofline(device="cpu", dtype="fp32", gflops=[90, 94.2], by="torch"),
        Roofline(device="cpu", dtype="bf16", gflops=[942.0], by="torch"),
    ]
    rows = [
        make_row(ms=20_000),
        make_row(ms=20_000, precision="bf16"),
        make_row(ms=20_000, precision="fp16"),  # no rate of its own: products in float32
        make_row(ms=20_000, device="cuda:0"),
        make_row(ms=5_000),
        make_row(ms=20_000, precision="int8"),
    ]
    found = with_rooflines(rows, [bundle_record], lines)
    shares = [one.roofline_share for one in found]
    assert shares == [pytest.approx(0.5), pytest.approx(0.05), pytest.approx(0.5), None, 2.0, None]
    lines.append(Roofline(device="cpu", dtype="int8", gflops=[942.0], by="onnxruntime"))
    assert with_rooflines(rows[-1:], [bundle_record], lines)[0].roofline_share == pytest.approx(
        0.05
    )
    assert found[0].warnings == []
    assert "faster than the measured roofline" in found[4].warnings[0]
