"""Recording what an engine gave, with the CPU in the place of the GPU that runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from autosam_deploy.bundle import writer
from autosam_deploy.bundle.manifest import MANIFEST, Artefact, EngineInfo
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import ExportError
from autosam_deploy.export.checks.record import record_run, state_of
from autosam_deploy.export.cli import main
from autosam_deploy.files import write_json
from autosam_deploy.runtime.backend import Outputs, Request
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.ort import OrtBackend
from autosam_deploy.runtime.selftest import read_parity
from autosam_deploy.spec import HeadKind

DEVICE = "cuda:0 is NVIDIA Pretended, sm89, 24.0 GiB"


class Pretended(OrtBackend):
    """Runs the fp16 graph and says that an engine did; `shift` makes it wrong."""

    shift = 0.0

    def pretend(self, engine: Artefact) -> None:
        self.info = replace(self.info, artefact=engine.file.path, notes=(DEVICE,))

    def _run(self, slices: np.ndarray, names: tuple[str, ...]) -> Outputs:
        found = super()._run(slices, names)
        if self.shift and "logits" in found:
            found["logits"] = found["logits"] + np.float32(self.shift)
        return found


@pytest.fixture
def bundle(exported: Callable[[HeadKind], Path], tmp_path: Path) -> Bundle:
    """A bundle with an engine whose plan is no plan."""
    folder = tmp_path / "x.autosam"
    shutil.copytree(exported("linear"), folder)
    opened = Bundle.open(folder)
    graph = next(a for a in opened.manifest.artefacts if a.precision == "fp16")
    (folder / "engines").mkdir()
    (folder / "engines" / "a.engine").write_bytes(b"plan")
    info = EngineInfo.made_of(
        family="tensorrt_rtx",
        version="1.7.1.116",
        platform="linux-x86_64",
        compute_capabilities=(89,),
        graph_sha256=graph.file.sha256,
        profile={"B": (1, 2, 4), "H": (16, 64, 128), "W": (16, 64, 128)},
        activation_bytes=1 << 20,
        layers=10,
        low_share=0.9,
        build_seconds=1.0,
    )
    engine = Artefact(
        kind="engine",
        precision="fp16",
        file=graph.file.model_copy(
            update={
                "path": "engines/a.engine",
                "bytes": 4,
                "sha256": "3d1e3a9b3b2c8f0ac2c6cd3b1d9a5fdb5a3fb62f6e0f3bb1e3a4c0c3d8f4a111",
            }
        ),
        engine=info,
    )
    manifest = opened.manifest.model_copy(
        update={"artefacts": (*opened.manifest.artefacts, engine)}
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json", exclude_none=True))
    return Bundle.open(folder, verify=False)


def engine_of(bundle: Bundle) -> Artefact:
    found = bundle.find("engine")
    assert found is not None
    return found


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[Engine]:
    backend = Pretended(bundle, Request(device="cpu", precision="fp16", threads=1))
    backend.pretend(engine_of(bundle))
    with Engine(bundle, backend) as opened:
        yield opened


def test_built_then_run(bundle: Bundle, engine: Engine) -> None:
    assert state_of(read_parity(bundle), engine_of(bundle)) == "built, not run"
    run = record_run(engine)
    assert run.comparison.passed
    again = Bundle.open(bundle.path, verify=False)
    assert again.notes == ()  # the old record is gone
    assert read_parity(again).engines == (run,)
    assert state_of(read_parity(again), engine_of(again)) == f"ran on {DEVICE}: passed"
    shown = CliRunner().invoke(main, ["inspect", str(bundle.path), "--json"])
    (found,) = [a for a in json.loads(shown.output)["artefacts"] if "gpu" in a]
    assert found["state"] == f"ran on {DEVICE}: passed"
    assert found["gpu"] == "sm89"
    assert found["B"] == "1..4"


def test_another_run_on_the_same_device_replaces_the_first(bundle: Bundle, engine: Engine) -> None:
    record_run(engine)
    engine.bundle = Bundle.open(bundle.path, verify=False)
    record_run(engine)
    assert len(read_parity(Bundle.open(bundle.path, verify=False)).engines) == 1


def test_a_wrong_engine_is_recorded_as_wrong(bundle: Bundle, engine: Engine) -> None:
    assert isinstance(engine.backend, Pretended)
    engine.backend.shift = 5.0
    run = record_run(engine)
    assert not run.comparison.passed
    assert "values" in run.comparison.failures
    again = Bundle.open(bundle.path, verify=False)
    assert state_of(read_parity(again), engine_of(again)) == f"ran on {DEVICE}: values"


def test_a_rebuilt_engine_has_no_run(bundle: Bundle, engine: Engine) -> None:
    run = record_run(engine)
    old = engine_of(bundle)
    new = old.model_copy(update={"file": old.file.model_copy(update={"sha256": "0" * 64})})
    known = read_parity(Bundle.open(bundle.path, verify=False))
    assert known.run_of(run.sha256) == run
    assert state_of(known, new) == "built, not run"


def test_a_stop_before_the_manifest_leaves_the_old_record(
    bundle: Bundle, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(path: Path, value: object) -> None:
        if path.name == MANIFEST:
            raise KeyboardInterrupt("stopped")
        write_json(path, value)

    monkeypatch.setattr(writer, "write_json", stop)
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        record_run(engine)
    again = Bundle.open(bundle.path, verify=False)
    assert read_parity(again).engines == ()


def test_only_engines_are_recorded(bundle: Bundle) -> None:
    with (
        Engine.open(bundle, device="cpu", threads=1) as opened,
        pytest.raises(ExportError, match="this backend runs none; got onnxruntime with 'model"),
    ):
        record_run(opened)


def test_command_says_what_is_missing(bundle: Bundle) -> None:
    result = CliRunner().invoke(main, ["verify", str(bundle.path), "--record"])
    assert result.exit_code == 2
    assert "was altered" in result.output  # the made-up plan's hash
