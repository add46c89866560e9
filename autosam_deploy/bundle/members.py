"""What lies in a bundle's folder: regular files and folders, nothing that leads elsewhere."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from autosam_deploy.errors import BundleError

#: Names that a dynamic loader or a shell would run. A bundle is data; a host that works inside its
#: folder must not pick up a library that was put there.
_CODE = re.compile(r"\.(so(\.\d+)*|dylib|dll|pyd|exe|com|bat|cmd|ps1|sh)$", re.IGNORECASE)


def list_members(folder: Path) -> dict[str, int]:
    """Return size in bytes by POSIX path of every regular file in a bundle's folder.

    Nothing is followed or opened.

    Raises:
        BundleError: a link, a device, pipe or socket, a file that holds native code or a script, or
            a folder that cannot be read.
    """
    sizes: dict[str, int] = {}
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(folder / prefix) as entries:
                for entry in entries:
                    path = f"{prefix}{entry.name}"
                    size = _size(entry, f"bundle member '{path}' of '{folder}'")
                    if size is None:
                        waiting.append(f"{path}/")
                    else:
                        sizes[path] = size
        except OSError as error:
            raise BundleError(
                f"bundle '{folder}' cannot be read",
                got=f"{error.strerror or error} at '{prefix}'",
                todo="check the permissions of the folder",
            ) from error
    return sizes


def _size(entry: os.DirEntry[str], what: str) -> int | None:
    """Return the size of a regular file, None for a folder."""
    if entry.is_symlink():
        raise BundleError(
            f"{what} is a link", expected="a regular file", todo="copy the file in its place"
        )
    if entry.is_dir(follow_symlinks=False):
        return None
    status = entry.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{what} is no regular file")
    if _CODE.search(entry.name):
        raise BundleError(
            f"{what} is a program or library", expected="data alone", todo="remove it"
        )
    return status.st_size
