"""What is installed is what is on disk, and commands speak without the optional packages."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "autosam_deploy": "autosam_deploy",
    "export": "autosam_deploy/export",
    "benchmarks": "autosam_deploy/benchmarks",
}
COMMANDS = {
    "autosam-predict": "autosam_deploy.cli.predict",
    "autosam-export": "autosam_deploy.export.cli",
    "autosam-demo": "autosam_deploy.cli.demo",
    "autosam-compare": "autosam_deploy.benchmarks.compare",
}
#: Refuses every package that the core install leaves out.
BLOCKER = """
import sys
class Blocker:
    blocked = {"torch", "torchvision", "onnx", "onnxscript", "onnx_ir", "safetensors", "monai",
               "segment_anything", "matplotlib", "openvino", "tensorrt"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.blocked:
            raise ImportError(f"No module named {name!r} (blocked)")
sys.meta_path.insert(0, Blocker())
"""


def on_disk() -> set[str]:
    found = set()
    for folder, installed in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            found.add(f"{installed}/{path.relative_to(ROOT / folder).as_posix()}")
    return found


def run(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKER + code, *args], capture_output=True, text=True, check=False
    )


def project() -> dict[str, object]:
    parsed: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return parsed


def test_packages_are_listed() -> None:
    """Setuptools leaves out a package that is not listed, without a word."""
    listed = set(project()["tool"]["setuptools"]["packages"])  # type: ignore[index]
    assert listed == {path.rpartition("/")[0].replace("/", ".") for path in on_disk()}


def test_commands_are_known() -> None:
    scripts = project()["project"]["scripts"]  # type: ignore[index]
    assert scripts == {name: f"{module}:main" for name, module in COMMANDS.items()}


@pytest.mark.slow
def test_wheel_holds_every_module(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if name.endswith(".py")} == on_disk()
    assert "autosam_deploy/py.typed" in names


@pytest.mark.parametrize("module", COMMANDS.values(), ids=COMMANDS)
def test_help_without_extras(module: str) -> None:
    result = run(f"from {module} import main; main(['--help'])")
    assert result.returncode == 0, result.stderr
    assert "Usage:" in result.stdout


@pytest.mark.parametrize(
    "args",
    [
        "['--untrained', '--encoder', 'vit_tiny', '--head', 'cnn']",
        "['inspect', 'pyproject.toml']",
    ],
)
def test_missing_extra_is_named(args: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = run(f"from autosam_deploy.export.cli import main; main({args})")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "pip install 'autosam-deploy[export]'" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_runtime_needs_no_extras() -> None:
    result = run(
        "import autosam_deploy.runtime.engine, autosam_deploy.volumes.read, autosam_deploy.parity"
    )
    assert result.returncode == 0, result.stderr
