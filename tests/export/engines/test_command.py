from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.export.cli import main

pytestmark = pytest.mark.trt

Copy = Callable[..., Bundle]


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_table_and_json(rtx: Any, bundle_copy: Copy) -> None:
    bundle = bundle_copy("linear")
    shown = run("engine", bundle.path, "--engine", "rtx", "--sm", "89", "--batch", "1:2:4")
    assert shown.exit_code == 0, shown.output
    assert "built: engines/rtx-" in shown.output
    assert "sm89" in shown.output
    assert "Built, not run" in shown.output
    again = run("engine", bundle.path, "--sm", "89", "--batch", "1:2:4", "--json")
    assert again.exit_code == 0, again.output
    (engine,) = json.loads(again.stdout)["engines"]
    assert not engine["new"]
    assert engine["state"] == "built, not run"
    assert engine["family"] == "tensorrt_rtx"
    assert engine["compute_capabilities"] == [89]
    assert run("engine", bundle.path, "--sm", "89", "--batch", "1:2:4", "--quiet").output == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--engine", "trt"], "--engine; got 'trt'; expected rtx or tensorrt"),
        (["--sm", "ada"], "--sm; got 'ada'"),
        (["--sm", "90"], "TensorRT-RTX cannot build for sm90"),
        (["--batch", "4:2:1"], "--batch; got '4:2:1'"),
        (["--size", "100:200:300"], "profile of --size leaves out the golden slices"),
        (["--workspace", "lots"], "--workspace; got 'lots'"),
    ],
)
def test_wrong_arguments(rtx: Any, bundle_copy: Copy, args: list[str], message: str) -> None:
    bundle = bundle_copy("linear")
    result = run("engine", bundle.path, *args)
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert message in line
    assert Bundle.open(bundle.path).notes == ()


def test_missing_bundle(tmp_path: Path) -> None:
    result = run("engine", tmp_path / "none.autosam")
    assert result.exit_code == 2
    assert "no bundle at" in result.output
    assert "make one with autosam-export" in result.output


def test_wrong_engine_is_refused_before_the_export(tmp_path: Path) -> None:
    output = tmp_path / "x.autosam"
    result = run(
        *("--untrained", "--encoder", "vit_tiny", "--head", "linear", "-o", output),
        *("--fp16", "--engine", "rtx", "--sm", "eighty"),
    )
    assert result.exit_code == 2
    assert "--sm; got 'eighty'" in result.output
    assert not output.exists()


@pytest.mark.parametrize("option", [("--sm", "89"), ("--batch", "1:4:8"), ("--size", "64")])
def test_options_of_an_engine_that_nobody_asked_for(
    tmp_path: Path, option: tuple[str, str]
) -> None:
    result = run("--untrained", "--encoder", "vit_tiny", "--head", "linear", *option)
    assert result.exit_code == 2
    assert f"{option[0]} without --engine" in result.output


def test_an_engine_that_cannot_be_built_is_refused_before_the_export(
    rtx: Any, tmp_path: Path
) -> None:
    output = tmp_path / "x.autosam"
    result = run(
        *("--untrained", "--encoder", "vit_tiny", "--head", "linear", "-o", output),
        *("--fp16", "--engine", "rtx", "--sm", "90"),
    )
    assert result.exit_code == 2
    assert "cannot build for sm90" in result.output
    assert "reference segmenter" not in result.output
    assert not output.exists()


def test_export_with_an_engine_and_a_repository(rtx: Any, tmp_path: Path) -> None:
    output = tmp_path / "heart.autosam"
    result = run(
        *("--untrained", "--encoder", "vit_tiny", "--head", "linear", "-o", output, "--fp16"),
        *("--engine", "rtx", "--sm", "89", "--format", "triton", "--json"),
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    (engine,) = found["engines"]
    assert (engine["new"], engine["compute_capabilities"]) == (True, [89])
    assert Bundle.open(output).find("engine", "fp16") is not None
    assert found["triton"]["version"] == 1
    assert (tmp_path / "model_repository" / "heart" / "1" / "model.onnx").is_file()
