"""TensorRT-RTX's kernels on disk: kept where asked, believed only by the library, never fatal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.runtime.backend import Request
from autosam_deploy.runtime.trt import TrtBackend, TrtOptions

EngineBundle = Callable[..., Path]


def use(folder: Path, cache: Path) -> str:
    """Open, run once, close; return what the notes say of the cache."""
    options = TrtOptions(runtime_cache=cache)
    backend = TrtBackend(Bundle.open(folder), Request(), options=options)
    assert backend.run(np.zeros((2, 1, 8, 8), np.float32), ("labels",))["labels"].shape == (2, 8, 8)
    backend.close()
    return backend.info.notes[-1]


def test_cache_is_written_and_read_again(
    engine_bundle: EngineBundle, gpu: Any, tmp_path: Path
) -> None:
    bundle, cache = engine_bundle(), tmp_path / "new" / "cache"
    before = sorted(bundle.rglob("*"))
    assert use(bundle, cache).endswith("-sm89.rtxcache': new")
    (file,) = cache.iterdir()
    assert file.read_bytes() == b"kernels:new"
    assert use(bundle, cache) == f"runtime cache '{file}': read"
    assert sorted(bundle.rglob("*")) == before


def test_devices_have_caches_of_their_own(
    engine_bundle: EngineBundle, gpu: Any, tmp_path: Path
) -> None:
    bundle = engine_bundle(compute_capabilities=(86, 89))
    use(bundle, tmp_path / "cache")
    gpu.sm = 86
    assert use(bundle, tmp_path / "cache").endswith(": new")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_foreign_cache_is_made_anew(engine_bundle: EngineBundle, gpu: Any, tmp_path: Path) -> None:
    bundle = engine_bundle()
    use(bundle, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(b"something else")
    assert use(bundle, tmp_path / "cache").endswith("of another device or driver, made anew")
    assert file.read_bytes() == b"kernels:new"


def test_cache_that_cannot_be_read_or_written_costs_time_alone(
    engine_bundle: EngineBundle, gpu: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    assert "cannot be read (Not a directory)" in use(engine_bundle(), in_the_way)
    assert "the runtime cache is not kept: cannot write" in caplog.text


def test_tensorrt_needs_none(engine_bundle: EngineBundle, gpu: Any, tmp_path: Path) -> None:
    bundle = engine_bundle(family="tensorrt", version="10.13.3.9")
    assert "no runtime cache is needed" in use(bundle, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
