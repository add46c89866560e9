from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from autosam_deploy.bundle.manifest import MANIFEST
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.export.cli import main
from autosam_deploy.files import sha256_file, write_json
from autosam_deploy.spec import HeadKind

Exported = Callable[[HeadKind], Path]


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def broken(exported: Exported, tmp_path: Path) -> Path:
    """A bundle in whose fp32 graph one weight of block 1 is a fifth larger."""
    folder = tmp_path / "broken.autosam"
    shutil.copytree(exported("linear"), folder)
    path = folder / "model.fp32.onnx"
    model = onnx.load(path)
    (weight,) = [w for w in model.graph.initializer if w.name == "encoder.blocks.1.expand.weight"]
    array = numpy_helper.to_array(weight) * np.float32(1.2)
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(model, path)
    manifest = Bundle.open(exported("linear")).manifest
    artefacts = []
    for artefact in manifest.artefacts:
        if artefact.file.path == path.name:
            file = artefact.file.model_copy(
                update={"sha256": sha256_file(path), "bytes": path.stat().st_size}
            )
            artefact = artefact.model_copy(update={"file": file})
        artefacts.append(artefact)
    changed = manifest.model_copy(update={"artefacts": tuple(artefacts)})
    write_json(folder / MANIFEST, changed.model_dump(mode="json", exclude_none=True))
    return folder


def test_every_block_agrees(exported: Exported) -> None:
    result = run("verify", exported("linear"), "--bisect")
    assert result.exit_code == 0, result.output
    assert "every block agrees with PyTorch" in result.output
    plain = run("verify", exported("linear"), "--json")
    assert json.loads(plain.stdout)["bisection"] is None


def test_the_broken_block_is_named(broken: Path) -> None:
    result = run("verify", broken, "--bisect", "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout[: result.stdout.rindex("}") + 1])
    assert found["bisection"]["first_bad"] == "encoder.blocks.1"
    plain = run("verify", broken)
    assert plain.exit_code == 2
    assert "add --bisect to see where it begins" in plain.output


def test_no_bisection_where_nothing_can_look(exported: Exported) -> None:
    result = run("verify", exported("linear"), "--backend", "torch", "--bisect")
    assert result.exit_code == 2
    assert "nothing looks between the blocks on this backend" in result.output


def test_a_precision_that_export_never_judged_has_no_gate(exported: Exported) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    result = run("verify", exported("linear"), "--backend", "openvino", "--precision", "bf16")
    assert result.exit_code == 2
    # A CPU without bf16 says that instead; neither is judged by the gate of another precision.
    assert "has no gate for bf16; got gates for fp32, fp16" in result.output or (
        "this CPU has no bf16 arithmetic" in result.output
    )


def test_a_record_that_is_none(exported: Exported, tmp_path: Path) -> None:
    folder = tmp_path / "x.autosam"
    shutil.copytree(exported("linear"), folder)
    size = (folder / "parity.json").stat().st_size
    (folder / "parity.json").write_text("{}".ljust(size), "utf-8")
    result = run("inspect", folder)
    assert result.exit_code == 2
    assert "parity.json" in result.output
    assert "export the bundle again" in result.output
