"""Tiles that were measured: those in the package, and those that this user's tuner found.

`python -m autosam_deploy.benchmarks.tune` writes the latter. Numbers alone are read from the file,
and tiles change no result, so it needs no protection that a cache of code would.
"""

from __future__ import annotations

from pathlib import Path

from autosam_deploy.errors import UsageError
from autosam_deploy.files import user_cache
from autosam_deploy.kernels.tiles import Measured, load_tiles


def user_file() -> Path | None:
    """Return where this user's measured tiles are kept, there or not; None without a home."""
    base = user_cache()
    return None if base is None else base / "tiles.json"


def measured_tiles() -> Measured:
    """Return the package's choices, with the user's in their place where there are any.

    Raises:
        UsageError: the user's file is there and cannot be read or is not valid.
    """
    packaged, path = load_tiles(), user_file()
    if path is None or not path.exists():
        return packaged
    try:
        own = load_tiles(path)
    except UsageError as error:
        raise UsageError(
            str(error),
            todo="remove it, or write it again: python -m autosam_deploy.benchmarks.tune",
        ) from error
    return {**packaged, **own}
