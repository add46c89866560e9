from __future__ import annotations

import builtins
import sys
from typing import Any

import numpy as np
import pytest

from autosam_deploy.benchmarks.harness import roofline
from autosam_deploy.benchmarks.harness.roofline import measure

JOB = {"device": "cpu", "threads": 1, "seconds": 0.0, "dtypes": ("fp32", "bf16")}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_SIDES", {"cpu": 96})
    monkeypatch.setattr(roofline, "_COPY_BYTES", {"cpu": 1 << 20})


def test_rates_are_those_of_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a known time the rate is known: 2 n^3 operations and twice the bytes."""
    monkeypatch.setattr(roofline, "_best", lambda run, seconds: (run() and 0) or 0.001)
    found = measure(JOB)
    assert found["rates"]["fp32"]["gflops"] == pytest.approx(2 * 96**3 / 0.001 / 1e9)
    assert found["rates"]["bf16"]["by"].startswith("torch ")
    assert found["gb_per_s"] == pytest.approx(2 * (1 << 20) / 0.001 / 1e9)
    assert found["skipped"] == {}


def test_numpy_stands_in_for_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    true_import = builtins.__import__

    def no_torch(name: str, *args: Any, **options: Any) -> Any:
        if name == "torch":
            raise ImportError("No module named 'torch'")
        return true_import(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", no_torch)
    monkeypatch.setattr(roofline, "_onnxruntime_rate", lambda seconds, threads: (0.0, "none"))
    found = measure(JOB)
    assert found["rates"]["fp32"]["by"] == f"numpy {np.__version__}"
    assert found["rates"]["fp32"]["gflops"] > 0
    assert found["skipped"] == {"bf16": "needs torch (No module named 'torch')"}
    with pytest.raises(ImportError, match="torch"):
        measure({**JOB, "device": "cuda:0"})


@pytest.mark.parametrize(("torch", "onnxruntime", "by"), [(5.0, 9.0, "onnx"), (9.0, 5.0, "torch ")])
def test_the_fastest_library_counts(
    monkeypatch: pytest.MonkeyPatch, torch: float, onnxruntime: float, by: str
) -> None:
    monkeypatch.setattr(roofline, "_torch_rate", lambda device, dtype, seconds: torch)
    monkeypatch.setattr(roofline, "_onnxruntime_rate", lambda seconds, n: (onnxruntime, "onnx"))
    found = measure(JOB)["rates"]
    assert (found["fp32"]["gflops"], found["bf16"]["gflops"]) == (9.0, torch)
    assert found["fp32"]["by"].startswith(by)


@pytest.mark.parametrize(("integers", "kind"), [(False, np.float32), (True, np.int32)])
def test_onnxruntime_multiplies_and_needs_onnx(
    monkeypatch: pytest.MonkeyPatch, integers: bool, kind: type
) -> None:
    kinds = []

    def best(run: Any, _: float) -> float:
        (result,) = run()
        kinds.append((result.shape, result.dtype))
        return 0.001

    monkeypatch.setattr(roofline, "_best", best)
    rate, by = roofline._onnxruntime_rate(0.0, 1, integers=integers)
    assert kinds == [((96, 96), kind)]
    assert rate == pytest.approx(2 * 96**3 / 0.001 / 1e9)
    assert by.startswith("onnxruntime ")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert roofline._onnxruntime_rate(0.0, 1, integers=integers)[0] == 0


def test_integers_are_measured_or_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure({**JOB, "dtypes": ("int8",)})
    assert found["rates"]["int8"]["gflops"] > 0
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert measure({**JOB, "dtypes": ("int8",)})["skipped"] == {"int8": "needs onnx"}


def test_a_dtype_that_the_device_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def rate(device: str, dtype: str, seconds: float) -> float:
        if dtype == "bf16":
            raise RuntimeError("not implemented\nfor bf16")
        return 5.0

    monkeypatch.setattr(roofline, "_torch_rate", rate)
    found = measure(JOB)
    assert found["rates"].keys() == {"fp32"}
    assert found["skipped"] == {"bf16": "not implemented"}


def test_the_best_of_some_runs_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.0, 0.5, 0.5, 0.7, 1.0, 1.0, 1.0, 1.6, 1.6])
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: next(times))
    assert roofline._best(lambda: None, 0.1) == pytest.approx(0.3)
