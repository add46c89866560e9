"""Files written whole or not at all, and the hashes that bind them together."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autosam_deploy.errors import OutputError

_CHUNK = 1 << 22


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write '{path}'",
        got=error.strerror or str(error),
        expected="a writable folder with free space",
        todo="free space or choose another output path; nothing was changed",
    )


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` that replaces it when the block ends without an error.

    The sibling keeps the suffixes of `path`, since image writers choose the format by them.

    Raises:
        OutputError: the folder is not writable or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=f"-{path.name}")
        os.close(handle)
    except OSError as error:
        raise _cannot_write(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; results follow the user's umask like any other file.
        temporary.chmod(0o666 & ~_umask())
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder that takes the place of `path` when the block ends well.

    A process killed inside the block leaves the former folder untouched (and a `.tmp-*` sibling).

    Raises:
        OutputError: the parent is not writable or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".tmp-{path.name}-"))
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for member in sorted(temporary.rglob("*")):
            _sync(member)
        _sync(temporary)
        _swap(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    """Put `new` where `path` is; a folder cannot be renamed over one that holds files."""
    if not path.exists():
        new.replace(path)
        return
    retired = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".old-{path.name}-"))
    path.replace(retired / path.name)
    try:
        new.replace(path)
    except OSError:
        (retired / path.name).replace(path)
        raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def user_cache() -> Path | None:
    """Return this user's folder for what can be made again, by the system's custom, or None.

    It need not be there yet.
    """
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        # No home: a service account.
        return None
    return base / "autosam-deploy"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def private_folder(folder: Path) -> tuple[Path | None, str]:
    """Make a folder for this user alone, for what will be run as code: engines, compiled models.

    Returns:
        The folder, or None and why there is none.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return None, f"'{folder}': {error.strerror or error}"
    if not os.access(folder, os.W_OK):
        return None, f"'{folder}' is not writable"
    return folder, ""
