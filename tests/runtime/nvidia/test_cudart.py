"""The driver asked without CUDA, and memory that is given back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autosam_deploy.errors import OutOfMemoryError
from autosam_deploy.runtime.nvidia.cudart import Block, Driver, open_device, probe_driver

ASK = "from autosam_deploy.runtime.nvidia.cudart import probe_driver; print(probe_driver())"


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", absent)
    assert probe_driver() == Driver(0, "no NVIDIA driver")


@pytest.mark.parametrize(
    ("code", "hidden", "problem"),
    [
        (100, None, "the NVIDIA driver shows no device"),
        (0, None, "the NVIDIA driver shows no device"),
        (100, "", "the NVIDIA driver shows no device; CUDA_VISIBLE_DEVICES is ''"),
        (802, None, "the NVIDIA driver does not start (error 802)"),
    ],
)
def test_driver_without_device(
    monkeypatch: pytest.MonkeyPatch, code: int, hidden: str | None, problem: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    driver = SimpleNamespace(cuInit=lambda _: code, cuDeviceGetCount=lambda _: 0)
    monkeypatch.setattr("ctypes.CDLL", lambda name: driver)
    assert probe_driver() == Driver(0, problem)


@pytest.mark.skipif(
    shutil.which("gcc") is None or not sys.platform.startswith("linux"), reason="needs gcc"
)
@pytest.mark.parametrize(
    ("init", "count", "expected"),
    [
        (100, 0, Driver(0, "the NVIDIA driver shows no device")),
        (0, 3, Driver(3)),
        (999, 3, Driver(0, "the NVIDIA driver does not start (error 999)")),
    ],
)
def test_real_library_in_the_place_of_the_driver(
    tmp_path: Path, init: int, count: int, expected: Driver
) -> None:
    source = tmp_path / "stub.c"
    source.write_text(
        f"int cuInit(unsigned flags) {{ return {init}; }}\n"
        f"int cuDeviceGetCount(int *count) {{ *count = {count}; return 0; }}\n"
    )
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == str(expected)


def test_block_that_does_not_fit_holds_nothing(gpu: Any) -> None:
    gpu.memory = 1000
    cuda = open_device(0)
    block = Block(cuda)
    assert block.reserve(600)
    assert not block.reserve(500)
    with pytest.raises(OutOfMemoryError, match=r"no memory left; got .* allocating 1001 bytes"):
        block.reserve(1001)
    assert (block.address, block.bytes) == (0, 0)
    # The 600 bytes were given back first, or these would not fit.
    assert block.reserve(1000)
    block.free()
    block.free()
    assert gpu.calls["cudaFree"] == 2


def test_pinned_memory_is_an_array(gpu: Any) -> None:
    block = Block(open_device(0), pinned=True)
    block.reserve(24)
    block.view("float32", (2, 3))[...] = 1.5
    assert gpu.bytes_at(block.address, 24).view("float32").tolist() == [1.5] * 6
    block.free()
    assert (gpu.calls["cudaFreeHost"], gpu.calls["cudaFree"]) == (1, 0)


def test_device_describes_itself(gpu: Any) -> None:
    gpu.sm = 120
    assert str(open_device(1).device) == "cuda:1 is Fake RTX, sm120, 1.0 GiB"
