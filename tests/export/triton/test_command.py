from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autosam_deploy.export.triton.command import triton_command


def run(*args: object) -> Result:
    return CliRunner().invoke(triton_command, [str(arg) for arg in args])


def test_default_repository_and_what_is_said(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(bundle)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "model_repository/linear/1/model.onnx").is_file()
    assert "fp16 is the best for a GPU" in result.output
    assert "note: random weights" in result.output
    served = f"tritonserver --model-repository='{tmp_path / 'model_repository'}'"
    assert served in result.output.replace("\n", "")


def test_json_and_every_option(
    bundle: Path, tmp_path: Path, with_engine: Callable[..., str]
) -> None:
    engine = with_engine(bundle)
    repo = tmp_path / "repo"
    args = (bundle, "-o", repo, "--name", "heart", "--platform", "tensorrt", "--precision", "fp16")
    more = ("--sm", 89, "--engine-file", engine, "--max-batch", 3, "--queue-delay-us", 7)
    last = ("--instances", 2, "--gpu", "--no-warmup", "--existing-config", "keep", "--json")
    result = run(*args, *more, *last)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["notes"][0].startswith("the engine runs with TensorRT 10.13.3.9")
    assert {name: found[name] for name in found if name != "notes"} == {
        "model": str(repo / "heart"),
        "version": 1,
        "platform": "tensorrt",
        "device": "gpu",
        "artefact": engine,
        "precision": "fp16",
        "reason": "fp16 was asked for",
        "max_batch_size": 3,
        "instances": 2,
    }
    config = (repo / "heart" / "config.pbtxt").read_text("utf-8")
    assert "max_queue_delay_microseconds: 7" in config
    assert "model_warmup" not in config
    assert run(*args, *more, *last, "--overwrite-version", 1).exit_code == 0
    assert [path.name for path in (repo / "heart").iterdir() if path.is_dir()] == ["1"]


def test_quiet(bundle: Path, tmp_path: Path) -> None:
    result = run(bundle, "-o", tmp_path / "repo", "-q", "--cpu")
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nowhere",), "error: no bundle at 'nowhere'; got nothing; expected a folder"),
        (("BUNDLE", "--name", "a b"), "error: --name; got 'a b'; expected up to 100 letters"),
        (("BUNDLE", "--max-batch", "0"), "error: --max-batch; got 0; expected 1 or more"),
        (("BUNDLE", "--precision", "bf16"), "error: the bundle has no bf16 graph; got graphs in"),
        (
            ("BUNDLE", "--platform", "tensorrt"),
            "error: the bundle has no TensorRT engine; run: autosam-export engine",
        ),
        (("BUNDLE", "--platform", "tensorrt", "--cpu"), "error: TensorRT engines run on GPUs"),
    ],
)
def test_errors_are_one_line(
    bundle: Path, tmp_path: Path, args: tuple[str, ...], message: str
) -> None:
    given = [bundle if arg == "BUNDLE" else arg for arg in args]
    result = run(*given, "-o", tmp_path / "repo")
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(message)
    assert not (tmp_path / "repo").exists()
