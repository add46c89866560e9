"""Backend `tensorrt` on a fake GPU: numbers, sizes, memory, failures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError, BackendInputError, OutOfMemoryError
from autosam_deploy.runtime.backend import Request
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.nvidia.plan import split
from autosam_deploy.runtime.trt import TrtBackend, TrtOptions
from autosam_deploy.volumes.volume import Geometry, Volume

EngineBundle = Callable[..., Path]


def open_backend(folder: Path, *, device: str = "auto", **options: Any) -> TrtBackend:
    chosen = TrtOptions(**options) if options else None
    return TrtBackend(Bundle.open(folder), Request(device=device), options=chosen)


def slices_of(count: int, height: int = 8, width: int = 9, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(1, 2, (count, 1, height, width)).astype(np.float32)


def check(backend: TrtBackend, slices: np.ndarray, gpu: Any) -> None:
    found = backend.run(slices, ("labels", "logits"))
    wanted = gpu.function(slices)
    assert found.keys() == wanted.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, wanted[name])


@pytest.mark.parametrize("family", ["tensorrt", "tensorrt_rtx"])
def test_same_numbers_as_the_model(engine_bundle: EngineBundle, gpu: Any, family: str) -> None:
    version = {"tensorrt": "10.13.3.9"}.get(family, "1.7.1.116")
    backend = open_backend(engine_bundle(family=family, version=version))
    for count, height, width in ((1, 8, 9), (4, 64, 64), (2, 4, 5), (2, 4, 5)):
        check(backend, slices_of(count, height, width), gpu)
    backend.close()


def test_a_batch_beyond_the_profile_is_split(engine_bundle: EngineBundle, gpu: Any) -> None:
    backend = open_backend(engine_bundle())
    check(backend, slices_of(9), gpu)
    assert [shape[0] for shape in gpu.shapes] == [3, 3, 3]
    check(backend, slices_of(6), gpu)
    assert [shape[0] for shape in gpu.shapes[3:]] == [3, 3]
    backend.close()


@pytest.mark.parametrize(
    ("count", "limits", "parts"),
    [
        (1, (1, 1, 1), [1]),
        (5, (1, 2, 4), [3, 2]),
        (17, (1, 8, 16), [9, 8]),
        (6, (3, 3, 4), [3, 3]),
        (5, (3, 3, 4), None),
        (1, (2, 2, 4), None),
    ],
)
def test_split(count: int, limits: tuple[int, int, int], parts: list[int] | None) -> None:
    assert split(count, limits) == parts


@pytest.mark.parametrize("shape", [(1, 1, 65, 9), (1, 1, 8, 65), (1, 1, 3, 9), (2, 1, 8, 3)])
def test_sizes_outside_the_profile(
    engine_bundle: EngineBundle, gpu: Any, shape: tuple[int, ...]
) -> None:
    backend = open_backend(engine_bundle())
    known = (
        r"B 1 to 4, H 4 to 64, W 4 to 64; run: autosam-export engine \S+toy.autosam --engine rtx"
    )
    with pytest.raises(
        BackendInputError, match=rf"got B {shape[0]}, H {shape[2]}, W {shape[3]}; expected {known}"
    ):
        backend.run(np.zeros(shape, np.float32), ("labels",))
    assert gpu.calls["execute"] == 0
    backend.close()


def test_only_what_is_asked_for_crosses_the_bus(engine_bundle: EngineBundle, gpu: Any) -> None:
    backend = open_backend(engine_bundle())
    assert list(backend.run(slices_of(2), ("labels",))) == ["labels"]
    assert gpu.calls["cudaMemcpyAsync"] == 2
    assert list(backend.run(slices_of(2), ("logits", "labels"))) == ["logits", "labels"]
    assert list(backend.run(slices_of(9), ("logits", "labels"))) == ["logits", "labels"]
    backend.close()


def test_results_belong_to_the_caller(engine_bundle: EngineBundle, gpu: Any) -> None:
    backend = open_backend(engine_bundle())
    first = backend.run(slices_of(2), ("logits",))["logits"]
    kept = first.copy()
    backend.run(slices_of(2, seed=1), ("logits",))
    backend.close()
    np.testing.assert_array_equal(first, kept)
    first[...] = 0


def test_memory_grows_and_is_used_again(engine_bundle: EngineBundle, gpu: Any) -> None:
    backend = open_backend(engine_bundle())
    check(backend, slices_of(4), gpu)
    # Input, both outputs, activations; the first three on the host as well.
    assert (gpu.calls["cudaMalloc"], gpu.calls["cudaHostAlloc"]) == (4, 3)
    for count in (4, 1, 3, 4):
        check(backend, slices_of(count), gpu)
    assert (gpu.calls["cudaMalloc"], gpu.calls["cudaHostAlloc"]) == (4, 3)
    check(backend, slices_of(4, 10, 10), gpu)
    assert (gpu.calls["cudaMalloc"], gpu.calls["cudaHostAlloc"]) == (8, 6)
    backend.close()


def test_full_device_is_out_of_memory_and_smaller_batches_run(
    engine_bundle: EngineBundle, gpu: Any
) -> None:
    # 49 bytes a pixel: slices 4, labels 1, logits 12, activations 32.
    gpu.memory = 50 * 2 * 64 * 64
    backend = open_backend(engine_bundle())
    with pytest.raises(
        OutOfMemoryError,
        match=r"batch of 4 slices .* cudaErrorMemoryAllocation.* allocating \d+ bytes; 5 of .* MiB",
    ):
        backend.run(slices_of(4, 64, 64), ("labels",))
    check(backend, slices_of(2, 64, 64), gpu)
    check(backend, slices_of(1, 64, 64), gpu)
    backend.close()


def test_an_engine_halves_its_batch(
    engine_bundle: EngineBundle, gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.memory = 50 * 2 * 64 * 64
    volume = Volume(
        slices_of(7, 64, 64)[:, 0], Geometry((1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1)), "v"
    )
    with Engine.open(engine_bundle(), backend="tensorrt") as engine:
        labels = engine.segment(volume, axis="k", batch=4)
        np.testing.assert_array_equal(labels.array, gpu.function(volume.array[:, None])["labels"])
        assert "batches were halved to 2 slices" in engine.info.notes[-1]
    assert "out of memory" in caplog.text


def test_memory_that_the_library_lacks(engine_bundle: EngineBundle, gpu: Any) -> None:
    gpu.most_slices = 2
    backend = open_backend(engine_bundle())
    with pytest.raises(OutOfMemoryError, match=r"batch of 3 slices .*OutOfMemory \(Requested"):
        backend.run(slices_of(3), ("labels",))
    check(backend, slices_of(2), gpu)
    backend.close()


def test_refusal_of_the_library_is_one_line_in_its_words(
    engine_bundle: EngineBundle, gpu: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    backend = open_backend(engine_bundle())
    gpu.refuse_run = "Error Code 1:\nmyelin"
    with pytest.raises(BackendError, match="RTX failed to run the model; got Error Code 1: myelin"):
        backend.run(slices_of(2), ("labels",))
    gpu.refuse_run = ""
    check(backend, slices_of(2), gpu)
    backend.close()
    assert capfd.readouterr() == ("", "")


def test_earlier_complaints_are_not_blamed_for_a_failure(
    engine_bundle: EngineBundle, gpu: Any
) -> None:
    backend = open_backend(engine_bundle())
    gpu.refuse_run = "OutOfMemory once"
    with pytest.raises(OutOfMemoryError, match="OutOfMemory once"):
        backend.run(slices_of(2), ("labels",))
    gpu.refuse_run = "something else"
    with pytest.raises(BackendError, match=r"got something else$") as caught:
        backend.run(slices_of(2), ("labels",))
    assert not isinstance(caught.value, OutOfMemoryError)
    backend.close()


def test_second_backend_hears_the_library_too(engine_bundle: EngineBundle, gpu: Any) -> None:
    """The library speaks to the logger of the first, whoever is meant."""
    folder = engine_bundle()
    first, second = open_backend(folder), open_backend(folder)
    gpu.most_slices = 1
    with pytest.raises(OutOfMemoryError, match="OutOfMemory"):
        second.run(slices_of(2), ("labels",))
    first.close()
    with pytest.raises(OutOfMemoryError, match="OutOfMemory"):
        second.run(slices_of(2), ("labels",))
    second.close()


def test_failure_on_the_device(engine_bundle: EngineBundle, gpu: Any) -> None:
    backend = open_backend(engine_bundle())
    gpu.sync_error = type(gpu.sync_error).cudaErrorIllegalAddress
    with pytest.raises(
        BackendError,
        match=r"CUDA failed on cuda:0; got cudaErrorIllegalAddress: .* while running the model",
    ):
        backend.run(slices_of(2), ("labels",))
    backend.close()


def test_outputs_of_another_shape_are_refused_before_they_are_written(
    engine_bundle: EngineBundle, gpu: Any
) -> None:
    backend = open_backend(engine_bundle())
    gpu.output_shapes = {"labels": (2, 1000, 1000)}
    with pytest.raises(BackendError, match=r"'labels' another shape .*got \(2, 1000, 1000\)"):
        backend.run(slices_of(2), ("labels",))
    assert gpu.calls["execute"] == 0
    backend.close()


def test_callers_device_stays_current(engine_bundle: EngineBundle, gpu: Any) -> None:
    gpu.current.index = 0
    backend = open_backend(engine_bundle(), device="cuda:1")
    seen: list[int] = []
    gpu.during = lambda: seen.append(gpu.current.index)
    check(backend, slices_of(2), gpu)
    assert set(seen) == {1}
    assert gpu.current.index == 0
    assert backend.info.device == "cuda:1"
    backend.close()
    assert gpu.current.index == 0
