"""The wheel `autosam-sdk`: what is packed, and that pip takes it.

`cpp/ci.sh sdk` builds the real one.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SDK = Path(__file__).parents[2] / "cpp" / "sdk"


@pytest.fixture(scope="module")
def backend() -> ModuleType:
    spec = importlib.util.spec_from_file_location("autosam_sdk_backend", SDK / "backend.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What an installation writes, with other content."""
    for name in (
        "include/autosam.h",
        "include/autosam.hpp",
        "lib/libautosam.so.0",
        "lib/cmake/autosam/autosamConfig.cmake",
        "lib/pkgconfig/autosam.pc",
    ):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(name, "utf-8")
    return tmp_path / "tree"


def test_wheel_installs_and_says_where_things_are(
    backend: ModuleType, tree: Path, tmp_path: Path
) -> None:
    wheel = backend.pack(tree, tmp_path)
    assert not list(tmp_path.glob("*.part"))
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    # pip compares every member with RECORD's hash.
    subprocess.run((*pip, "--target", site, wheel), check=True)
    for option, file in {
        "--cmake-dir": "autosamConfig.cmake",
        "--include-dir": "autosam.hpp",
        "--library-dir": "libautosam.so.0",
        "--pkgconfig-dir": "autosam.pc",
    }.items():
        done = subprocess.run(
            (sys.executable, "-m", "autosam_sdk", option),
            env={"PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert (Path(done.stdout.strip()) / file).read_text("utf-8").endswith(file)


def test_wheel_is_the_same_each_time_and_holds_the_licence(
    backend: ModuleType, tree: Path, tmp_path: Path
) -> None:
    first = backend.pack(tree, tmp_path).read_bytes()
    wheel = backend.pack(tree, tmp_path)
    assert wheel.read_bytes() == first
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
        assert "autosam_sdk/py.typed" in names
        assert not [name for name in names if "__pycache__" in name]
        (record,) = [name for name in names if name.endswith("/RECORD")]
        rows = archive.read(record).decode().splitlines()
    assert sorted(row.split(",")[0] for row in rows) == sorted(names)


def test_trees_that_a_wheel_cannot_hold(backend: ModuleType, tree: Path, tmp_path: Path) -> None:
    link = tree / "lib" / "libautosam.so"
    link.symlink_to("libautosam.so.0")
    with pytest.raises(backend.BuildError, match=r"libautosam.so' is a link; .*SINGLE_FILE=ON"):
        backend.pack(tree, tmp_path)
    link.unlink()
    (tree / "lib" / "libautosam.so.0").unlink()
    with pytest.raises(backend.BuildError, match=r"has no 'lib/libautosam.so.0'"):
        backend.pack(tree, tmp_path)
    assert not list(tmp_path.glob("*.whl"))


def test_settings_and_source_archives_are_refused(backend: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(backend.BuildError, match=r"got settings x; expected none; set CMAKE_ARGS"):
        backend.build_wheel(str(tmp_path), {"x": "1"})
    with pytest.raises(backend.BuildError, match=r"has no source archive"):
        backend.build_sdist(str(tmp_path))
    with pytest.raises(backend.BuildError, match=r"cmake --no-such-option failed"):
        backend._run("cmake", "--no-such-option")


def test_metadata_is_known_without_building(backend: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / backend.prepare_metadata_for_build_wheel(str(tmp_path))
    assert "Name: autosam-sdk" in (folder / "METADATA").read_text("utf-8")
    assert "Tag: py3-none-linux_" in (folder / "WHEEL").read_text("utf-8")
