"""Print a folder of the kit: `python -m autosam_sdk --cmake-dir`."""

from __future__ import annotations

import argparse
import sys

from autosam_sdk import cmake_dir, include_dir, library_dir, pkgconfig_dir

_FOLDERS = {
    "cmake": (cmake_dir, "of autosamConfig.cmake"),
    "include": (include_dir, "of autosam.h and autosam.hpp"),
    "library": (library_dir, "of libautosam.so.0"),
    "pkgconfig": (pkgconfig_dir, "of autosam.pc"),
}


def main() -> None:
    """Print the one folder that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m autosam_sdk", description=__doc__)
    group = parser.add_mutually_exclusive_group(required=True)
    for name, (_, what) in _FOLDERS.items():
        group.add_argument(
            f"--{name}-dir", dest="folder", action="store_const", const=name, help=f"folder {what}"
        )
    folder, _ = _FOLDERS[parser.parse_args().folder]
    sys.stdout.write(f"{folder()}\n")


if __name__ == "__main__":
    main()
