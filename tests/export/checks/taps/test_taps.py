from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import (
    BackendError,
    BundleError,
    DeviceUnavailableError,
    ExportError,
    OutOfMemoryError,
    OutputError,
)
from autosam_deploy.export.checks.taps import graph as tapping
from autosam_deploy.export.checks.taps.graph import tapped_graph
from autosam_deploy.export.checks.taps.ort import OrtTaps
from autosam_deploy.runtime.backend import Request
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.spec import HeadKind

Exported = Callable[[HeadKind], Path]
NAMES = ("input", "encoder.patches", "encoder.blocks.1", "encoder.neck", "head", "output")
CPU = Request(device="cpu", threads=1)


@pytest.fixture
def bundle(exported: Exported) -> Bundle:
    return Bundle.open(exported("linear"))


def artefact_of(bundle: Bundle, precision: Any = "fp32") -> Artefact:
    found = bundle.find("onnx", precision)
    assert found is not None
    return found


def leftovers() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("autosam-taps-*"))


def test_taps_do_not_change_the_outputs(bundle: Bundle) -> None:
    slices = np.random.default_rng(0).random((2, 1, 31, 45), np.float32) * 100
    runner = OrtTaps(bundle, CPU)
    with (
        tapped_graph(bundle, runner.artefact, NAMES) as (path, values),
        runner.opened(path) as info,
    ):
        onnx.checker.check_model(str(path), full_check=True)
        found = runner.run(slices, values)
    assert (info.device, info.precision, runner.artefact.precision) == ("cpu", "fp32", "fp32")
    assert tuple(found) == NAMES
    assert values["output"] == "logits"
    with Engine.open(bundle, device="cpu", threads=1) as engine:
        np.testing.assert_allclose(found["output"], engine.logits(slices), atol=1e-5)
    assert found["encoder.blocks.1"].shape == (2, 6, 6, 48)


def test_values_keep_the_graphs_precision(bundle: Bundle) -> None:
    runner = OrtTaps(bundle, Request(device="cpu", threads=1, precision="fp16"))
    with tapped_graph(bundle, runner.artefact, NAMES) as (path, values), runner.opened(path):
        found = runner.run(np.ones((1, 1, 20, 20), np.float32), values)
    dtypes = {name: str(array.dtype) for name, array in found.items()}
    assert dtypes["encoder.blocks.1"] == "float16"
    assert dtypes["input"] == dtypes["output"] == "float32"


def test_copy_goes_when_the_block_ends(bundle: Bundle) -> None:
    before = leftovers()
    with tapped_graph(bundle, artefact_of(bundle), NAMES) as (path, _):
        assert leftovers() - before == {path.parent}
    assert leftovers() == before
    with (
        pytest.raises(KeyboardInterrupt, match="now"),
        tapped_graph(bundle, artefact_of(bundle), NAMES),
    ):
        raise KeyboardInterrupt("now")
    assert leftovers() == before


def test_the_users_own_os_errors_are_not_the_disks(bundle: Bundle) -> None:
    with (
        pytest.raises(FileNotFoundError, match="weights"),
        tapped_graph(bundle, artefact_of(bundle), NAMES),
    ):
        raise FileNotFoundError("weights")


@pytest.mark.parametrize("linked", [True, False])
def test_weights_beside_the_graph_come_along(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "m.autosam"))
    model = onnx.load(folder / "model.fp32.onnx")
    onnx.save(
        model,
        folder / "model.fp32.onnx",
        save_as_external_data=True,
        location="model.fp32.onnx.data",
        size_threshold=500,  # shape inference wants the small ones inline
    )
    (artefact,) = [a for a in bundle.manifest.artefacts if a.file.path == "model.fp32.onnx"]
    data = artefact.file.model_copy(update={"path": "model.fp32.onnx.data"})
    beside = artefact.model_copy(update={"external_data": data})
    manifest = bundle.manifest.model_copy(update={"artefacts": (beside,)})
    if not linked:

        def refuse(*_: Any) -> None:
            raise OSError("links do not work here")

        monkeypatch.setattr(tapping.os, "link", refuse)
    big = Bundle(folder, manifest, "")
    runner = OrtTaps(big, CPU)
    with tapped_graph(big, runner.artefact, NAMES) as (path, values), runner.opened(path):
        assert path.stat().st_size < 200_000 < (path.parent / data.path).stat().st_size
        found = runner.run(np.ones((1, 1, 20, 20), np.float32), values)
    assert np.isfinite(found["output"]).all()
    assert (folder / data.path).is_file()


def test_graphs_of_older_versions_are_named(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "m.autosam"))
    model = onnx.load(folder / "model.fp32.onnx")
    for node in model.graph.node:
        node.input[:] = [name.replace("encoder.blocks.1", "add_7") for name in node.input]
        node.output[:] = [name.replace("encoder.blocks.1", "add_7") for name in node.output]
    onnx.save(model, folder / "model.fp32.onnx")
    old = Bundle(folder, bundle.manifest, "")
    with (
        pytest.raises(ExportError, match=r"got no value 'encoder\.blocks\.1'.*export the bundle a"),
        tapped_graph(old, artefact_of(old), NAMES),
    ):
        pass


def test_what_is_no_graph_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "model.fp32.onnx").write_bytes(b"hello")
    with (
        pytest.raises(BundleError, match="is no ONNX graph"),
        tapped_graph(Bundle(tmp_path, bundle.manifest, ""), artefact_of(bundle), NAMES),
    ):
        pass


def test_no_room_for_the_copy(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with (
        pytest.raises(OutputError, match=r"cannot write a copy of 'model.fp32.onnx'.*TMPDIR"),
        tapped_graph(bundle, artefact_of(bundle), NAMES),
    ):
        pass


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (Request(device="cpu", precision="bf16"), BackendError, "the bundle has no bf16 graph"),
        (Request(device="gpu"), DeviceUnavailableError, "unknown device; got 'gpu'"),
    ],
)
def test_what_the_backend_refuses(
    bundle: Bundle, request_: Request, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        OrtTaps(bundle, request_)


def test_running_needs_an_open_graph(bundle: Bundle) -> None:
    runner = OrtTaps(bundle, CPU)
    with pytest.raises(BackendError, match="the tapped graph is not loaded"):
        runner.run(np.ones((1, 1, 20, 20), np.float32), {"output": "logits"})
    with (
        tapped_graph(bundle, runner.artefact, NAMES) as (path, values),
        runner.opened(path),
        pytest.raises(BackendError, match="ONNX Runtime failed"),
    ):
        runner.run(np.ones((1, 20, 20), np.float32), values)
    with pytest.raises(BackendError, match="the tapped graph is not loaded"):
        runner.run(np.ones((1, 1, 20, 20), np.float32), {"output": "logits"})


def test_full_memory_is_told_from_other_failures(bundle: Bundle) -> None:
    class Full:
        def run(self, *_: Any) -> None:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 9")

    runner = OrtTaps(bundle, CPU)
    with (
        tapped_graph(bundle, runner.artefact, NAMES) as (path, values),
        runner.opened(path),
    ):
        runner._session = Full()
        with pytest.raises(OutOfMemoryError, match="a batch of 1 slices does not fit"):
            runner.run(np.ones((1, 1, 20, 20), np.float32), values)
