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
    assert engine["state"] == "there already"
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
