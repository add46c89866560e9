from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosam_deploy.errors import BackendInputError, BundleError, OutOfMemoryError
from autosam_deploy.runtime.engine import Engine, as_slices
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
        assert not engine.info.notes
        run, sizes = engine.backend._run, []

        def small(slices: Any, names: Any) -> Any:
            sizes.append(len(slices))
            if len(slices) > 2:
                raise OutOfMemoryError("too much")
            return run(slices, names)

        engine.backend._run = small  # type: ignore[method-assign]
        found = engine.segment(volume, batch=8).array
        assert (found == expected).all()
        assert sizes == [7, 4, 2, 2, 2, 1]
        assert "going on with batches of 2 slices" in caplog.text
        assert engine.info.notes == ("out of memory: batches were halved to 2 slices",)
        # The next volume need not find out again.
        sizes.clear()
        engine.segment(volume)
        assert sizes == [2, 2, 2, 1]


def test_one_slice_that_does_not_fit_is_an_error(exported: Exported, volume: Volume) -> None:
    with Engine.open(exported("linear"), threads=1) as engine:

        def never(slices: Any, names: Any) -> Any:
            raise OutOfMemoryError("not even one")

        engine.backend._run = never  # type: ignore[method-assign]
        with pytest.raises(OutOfMemoryError, match="not even one"):
            engine.segment(volume, batch=4)


def test_float32_slices_are_not_copied() -> None:
    slices = np.zeros((2, 1, 8, 8), np.float32)
    assert np.shares_memory(as_slices(slices), slices)


@pytest.mark.parametrize("dtype", [">f4", ">i2", "<f8", "bool", "float16", "longdouble"])
def test_any_real_dtype_and_byte_order(dtype: str) -> None:
    slices = np.arange(6).reshape(1, 2, 3).astype(dtype)
    found = as_slices(slices)
    assert found.dtype == np.float32
    assert found.dtype.isnative
    assert (found[:, 0] == slices).all()


@pytest.mark.parametrize("dtype", ["<f8", ">f8", "longdouble"])
def test_magnitude_beyond_float32_is_refused(dtype: str) -> None:
    with pytest.raises(BackendInputError, match=r"magnitude 1e\+39; expected float32 range"):
        as_slices(np.full((1, 2, 3), -1e39).astype(dtype))


def test_batches_are_converted_one_by_one(exported: Exported, volume: Volume) -> None:
    """A volume of integers is never there as float32 in whole."""
    wide = Volume(volume.array.astype(np.int16), volume.geometry, volume.name)
    with Engine.open(exported("linear"), threads=1) as engine:
        run, seen = engine.backend._run, []

        def spy(slices: Any, names: Any) -> Any:
            seen.append((slices.dtype.name, len(slices), slices.base is None))
            return run(slices, names)

        engine.backend._run = spy  # type: ignore[method-assign]
        engine.segment(wide, batch=3, axis="k")
    assert seen == [("float32", count, True) for count in (3, 3, 1)]


def test_voxels_that_are_not_finite_stop_before_the_first_batch(
    exported: Exported, volume: Volume
) -> None:
    array = volume.array.astype(np.float64)
    array[0, 0, 0], array[-1, 2, 3] = np.nan, -np.inf
    seen: list[int] = []
    with (
        Engine.open(exported("linear"), threads=1) as engine,
        pytest.raises(
            BackendInputError, match=rf"'bad' holds .* not finite; got 2 of {array.size}"
        ),
    ):
        engine.segment(
            Volume(array, volume.geometry, "bad"),
            batch=1,
            progress=lambda done, total: seen.append(done),
        )
    assert seen == []


def test_empty_volume_is_refused(exported: Exported, volume: Volume) -> None:
    empty = Volume(volume.array[:0], volume.geometry, "empty")
    with (
        Engine.open(exported("linear"), threads=1) as engine,
        pytest.raises(BackendInputError, match=r"the volume is empty; got shape \(0, 40, 36\)"),
    ):
        engine.segment(empty)


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


@pytest.mark.parametrize(
    ("side", "slices", "expected"),
    [(48, 100, 16), (48, 5, 5), (256, 100, 16), (512, 100, 4), (1024, 100, 1), (1536, 100, 1)],
)
def test_auto_batch_follows_encoder_and_volume(
    toy_bundle: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    side: int,
    slices: int,
    expected: int,
) -> None:
    with Engine.open(toy_bundle(), device="cpu", threads=1) as engine:
        model = engine.manifest.model
        other = model.model_copy(update={"encoder": model.encoder.resized((side, side))})
        manifest = engine.manifest.model_copy(update={"model": other})
        monkeypatch.setattr(engine, "bundle", replace(engine.bundle, manifest=manifest))
        assert engine.auto_batch(slices) == expected


@pytest.mark.parametrize("outputs", [("labels",), ("logits",), ("labels", "logits")])
def test_labels_of_any_choice_of_outputs(
    toy_bundle: Callable[..., Path], outputs: tuple[str, ...]
) -> None:
    slices = np.array([[[-1.0, 0.0, 1.0, 2.0, 3.0]]])
    with Engine.open(toy_bundle(outputs=outputs), device="cpu", threads=1) as engine:
        # Equal logits at 0 and 2: the first of them.
        assert engine.labels(slices).tolist() == [[[0, 0, 1, 1, 2]]]
        assert engine.labels(slices).dtype == np.uint8
        assert engine.outputs(slices).keys() == set(outputs)


def test_logits_that_were_not_exported(toy_bundle: Callable[..., Path]) -> None:
    with (
        Engine.open(toy_bundle(outputs=("labels",)), device="cpu", threads=1) as engine,
        pytest.raises(
            BackendInputError, match=r"no output 'logits'; .* export again with --outputs"
        ),
    ):
        engine.logits(np.zeros((1, 5, 7)))


def test_altered_bundle_is_not_opened(toy_bundle: Callable[..., Path]) -> None:
    path = toy_bundle()
    graph = path / "model.fp32.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="was altered"):
        Engine.open(path, device="cpu")


def ragged(volume: Volume) -> Volume:
    """Slices 0, 3 and 6 of 7 along k hold one value, not the same."""
    array = volume.array.astype(np.int16)
    array[0], array[3], array[6] = 0, 55, -1000
    return Volume(array, volume.geometry, "ragged")


def test_flat_slices_run_unless_asked_otherwise(exported: Exported, volume: Volume) -> None:
    with Engine.open(exported("linear"), threads=1) as engine:
        run, seen = engine.backend._run, []

        def spy(slices: Any, names: Any) -> Any:
            seen.append(slices[:, 0].copy())
            return run(slices, names)

        engine.backend._run = spy  # type: ignore[method-assign]
        whole = engine.segment(ragged(volume), axis="k", batch=2)
        assert (len(np.concatenate(seen)), whole.skipped) == (7, 0)
        seen.clear()
        told: list[tuple[int, int]] = []
        found = engine.segment(
            ragged(volume),
            axis="k",
            batch=3,
            skip_flat=True,
            progress=lambda *done: told.append(done),
        )
    # Batches are as full as before, with gaps between their slices.
    assert [len(part) for part in seen] == [3, 1]
    assert (np.concatenate(seen) == ragged(volume).array[[1, 2, 4, 5]]).all()
    assert told == [(3, 4), (4, 4)]
    assert found.skipped == 3
    assert found.array[[0, 3, 6]].max() == 0
    assert (found.array[[1, 2, 4, 5]] == whole.array[[1, 2, 4, 5]]).all()


@pytest.mark.parametrize("axis", ["i", "j", "k"])
def test_a_flat_volume_needs_no_run(exported: Exported, volume: Volume, axis: Any) -> None:
    flat = Volume(np.full_like(volume.array, 31000.0), volume.geometry, "flat")
    with Engine.open(exported("linear"), threads=1) as engine:
        engine.backend.close()
        found = engine.segment(flat, axis=axis, skip_flat=True)
    assert found.skipped == slices_along(flat.array, axis).shape[0]
    assert (found.array.shape, found.array.max()) == (flat.array.shape, 0)


def test_values_that_are_not_finite_are_no_flat_slice(exported: Exported, volume: Volume) -> None:
    array = volume.array.astype(np.float32)
    array[2] = np.inf
    with (
        Engine.open(exported("linear"), threads=1) as engine,
        pytest.raises(BackendInputError, match=r"not finite; got 1440 of \d+"),
    ):
        engine.segment(Volume(array, volume.geometry, "bad"), skip_flat=True)


@pytest.mark.parametrize(
    ("at_once", "slices", "expected"), [(1, 100, 1), (6, 100, 6), (6, 4, 4), (40, 100, 40)]
)
def test_auto_batch_gives_every_stream_something(
    toy_bundle: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
    slices: int,
    expected: int,
) -> None:
    with Engine.open(toy_bundle(), device="cpu", threads=1) as engine:
        model = engine.manifest.model
        other = model.model_copy(update={"encoder": model.encoder.resized((1024, 1024))})
        manifest = engine.manifest.model_copy(update={"model": other})
        monkeypatch.setattr(engine, "bundle", replace(engine.bundle, manifest=manifest))
        monkeypatch.setattr(engine.backend, "side_by_side", at_once)
        assert engine.auto_batch(slices) == expected
