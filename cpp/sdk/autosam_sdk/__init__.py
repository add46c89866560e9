"""libautosam for C and C++ projects: headers, library, and files for CMake and pkg-config.

Nothing here runs a model: `cmake -Dautosam_DIR="$(python -m autosam_sdk --cmake-dir)"` and
`find_package(autosam CONFIG)` do the rest.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["cmake_dir", "include_dir", "library_dir", "pkgconfig_dir"]

_HERE = Path(__file__).parent


def cmake_dir() -> Path:
    """Return the folder of `autosamConfig.cmake`, for `autosam_DIR`."""
    return _HERE / "lib" / "cmake" / "autosam"


def include_dir() -> Path:
    """Return the folder of `autosam.h` and `autosam.hpp`."""
    return _HERE / "include"


def library_dir() -> Path:
    """Return the folder of `libautosam.so.0`."""
    return _HERE / "lib"


def pkgconfig_dir() -> Path:
    """Return the folder of `autosam.pc`, for `PKG_CONFIG_PATH`."""
    return _HERE / "lib" / "pkgconfig"
