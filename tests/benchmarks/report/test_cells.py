from __future__ import annotations

from collections.abc import Callable

import pytest

from autosam_deploy.benchmarks.harness.record import Judged, Report, Row
from autosam_deploy.benchmarks.report.cells import (
    NONE,
    device,
    margin,
    number,
    row_name,
    share,
    smallest_dice,
    state,
    why,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, NONE),
        (0.0, "0"),
        (4.339e-05, "4.34e-05"),
        (0.01234, "0.0123"),
        (1.234, "1.23"),
        (97.25, "97.2"),
        (744.7, "745"),
        (6812.4, "6,812"),
        (2.5e7, "2.50e+07"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, NONE), (1.0, "100.00 %"), (0.9999999, "99.99 %"), (0.5, "50.00 %"), (0.0, "0.00 %")],
)
def test_almost_all_is_not_all(value: float | None, text: str) -> None:
    assert share(value) == text


def test_dice_is_not_rounded_up_to_one(full_report: Report) -> None:
    assert smallest_dice(full_report.rows[0]) == "0.9999"  # 0.99996


def test_states_and_reasons(full_report: Report) -> None:
    found = {row.backend: (state(row), why(row)) for row in full_report.rows}
    assert found["onnxruntime"] == ("passed", "")
    assert found["torch"][0] == "parity failed: values, labels"
    assert found["torch"][1].startswith("on golden inputs |logit difference| 4.1 exceeds")
    assert found["openvino"] == (
        "target missed",
        "p50, ms a slice: 100 (limit 80.0, 25% beyond)",
    )
    assert found["tensorrt"] == ("unavailable", "no <b>GPU</b> | here")
    assert found["eager"] == ("peer", "")


def test_a_row_without_comparison(make_row: Callable[..., Row]) -> None:
    assert state(make_row(status="parity")) == "parity failed: nothing was compared"


def test_margin_of_what_was_not_measured() -> None:
    one = Judged(
        target="t", what="p50", limit=1.0, found=None, met=False, margin=None, detail="no peer"
    )
    assert margin(one) == "p50: no peer"


def test_names_and_devices(
    make_row: Callable[..., Row], make_report: Callable[..., Report]
) -> None:
    row = make_row(provider="CPUExecutionProvider")
    assert device(row) == "cpu"
    assert (
        device(make_row(device="cuda:0", provider="TensorrtExecutionProvider")) == "cuda:0 Tensorrt"
    )
    assert device(make_row(device="")) == NONE
    report = make_report([row])
    assert row_name(row, report) == "onnxruntime fp32, batch 1"
    two = make_report([row], bundles=[*report.bundles, *report.bundles])
    assert row_name(row, two) == "heart: onnxruntime fp32, batch 1"
