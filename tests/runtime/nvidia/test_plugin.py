"""The TensorRT-RTX provider of ONNX Runtime: loaded once, refused readably."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autosam_deploy.errors import BackendError, BackendUnavailableError, DeviceUnavailableError
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.nvidia import plugin
from autosam_deploy.runtime.nvidia.cudart import probe_driver
from autosam_deploy.runtime.nvidia.plugin import RTX, rtx_device
from autosam_deploy.runtime.providers import import_onnxruntime

MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
needs_plugin = pytest.mark.skipif(
    importlib.util.find_spec(MODULE) is None, reason="needs the extra ort-rtx"
)
without_driver = pytest.mark.skipif(probe_driver().devices > 0, reason="this machine has a GPU")
#: Registers the plugin as a user's process would, and says what came of it.
ASK = """
from autosam_deploy.errors import AutosamError
from autosam_deploy.runtime.nvidia.plugin import rtx_device
from autosam_deploy.runtime.providers import import_onnxruntime
for attempt in range(2):
    try:
        rtx_device(import_onnxruntime(), 0)
    except AutosamError as error:
        print(error)
"""


class FakeOrt:
    """An ONNX Runtime that takes plugins."""

    __version__ = "1.31.1"

    def __init__(self, *names: str) -> None:
        self.names = names
        self.registered: list[tuple[str, str]] = []

    def register_execution_provider_library(self, name: str, path: str) -> None:
        self.registered.append((name, path))

    def get_ep_devices(self) -> list[Any]:
        return [SimpleNamespace(ep_name=name, number=n) for n, name in enumerate(self.names)]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A plugin package that is installed and holds no library; returns where that would be."""
    path = str(tmp_path / "libplugin.so")
    fake = SimpleNamespace(get_library_path=lambda: path)
    monkeypatch.setattr(plugin, "import_module", lambda name: fake)
    monkeypatch.setattr(plugin.importlib.util, "find_spec", lambda name: fake)
    monkeypatch.setattr(plugin, "_REGISTERED", set())
    return path


def test_library_is_registered_once_and_devices_are_counted(package: str) -> None:
    ort = FakeOrt("CPUExecutionProvider", RTX, RTX)
    assert (rtx_device(ort, 0).number, rtx_device(ort, 1).number) == (1, 2)
    assert ort.registered == [(RTX, package)]
    with pytest.raises(DeviceUnavailableError, match="knows no device 'cuda:2'; got 2 devices"):
        rtx_device(ort, 2)


def test_library_that_does_not_load_can_be_tried_again(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort = FakeOrt(RTX)

    def broken(name: str, path: str) -> None:
        raise RuntimeError("libcudart.so.13:\ncannot open")

    with monkeypatch.context() as patch:
        patch.setattr(ort, "register_execution_provider_library", broken)
        with pytest.raises(DeviceUnavailableError, match=f"{RTX}; got libcudart.so.13: cannot"):
            rtx_device(ort, 0)
    assert rtx_device(ort, 0).number == 0


def test_old_onnxruntime(package: str) -> None:
    with pytest.raises(BackendUnavailableError, match=r"takes no provider plugins; got 1\.20"):
        rtx_device(SimpleNamespace(__version__="1.20.1"), 0)


def test_missing_package_names_the_extra(
    toy_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'autosam-deploy\[ort-rtx\]'$"):
        Engine.open(toy_bundle(), provider="rtx")


@needs_plugin
@without_driver
def test_no_device_is_one_quiet_line(
    toy_bundle: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = toy_bundle()
    capfd.readouterr()
    with pytest.raises(BackendError, match="'cuda:0' is not there; got 0 usable CUDA devices"):
        Engine.open(folder, provider="rtx")
    assert capfd.readouterr() == ("", "")


@needs_plugin
@without_driver
def test_real_plugin_without_a_driver() -> None:
    with pytest.raises(DeviceUnavailableError, match=rf"load {RTX}; got .*libcuda\.so\.1"):
        rtx_device(import_onnxruntime(), 0)


@needs_plugin
@without_driver
@pytest.mark.skipif(
    None in (shutil.which("gcc"), shutil.which("nm")) or not sys.platform.startswith("linux"),
    reason="needs gcc and nm",
)
def test_real_plugin_with_a_driver_and_no_device(tmp_path: Path) -> None:
    """A driver of empty functions: the plugin loads, and finds nothing."""
    spec = importlib.util.find_spec(MODULE)
    assert spec is not None
    assert spec.origin is not None
    undefined = "".join(
        subprocess.run(
            ["nm", "-D", "--undefined-only", path], capture_output=True, text=True, check=True
        ).stdout
        for path in Path(spec.origin).parent.glob("lib*rtx.so*")
    )
    for name, pattern in (("libcuda.so.1", r"\bcu[A-Z]\w+"), ("libnvidia-ml.so.1", r"\bnvml\w+")):
        functions = sorted(set(re.findall(pattern, undefined)) | {"cuInit"})
        source = tmp_path / f"{name}.c"
        source.write_text("\n".join(f"int {one}(void) {{ return 100; }}" for one in functions))
        subprocess.run(
            ("gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", tmp_path / name, source),
            check=True,
        )
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, check=True, env=environment
    )
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{RTX} knows no device 'cuda:0'; got 0 devices")
    assert first == second
    assert done.stderr == ""
