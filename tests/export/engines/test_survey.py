from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from autosam_deploy.export.engines.survey import build_one, main, survey_row, write_graph

pytestmark = pytest.mark.trt


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_a_row_is_what_the_builder_said(rtx: Any, tmp_path: Path) -> None:
    output = tmp_path / "survey.json"
    result = run(
        *("--encoder", "vit_tiny", "--head", "linear", "--only", "augmented/fp16"),
        *("--batch", "2", "--side", "64", "-o", output),
    )
    assert result.exit_code == 0, result.output
    assert "MB a slice" in result.stdout
    (row,) = json.loads(output.read_text("utf-8"))["rows"]
    assert (row["lowering"], row["precision"], row["batch"]) == ("augmented", "fp16", 2)
    assert row["attentions"] == 4
    assert row["activation_bytes"] > 100_000
    assert row["plan_bytes"] > 100_000


def test_a_build_that_takes_too_long_is_a_row(rtx: Any, tmp_path: Path) -> None:
    row = survey_row(tmp_path / "none.onnx", batch=1, side=64, sm=89, limit_s=0.01)
    assert row == {"problem": "no engine within 0 s"}


def test_a_build_that_fails_is_a_row(rtx: Any, tmp_path: Path) -> None:
    row = survey_row(tmp_path / "none.onnx", batch=1, side=64, sm=89, limit_s=60)
    assert "cannot read 'none.onnx'" in row["problem"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--only", "augmented"], "--only; got 'augmented'; expected some of plain/fp16"),
        (["--batch", "1,x"], "--batch; got '1,x'; expected numbers by comma"),
        (["--batch", "0"], "--batch; got '0'"),
        (["--sm", "90"], "TensorRT-RTX cannot build for sm90"),
    ],
)
def test_wrong_arguments(rtx: Any, args: list[str], message: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.slow
def test_vit_b_stays_small(rtx: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = tmp_path / "vit_b.onnx"
    write_graph(
        graph,
        encoder="vit_b",
        head="autosam",
        num_classes=4,
        lowering="augmented",
        precision="fp16",
    )
    for sm in (89, 120):
        for batch in (1, 8):
            row = build_one(graph, batch=batch, side=1024, sm=sm)
            # Four global blocks in three groups of heads, eight with windows in two.
            assert row["attentions"] == 4 * 3 + 8 * 2
            assert row["low_share"] > 0.8
            megabytes = row["activation_bytes"] / 1e6 / batch
            assert megabytes <= 100
            with capsys.disabled():
                click.echo(
                    f"\nViT-B fp16 sm{sm} batch {batch}: built in {row['seconds']} s, plan "
                    f"{row['plan_bytes'] / 1e6:.0f} MB, activations {megabytes:.0f} MB a slice, "
                    f"{row['low_share']:.1%} of computing layers in fp16"
                )
