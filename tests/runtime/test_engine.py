from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosam_deploy.errors import (
    BackendError,
    BackendInputError,
    DeviceUnavailableError,
    OutOfMemoryError,
)
from autosam_deploy.runtime import ort
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.spec import HeadKind
from autosam_deploy.volumes.phantom import make_phantom
from autosam_deploy.volumes.slices import slices_along
from autosam_deploy.volumes.volume import Volume

Exported = Callable[[HeadKind], Path]


@pytest.fixture
def volume() -> Volume:
    return make_phantom(1, shape=(7, 40, 36))[0]


@pytest.mark.parametrize("axis", ["i", "j", "k"])
def test_segment_equals_slices(exported: Exported, volume: Volume, axis: Any) -> None:
    with Engine.open(exported("linear"), threads=1) as engine:
        found = engine.segment(volume, axis=axis, batch=3)
        stack = slices_along(volume.array, axis)
        for index in (0, len(stack) // 2, len(stack) - 1):
            expected = engine.labels(stack[index][None])[0]
            assert (slices_along(found.array, axis)[index] == expected).all()
    assert found.array.shape == volume.array.shape
    assert found.geometry == volume.geometry


def test_auto_axis_is_the_thick_one(exported: Exported, volume: Volume) -> None:
    thick_rows = Volume(
        volume.array, replace(volume.geometry, spacing=(1.0, 5.0, 1.0)), volume.name
    )
    with Engine.open(exported("linear"), threads=1) as engine:
        found = engine.segment(thick_rows)
        assert (found.array == engine.segment(thick_rows, axis="j").array).all()
        assert (found.array != engine.segment(thick_rows, axis="k").array).any()


def test_progress_counts_slices(exported: Exported, volume: Volume) -> None:
    seen: list[tuple[int, int]] = []
    with Engine.open(exported("linear"), threads=1) as engine:
        engine.segment(volume, batch=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_batch_is_halved_when_memory_runs_out(
    exported: Exported, volume: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    with Engine.open(exported("linear"), threads=1) as engine:
        expected = engine.segment(volume).array
        run, sizes = engine.backend._run, []

        def small(slices: Any, names: Any) -> Any:
            sizes.append(len(slices))
            if len(slices) > 2:
                raise OutOfMemoryError("too much")
            return run(slices, names)

        engine.backend._run = small  # type: ignore[method-assign]
        found = engine.segment(volume, batch=8).array
    assert (found == expected).all()
    assert sizes == [7, 4, 2, 2, 2, 1] or sizes == [7, 7, 2, 2, 2, 1]
    assert "going on with batches of 2 slices" in caplog.text


def test_one_slice_that_does_not_fit_is_an_error(exported: Exported, volume: Volume) -> None:
    with Engine.open(exported("linear"), threads=1) as engine:

        def never(slices: Any, names: Any) -> Any:
            raise OutOfMemoryError("not even one")

        engine.backend._run = never  # type: ignore[method-assign]
        with pytest.raises(OutOfMemoryError, match="not even one"):
            engine.segment(volume, batch=4)


def test_float32_slices_are_not_copied(exported: Exported) -> None:
    from autosam_deploy.runtime.engine import as_slices

    slices = np.zeros((2, 1, 8, 8), np.float32)
    assert np.shares_memory(as_slices(slices), slices)


@pytest.mark.parametrize("batch", [0, -1])
def test_bad_batch_is_refused(exported: Exported, volume: Volume, batch: int) -> None:
    with (
        Engine.open(exported("linear"), threads=1) as engine,
        pytest.raises(BackendInputError, match=rf"batch; got {batch}; expected 1 or more"),
    ):
        engine.segment(volume, batch=batch)


def test_bad_threads_are_refused(exported: Exported) -> None:
    with pytest.raises(BackendInputError, match="threads; got 0; expected 1 or more"):
        Engine.open(exported("linear"), threads=0)


def test_fp16_on_request(exported: Exported) -> None:
    with Engine.open(exported("autosam"), precision="fp16", threads=1) as engine:
        assert engine.info.precision == "fp16"
        assert engine.info.artefact == "model.fp16.onnx"
        assert "slower than fp32 on a CPU" in engine.info.reason


def test_precision_that_is_not_there_is_an_error(exported: Exported) -> None:
    with pytest.raises(BackendError, match="no bf16 graph; got graphs in fp32, fp16"):
        Engine.open(exported("linear"), precision="bf16")


def test_torch_refuses_half(exported: Exported) -> None:
    with pytest.raises(BackendError, match="'torch' is the float32 reference; got fp16"):
        Engine.open(exported("linear"), backend="torch", precision="fp16")


def test_torch_needs_the_weights(exported: Exported, tmp_path: Path) -> None:
    from autosam_deploy.bundle.reader import Bundle

    bundle = Bundle.open(exported("linear"))
    graphs = tuple(a for a in bundle.manifest.artefacts if a.kind == "onnx")
    slim = replace(bundle, manifest=bundle.manifest.model_copy(update={"artefacts": graphs}))
    with pytest.raises(BackendError, match=r"no weights .*--slim"):
        Engine.open(slim, backend="torch", device="cpu")


def test_provider_and_device_must_agree(exported: Exported) -> None:
    with pytest.raises(DeviceUnavailableError, match="contradict each other; got device cpu"):
        Engine.open(exported("linear"), device="cpu", provider="tensorrt")


def test_provider_of_another_build_is_an_error(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceUnavailableError, match="no CUDAExecutionProvider; got CPUExec"):
        Engine.open(exported("linear"), device="cuda")


def test_auto_says_why_it_took_the_cpu(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that reports a device does not make CUDA usable; `auto` says what was wrong."""
    monkeypatch.setattr(ort, "cuda_devices", lambda: 1)
    real = ort._open_session

    def no_cuda(*args: Any, provider: str, **kwargs: Any) -> Any:
        if provider == "cuda":
            raise DeviceUnavailableError("libcublas is missing")
        return real(*args, provider=provider, **kwargs)

    monkeypatch.setattr(ort, "_open_session", no_cuda)
    with Engine.open(exported("linear"), threads=1) as engine:
        assert engine.info.device == "cpu"
        assert "libcublas is missing" in engine.info.reason
    with pytest.raises(DeviceUnavailableError, match="libcublas is missing"):
        Engine.open(exported("linear"), device="cuda")


def test_session_that_fell_back_is_refused(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime drops a provider that fails to load with no more than a log line."""
    monkeypatch.setattr(ort, "cuda_devices", lambda: 1)
    with pytest.raises(DeviceUnavailableError, match=r"CUDA|cannot load"):
        Engine.open(exported("linear"), device="cuda")


def test_graph_that_contradicts_the_manifest_is_refused(exported: Exported, tmp_path: Path) -> None:
    from autosam_deploy.bundle.reader import Bundle

    shutil.copytree(exported("linear"), tmp_path / "b.autosam")
    other = exported("cnn") / "model.fp32.onnx"
    shutil.copy(other, tmp_path / "b.autosam" / "model.fp32.onnx")
    bundle = Bundle.open(exported("linear"))
    spec = bundle.manifest.model.model_copy(update={"outputs": ("labels",)})
    wrong = bundle.manifest.model_copy(update={"model": spec, "outputs": spec.output_tensors})
    with pytest.raises(BackendError, match="the graph contradicts the manifest"):
        Engine.open(replace(bundle, manifest=wrong))


def test_auto_batch_follows_the_encoder(exported: Exported) -> None:
    with Engine.open(exported("linear"), threads=1) as engine:
        assert engine.auto_batch() == 16
