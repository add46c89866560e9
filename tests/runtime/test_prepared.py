from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError
from autosam_deploy.runtime import ort, prepared
from autosam_deploy.runtime.backend import Request
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.ort import OrtBackend
from autosam_deploy.runtime.ort_options import OrtOptions
from autosam_deploy.runtime.providers import open_session
from autosam_deploy.spec import HeadKind

Exported = Callable[[HeadKind], Path]
SLICES = np.random.default_rng(0).integers(-300, 1900, (2, 40, 56)).astype(np.float32)


def opened(path: Path, folder: Path | None, **fields: Any) -> Engine:
    options = {} if folder is None else {"prepared": folder}
    return Engine.open(path, device="cpu", threads=1, options=options, **fields)


def logits(path: Path, folder: Path | None, **fields: Any) -> tuple[np.ndarray, str]:
    """Return what a new engine computes, and its note on the prepared graph."""
    with opened(path, folder, **fields) as engine:
        return engine.logits(SLICES), " ".join(engine.info.notes)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_same_logits_to_the_last_bit(exported: Exported, tmp_path: Path, precision: Any) -> None:
    path = exported("cnn")
    expected, note = logits(path, None, precision=precision)
    assert note == ""
    for state in ("made", "used"):
        found, note = logits(path, tmp_path / "cache", precision=precision)
        assert note.endswith(f"({state})")
        assert np.array_equal(found, expected)
        # Other sizes than the first.
        with opened(path, tmp_path / "cache", precision=precision) as engine:
            assert engine.labels(SLICES[:1, :7, :5]).shape == (1, 7, 5)


def test_it_is_really_loaded_from_there(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Path, bool]] = []
    real = open_session

    def spy(library: Any, path: Path, **fields: Any) -> Any:
        seen.append((path, fields["optimised"]))
        return real(library, path, **fields)

    monkeypatch.setattr(ort, "open_session", spy)
    logits(exported("cnn"), tmp_path)
    logits(exported("cnn"), None)
    (place,) = tmp_path.glob("*/graph")
    assert seen == [
        (place / "model.onnx", True),
        (exported("cnn") / "model.fp32.onnx", False),
    ]
    assert {one.name for one in place.iterdir()} == {"model.onnx", "model.weights", "record.json"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_are_mapped_from_the_file(exported: Exported, tmp_path: Path) -> None:
    """So that processes share them, and only what is used is in memory."""
    with opened(exported("cnn"), tmp_path) as engine:
        engine.labels(SLICES)
        maps = Path("/proc/self/maps").read_text("ascii")
    (weights,) = tmp_path.glob("*/graph/model.weights")
    assert str(weights) in maps


def test_folder_says_what_it_fits(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported("cnn")
    logits(path, tmp_path)
    logits(path, tmp_path, precision="fp16")
    (tmp_path / "cpuinfo").write_text("model name\t: Another CPU\nflags\t\t: sse2\n", "utf-8")
    monkeypatch.setattr(prepared, "_CPUINFO", tmp_path / "cpuinfo")
    logits(path, tmp_path)
    names = sorted(one.name for one in tmp_path.iterdir() if one.is_dir())
    bundle = Bundle.open(path)
    graphs = [bundle.find("onnx", precision) for precision in ("fp32", "fp16")]
    shas = [graph.file.sha256[:16] for graph in graphs if graph is not None]
    assert sorted(name.split("-")[0] for name in names) == sorted([shas[0], *shas])
    assert len({name.rsplit("-", 1)[1] for name in names}) == 2
    if sys.platform != "win32":
        assert stat.S_IMODE((tmp_path / names[0]).stat().st_mode) == 0o700


@pytest.mark.parametrize("member", ["model.onnx", "model.weights", "record.json"])
@pytest.mark.parametrize("damage", ["cut", "altered", "gone"])
def test_what_is_damaged_is_made_again(
    exported: Exported, tmp_path: Path, member: str, damage: str
) -> None:
    path = exported("cnn")
    expected, _ = logits(path, tmp_path)
    (file,) = tmp_path.glob(f"*/graph/{member}")
    content = file.read_bytes()
    file.unlink()
    if damage != "gone":
        half = len(content) // 2
        # A new file: what a running process has mapped is not touched.
        file.write_bytes(content[:half] + (b"" if damage == "cut" else b"?" + content[half + 1 :]))
    found, note = logits(path, tmp_path)
    assert note.endswith("(made)")
    assert np.array_equal(found, expected)
    assert logits(path, tmp_path)[1].endswith("(used)")


def test_record_names_every_file(exported: Exported, tmp_path: Path) -> None:
    logits(exported("cnn"), tmp_path)
    (record,) = tmp_path.glob("*/graph/record.json")
    assert set(json.loads(record.read_text("utf-8"))) == {"model.onnx", "model.weights"}
    record.write_text('["model.onnx"]', "utf-8")
    assert logits(exported("cnn"), tmp_path)[1].endswith("(made)")


def test_graph_without_large_weights(toy_bundle: Callable[..., Path], tmp_path: Path) -> None:
    path = toy_bundle()
    for state in ("made", "used"):
        with opened(path, tmp_path / "cache") as engine:
            assert engine.info.notes[0].endswith(f"({state})")
            assert engine.labels(np.array([[[-1.0, 1.0, 3.0]]])).tolist() == [[[0, 1, 2]]]


def test_folder_that_cannot_be_made_is_told(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found, note = logits(exported("cnn"), tmp_path / "file")
    assert note.startswith("no prepared graph (")
    assert "Not a directory" in note
    assert np.array_equal(found, logits(exported("cnn"), None)[0])


def test_full_disk_is_told(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared, "write_json", full)
    _, note = logits(exported("cnn"), tmp_path)
    assert note.startswith("no prepared graph (cannot write")
    assert "No space left" in note
    assert list(tmp_path.glob("*/*")) == []


def test_broken_graph_is_one_error(toy_bundle: Callable[..., Path], tmp_path: Path) -> None:
    bundle = Bundle.open(toy_bundle())
    (bundle.path / "model.fp32.onnx").write_text("x")
    options = OrtOptions(prepared=tmp_path / "cache")
    with pytest.raises(BackendError, match=r"cannot load 'model.fp32.onnx'; got .*Protobuf"):
        OrtBackend(bundle, Request(device="cpu"), options=options)
    assert list(tmp_path.glob("cache/*/*")) == []


def test_gpus_are_told_that_it_is_not_for_them(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = open_session
    monkeypatch.setattr(
        ort, "open_session", lambda *a, provider, **k: real(*a, provider="cpu", **k)
    )
    monkeypatch.setattr(
        OrtBackend, "_choose_provider", lambda self, library, request: ("cuda", 0, "a test")
    )
    monkeypatch.setattr(ort, "work_on_cpu", lambda session: SimpleNamespace(items=list))
    with Engine.open(
        exported("cnn"), threads=1, precision="fp32", options={"prepared": tmp_path}
    ) as engine:
        assert "graphs are prepared for the CPU provider alone" in engine.info.notes
    assert list(tmp_path.iterdir()) == []
