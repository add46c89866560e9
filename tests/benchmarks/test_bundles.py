from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from autosam_deploy.benchmarks import bundles
from autosam_deploy.spec import HeadKind


@pytest.fixture
def bundle(exported: Callable[[HeadKind], Path]) -> Path:
    return exported("linear")


def measured(tmp_path: Path, *args: str) -> tuple[list[dict[str, object]], str]:
    target = tmp_path / "found.json"
    options = ("--threads", "1", "--rounds", "2", "--size", "32", "--out", str(target))
    done = CliRunner(env={"COLUMNS": "120"}).invoke(bundles.main, [*args, *options])
    assert done.exit_code == 0, done.output
    rows: list[dict[str, object]] = json.loads(target.read_text("utf-8"))["rows"]
    return rows, done.stdout


def test_bundles_and_options_take_turns(bundle: Path, int8_bundle: Path, tmp_path: Path) -> None:
    rows, shown = measured(
        tmp_path,
        *(str(bundle), str(int8_bundle), "--precision", "fp32,int8"),
        *("--option", "arena=off", "--option", "spinning=off"),
    )
    names = [(row["bundle"], row["precision"], row["options"]) for row in rows]
    assert names == [
        (bundle.name, "fp32", {}),
        (int8_bundle.name, "fp32", {}),
        (bundle.name, "fp32", {"arena": "off"}),
        (bundle.name, "fp32", {"spinning": "off"}),
        (bundle.name, "int8", {}),
        (int8_bundle.name, "int8", {}),
        (bundle.name, "int8", {"arena": "off"}),
        (bundle.name, "int8", {"spinning": "off"}),
    ]
    assert rows[0]["times_first"] == rows[0]["labels_equal_first"] == 1
    assert rows[1]["labels_equal_first"] == 1
    assert rows[0]["lowering"] == "masked"
    # The first bundle has no int8 graph: its rows say so, and the other's is still measured.
    assert [row.get("problem", "")[:31] for row in rows[4:]] == [  # type: ignore[index]
        "the bundle has no int8 graph; g",
        "",
        "the bundle has no int8 graph; g",
        "the bundle has no int8 graph; g",
    ]
    assert rows[5]["times_first"] is None
    assert 0 < rows[5]["median_s"] < 10  # type: ignore[operator]
    assert "arena=off" in shown
    assert "the bundle has no int8 graph" in shown


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no bundles"),
        (["{bundle}", "--backend", "abacus"], "--backend; got abacus"),
        (["{bundle}", "--option", "speed=high"], "--option; got speed"),
        (["{bundle}", "--option", "arena=maybe"], "option 'arena' of backend 'onnxruntime'"),
        (["none.autosam"], "none.autosam"),
    ],
)
def test_wrong_arguments(bundle: Path, args: list[str], message: str) -> None:
    done = CliRunner().invoke(bundles.main, [one.format(bundle=bundle) for one in args])
    assert done.exit_code == 2
    assert message in done.stderr
