from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendError, DeviceUnavailableError
from autosam_deploy.runtime.backend import (
    Backend,
    BackendInfo,
    Outputs,
    Request,
    memory_error,
    parse_device,
)
from autosam_deploy.runtime.table import BACKENDS, DEFAULT, backend_class


class Liar(Backend):
    """Returns whatever it was told to."""

    name = "liar"
    answer: Any = None

    def _open(self, request: Request) -> BackendInfo:
        return BackendInfo("liar", "cpu", "none", "fp32", "", 1, "")

    def _run(self, slices: Any, names: tuple[str, ...]) -> Outputs:
        return {"labels": self.answer}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((2, 5, 6), np.uint8), r"got uint8 \(2, 5, 6\); expected uint8 \(2, 5, 7\)"),
        (np.zeros((1, 5, 7), np.uint8), r"got uint8 \(1, 5, 7\)"),
        (np.zeros((2, 5, 7), np.int64), r"got int64 \(2, 5, 7\); expected uint8"),
    ],
)
def test_answer_beyond_the_contract_is_an_error(
    toy_bundle: Callable[..., Path], answer: np.ndarray, message: str
) -> None:
    backend = Liar(Bundle.open(toy_bundle()), Request())
    backend.answer = answer
    with pytest.raises(BackendError, match=rf"'liar' broke the contract of 'labels'; {message}"):
        backend.run(np.zeros((2, 1, 5, 7), np.float32), ("labels",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("cpu", ("cpu", 0)), ("cuda", ("cuda", 0)), ("cuda:3", ("cuda", 3))],
)
def test_devices(text: str, expected: tuple[str, int]) -> None:
    assert parse_device(text) == expected


@pytest.mark.parametrize("text", ["", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "CUDA", "auto"])
def test_what_is_no_device(text: str) -> None:
    with pytest.raises(DeviceUnavailableError, match=r"unknown device; got .* cuda or cuda:N"):
        parse_device(text)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested"),
        RuntimeError("Status Message: std::bad_alloc"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
        RuntimeError("CUDA failure 2: out of memory ; GPU=0"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_full_memory_is_recognised(error: Exception) -> None:
    found = memory_error(np.zeros((5, 1, 2, 2), np.float32), error)
    assert found is not None
    assert "a batch of 5 slices does not fit into memory; got " in str(found)


def test_other_errors_are_no_full_memory() -> None:
    text = "Got invalid dimensions: no room for zoomed input, please fix"
    assert memory_error(np.zeros((1, 1, 2, 2), np.float32), RuntimeError(text)) is None


def test_every_row_of_the_table_is_a_backend() -> None:
    assert DEFAULT in BACKENDS
    for name in BACKENDS:
        assert issubclass(backend_class(name), Backend)
        assert backend_class(name).name == name
