"""What the TensorRT providers of ONNX Runtime are told."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autosam_deploy.bundle.manifest import Artefact
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.runtime.nvidia.engine_cache import build_hints, engine_cache
from autosam_deploy.runtime.ort_options import OrtOptions

WithEngine = Callable[..., Path]


def opened(folder: Path, precision: str = "fp16") -> tuple[Bundle, Artefact]:
    bundle = Bundle.open(folder)
    artefact = bundle.find("onnx", precision)  # type: ignore[arg-type]
    assert artefact is not None
    return bundle, artefact


def test_tensorrt_gets_profile_and_cache(
    engine_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    folder = engine_bundle()
    before = sorted(folder.rglob("*"))
    bundle, graph = opened(folder)
    hints = build_hints(
        bundle, graph, provider="tensorrt", version="1.31.1", cache=tmp_path / "cache"
    )
    place = str(tmp_path / "cache" / f"{graph.file.sha256[:16]}-tensorrt-1.31.1")
    assert hints.options == {
        "trt_profile_min_shapes": "slices:1x1x4x4",
        "trt_profile_opt_shapes": "slices:2x1x8x8",
        "trt_profile_max_shapes": "slices:4x1x64x64",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": place,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": place,
    }
    assert hints.notes == (
        "profile slices:1x1x4x4 to slices:4x1x64x64",
        f"engine cache '{place}'",
    )
    if sys.platform != "win32":
        assert stat.S_IMODE(Path(place).stat().st_mode) == 0o700
    assert sorted(folder.rglob("*")) == before


def test_rtx_takes_the_profile_of_its_own_family(
    engine_bundle: Callable[..., Path], with_engine: WithEngine, tmp_path: Path
) -> None:
    folder = engine_bundle(family="tensorrt", version="10.13.3.9")
    profile = {"B": (1, 1, 8), "H": (5, 5, 5), "W": (6, 6, 6)}
    with_engine(folder, "fp32", profile=profile)
    bundle, graph = opened(folder)
    hints = build_hints(bundle, graph, provider="rtx", version="1", cache=tmp_path)
    assert hints.options["nv_profile_max_shapes"] == "slices:8x1x5x6"
    assert Path(hints.options["nv_runtime_cache_path"]).is_dir()
    assert len(hints.options) == 4


def test_other_providers_are_told_nothing(
    engine_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    bundle, graph = opened(engine_bundle())
    for provider in ("cpu", "cuda"):
        hints = build_hints(bundle, graph, provider=provider, version="1", cache=tmp_path / "c")
        assert (hints.options, hints.notes) == ({}, ())
    assert not (tmp_path / "c").exists()


def test_without_engines_and_cache_it_is_said(toy_bundle: Callable[..., Path]) -> None:
    bundle, graph = opened(toy_bundle(), "fp32")
    hints = build_hints(bundle, graph, provider="tensorrt", version="1", cache=None)
    assert hints.options == {}
    assert hints.notes == (
        "no profile: the bundle has no engine, so each new size may be built anew",
        "no engine cache (none was asked for): engines are built in every process",
    )


def test_folder_in_the_way_costs_time_alone(
    toy_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    bundle, graph = opened(toy_bundle(), "fp32")
    hints = build_hints(bundle, graph, provider="rtx", version="1", cache=tmp_path / "file")
    assert hints.options == {}
    assert "Not a directory" in hints.notes[-1]


def test_an_altered_graph_has_a_cache_of_its_own(
    toy_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    bundle, graph = opened(toy_bundle(), "fp32")
    other = graph.model_copy(update={"file": graph.file.model_copy(update={"sha256": "0" * 64})})
    for one in (graph, other):
        build_hints(bundle, one, provider="rtx", version="1", cache=tmp_path / "c")
    assert len(list((tmp_path / "c").iterdir())) == 2


@pytest.mark.parametrize(
    ("system", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "base/autosam-deploy/engines"),
        ("linux", None, "home/.cache/autosam-deploy/engines"),
        ("win32", "LOCALAPPDATA", "base/autosam-deploy/engines"),
        ("win32", None, "home/AppData/Local/autosam-deploy/engines"),
        ("darwin", None, "home/Library/Caches/autosam-deploy/engines"),
    ],
)
def test_users_cache(
    monkeypatch: pytest.MonkeyPatch, system: str, variable: str | None, expected: str
) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(Path, "home", lambda: Path("home"))
    if variable:
        monkeypatch.setenv(variable, "base")
    assert OrtOptions().cache == Path(expected)


def test_account_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert engine_cache() is None
