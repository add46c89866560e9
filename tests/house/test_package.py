"""What is installed is what is on disk, and commands speak without the optional packages."""

from __future__ import annotations

import shutil
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
    "autosam-train": "autosam_deploy.cli.train",
    "autosam-evaluate": "autosam_deploy.cli.evaluate",
    "autosam-export": "autosam_deploy.export.cli",
    "autosam-demo": "autosam_deploy.cli.demo",
    "autosam-bench": "autosam_deploy.benchmarks.cli",
}
#: Refuses every package that the core install leaves out.
BLOCKER = """
import sys
class Blocker:
    blocked = {"torch", "torchvision", "onnx", "onnxscript", "onnx_ir", "safetensors", "monai",
               "scipy", "segment_anything", "matplotlib", "openvino", "tensorrt",
               "tensorrt_rtx", "cuda"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.blocked:
            raise ImportError(f"No module named {name!r} (blocked)")
sys.meta_path.insert(0, Blocker())
"""
#: Asks a command and everything below it for help, and prints what it asked.
ASK_ALL = """
import click
from click.testing import CliRunner
def walk(command, names):
    yield names
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, [*names, name])
for names in walk(main, []):
    result = CliRunner().invoke(main, [*names, "--help"])
    if result.exit_code or "Usage:" not in result.output:
        sys.exit(f"{names}: {result.output} {result.exception!r}")
    print("asked", *names)
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


def packages_of(modules: set[str]) -> set[str]:
    return {path.rpartition("/")[0].replace("/", ".") for path in modules}


def build_wheel(source: Path, target: Path) -> set[str]:
    """Build without the network and return the names inside."""
    subprocess.run(
        (
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "-w", target, source),
        ),
        check=True,
    )
    (wheel,) = target.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what a wheel is made of.

    Setuptools builds inside the tree, and what an earlier build left there would be packed again.
    """
    copy = tmp_path / "tree"
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def test_packages_are_listed() -> None:
    """Setuptools leaves out a package that is not listed, without a word."""
    listed = set(project()["tool"]["setuptools"]["packages"])  # type: ignore[index]
    assert listed == packages_of(on_disk())


def test_commands_are_known() -> None:
    scripts = project()["project"]["scripts"]  # type: ignore[index]
    assert scripts == {name: f"{module}:main" for name, module in COMMANDS.items()}


def test_wheel_holds_every_module(tree: Path, tmp_path: Path) -> None:
    names = build_wheel(tree, tmp_path / "wheels")
    assert {name for name in names if name.endswith(".py")} == on_disk()
    assert "autosam_deploy/py.typed" in names


def test_wheel_check_finds_a_forgotten_package(tree: Path, tmp_path: Path) -> None:
    settings = (tree / "pyproject.toml").read_text("utf-8")
    forgotten = '  "autosam_deploy.fused.heads",\n'
    assert forgotten in settings
    (tree / "pyproject.toml").write_text(settings.replace(forgotten, ""), "utf-8")
    missing = on_disk() - build_wheel(tree, tmp_path / "wheels")
    assert packages_of(missing) == {"autosam_deploy.fused.heads"}


@pytest.mark.parametrize("module", COMMANDS.values(), ids=COMMANDS)
def test_help_without_extras(module: str) -> None:
    result = run(f"from {module} import main\n{ASK_ALL}")
    assert result.returncode == 0, result.stderr
    assert "asked" in result.stdout.splitlines()


def test_help_of_subcommands_is_asked_for() -> None:
    result = run(f"from autosam_deploy.export.cli import main\n{ASK_ALL}")
    assert {"asked inspect", "asked verify"} <= set(result.stdout.splitlines())


@pytest.mark.parametrize("module", ["torch", "autosam_deploy.models.segmenter"])
def test_extras_are_really_blocked(module: str) -> None:
    result = run(f"import {module}")
    assert result.returncode == 1
    assert "(blocked)" in result.stderr


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
