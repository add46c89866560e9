"""Builds the wheel `autosam-sdk`: an installed tree of libautosam inside a small Python package.

A build backend (PEP 517) without requirements of its own, so that `pip wheel cpp/sdk` works where
CMake, a compiler, nlohmann-json and ONNX Runtime's header are. `CMAKE_ARGS` is handed to CMake.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import re
import shlex
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_SOURCE = _HERE.parent
_PACKAGE = "autosam_sdk"
#: Of every member: the same tree gives the same wheel.
_TIME = (2020, 1, 1, 0, 0, 0)
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_INSTALL_LIBDIR=lib",
    "-DAUTOSAM_BUILD_TESTS=OFF",
    "-DAUTOSAM_BUILD_TOOLS=OFF",
    "-DAUTOSAM_BUILD_EXAMPLES=OFF",
    # Wheels hold no links, and are for other systems than this one.
    "-DAUTOSAM_SINGLE_FILE=ON",
    "-DAUTOSAM_STATIC_CXX=ON",
)


class BuildError(RuntimeError):
    """The wheel cannot be built; the message says why."""


def build_wheel(
    wheel_directory: str,
    config_settings: Mapping[str, str] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build libautosam and pack it.

    Args:
        wheel_directory: where the wheel goes.
        config_settings: none are known.
        metadata_directory: not used.

    Returns:
        The wheel's file name.

    Raises:
        BuildError: CMake or the compiler failed, or there are settings.
    """
    if config_settings:
        names = ", ".join(config_settings)
        raise BuildError(f"got settings {names}; expected none; set CMAKE_ARGS")
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work) / "tree"
        build = Path(work) / "build"
        extra = shlex.split(os.environ.get("CMAKE_ARGS", ""))
        _run("cmake", "-S", _SOURCE, "-B", build, *_OPTIONS, *extra)
        _run("cmake", "--build", build, "--parallel", "2")
        _run("cmake", "--install", build, "--prefix", tree, "--strip")
        return pack(tree, Path(wheel_directory)).name


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Mapping[str, str] | None = None
) -> str:
    """Write what is known without building: pip would build twice for it.

    Args:
        metadata_directory: where the folder goes.
        config_settings: none are known.

    Returns:
        The folder's name.
    """
    name = f"{_PACKAGE}-{_version()}.dist-info"
    folder = Path(metadata_directory) / name
    folder.mkdir()
    for file, content in _info().items():
        (folder / file).write_bytes(content)
    return name


def build_sdist(sdist_directory: str, config_settings: Mapping[str, str] | None = None) -> str:
    """Refuse: the library's sources are the repository.

    Raises:
        BuildError: always.
    """
    raise BuildError("autosam-sdk has no source archive; build the wheel from the repository")


def pack(tree: Path, folder: Path) -> Path:
    """Write the wheel of an installed tree.

    Args:
        tree: what `cmake --install` wrote with AUTOSAM_SINGLE_FILE.
        folder: where the wheel goes.

    Returns:
        The wheel.

    Raises:
        BuildError: the tree lacks a file or holds a link, which a wheel cannot.
    """
    members = {
        **_files(_HERE / _PACKAGE, _PACKAGE, skip="__pycache__"),
        **_files(tree, _PACKAGE),
    }
    for needed in (
        "include/autosam.h",
        "lib/libautosam.so.0",
        "lib/cmake/autosam/autosamConfig.cmake",
        "lib/pkgconfig/autosam.pc",
    ):
        if f"{_PACKAGE}/{needed}" not in members:
            raise BuildError(f"'{tree}' has no '{needed}'; build it with AUTOSAM_SINGLE_FILE=ON")
    info = f"{_PACKAGE}-{_version()}.dist-info"
    members |= {f"{info}/{file}": content for file, content in _info().items()}
    members[f"{info}/licenses/LICENSE"] = (_SOURCE.parent / "LICENSE").read_bytes()
    members[f"{info}/RECORD"] = _record(members, f"{info}/RECORD")
    wheel = folder / f"{_PACKAGE}-{_version()}-{_tag()}.whl"
    part = wheel.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    part.replace(wheel)
    return wheel


def _files(folder: Path, prefix: str, *, skip: str = "") -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise BuildError(f"'{path}' is a link; build it with AUTOSAM_SINGLE_FILE=ON")
        if path.is_file() and (not skip or skip not in path.parts):
            found[f"{prefix}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    return found


def _version() -> str:
    text = (_SOURCE / "CMakeLists.txt").read_text("utf-8")
    found = re.search(r"project\(autosam VERSION ([0-9.]+)", text)
    if found is None:
        raise BuildError("cpp/CMakeLists.txt names no version")
    return found[1]


def _tag() -> str:
    return f"py3-none-linux_{platform.machine()}"


def _info() -> dict[str, bytes]:
    """Return the files that describe the wheel, by name."""
    files = {
        "METADATA": (
            "Metadata-Version: 2.1",
            "Name: autosam-sdk",
            f"Version: {_version()}",
            "Summary: libautosam for C and C++: headers, library, CMake and pkg-config files",
            "Requires-Python: >=3.11",
            "License-File: LICENSE",
        ),
        "WHEEL": (
            "Wheel-Version: 1.0",
            f"Generator: {_PACKAGE}",
            "Root-Is-Purelib: false",
            f"Tag: {_tag()}",
        ),
    }
    return {name: ("\n".join(lines) + "\n").encode() for name, lines in files.items()}


def _record(members: Mapping[str, bytes], own: str) -> bytes:
    """Return hashes and sizes of all members (Binary distribution format, "RECORD")."""
    rows = []
    for name, content in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        rows.append(f"{name},sha256={digest},{len(content)}")
    return ("\n".join([*rows, f"{own},,"]) + "\n").encode()


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise BuildError(f"{' '.join(map(str, command[:2]))} failed:\n{end}")
