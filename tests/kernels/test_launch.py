from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autosam_deploy.errors import BackendError, DeviceUnavailableError, MissingExtraError
from autosam_deploy.kernels import launch


def on(device: str) -> Any:
    """Something with a device, which this machine need not have."""
    return SimpleNamespace(device=torch.device(device))


def pretend(monkeypatch: pytest.MonkeyPatch, *, interpreted: bool, capability: int = 90) -> None:
    monkeypatch.setattr(launch, "interpreted", lambda: interpreted)
    monkeypatch.setattr(launch, "capability", lambda device: capability)


def test_triton_is_found() -> None:
    pytest.importorskip("triton")
    assert launch.require_triton("a test").__name__ == "triton"


def test_missing_triton_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(MissingExtraError, match=r"a test needs.*'triton'.*autosam-deploy\[kernels"):
        launch.require_triton("a test")
    with pytest.raises(MissingExtraError, match="a kernel needs the package 'triton'"):
        launch.check_device(torch.zeros(1))


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("0", False)])
def test_interpreted_is_what_triton_was_loaded_as(value: str, expected: bool) -> None:
    """In a process of its own; what is set after the import does not count."""
    pytest.importorskip("triton")
    code = (
        f"import os; os.environ['TRITON_INTERPRET'] = '{value}'\n"
        "from autosam_deploy.kernels.launch import interpreted\n"
        "first = interpreted(); os.environ['TRITON_INTERPRET'] = '1'; print(first, interpreted())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(expected)] * 2


def test_the_device_of_the_tests(device: torch.device) -> None:
    tensors = [torch.zeros(2, device=device) for _ in range(3)]
    assert launch.check_device(*tensors).type == device.type
    with launch.on_device(device):
        assert (launch.capability(device) == 0) == launch.interpreted()


def test_gpus_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, interpreted=False)
    assert launch.check_device(on("cuda:1"), on("cuda:1")) == torch.device("cuda:1")


@pytest.mark.parametrize("devices", [["cpu", "meta"], ["cuda:0", "cuda:1"]])
def test_tensors_apart(devices: list[str]) -> None:
    with pytest.raises(BackendError, match=f"lie apart; got {', '.join(devices)}"):
        launch.check_device(*map(on, devices))


def test_no_tensors() -> None:
    with pytest.raises(BackendError, match="lie apart; got none"):
        launch.check_device()


def test_interpreter_refuses_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, interpreted=True)
    with pytest.raises(BackendError, match="works on CPU tensors; got cuda:0; unset TRITON_INT"):
        launch.check_device(on("cuda:0"))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_compiled_kernels_refuse_the_cpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, interpreted=False)
    with pytest.raises(DeviceUnavailableError, match=f"NVIDIA GPU; got tensors on '{device}'"):
        launch.check_device(on(device))


def test_old_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, interpreted=False, capability=75)
    with pytest.raises(DeviceUnavailableError, match=r"too old.*got compute capability 7\.5"):
        launch.check_device(on("cuda"))


def test_ratio_is_float32() -> None:
    exact = 1 / 3
    found = launch.float32_ratio(1, 3)
    assert found != exact
    assert found == float(torch.tensor(exact, dtype=torch.float32))


def test_imports_without_triton() -> None:
    modules = (f"autosam_deploy.kernels.{name}" for name in ("launch", "ahead", "tokens", "labels"))
    code = (
        f"import sys; sys.modules['triton'] = None\nimport {', '.join(modules)}\n"
        "print(sys.modules['triton'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("None", 0), done.stderr
