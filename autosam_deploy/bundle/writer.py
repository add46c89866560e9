"""Writing a bundle: into a temporary sibling, put in place whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autosam_deploy.bundle.manifest import MANIFEST, FileRef, Manifest, check_member_path
from autosam_deploy.bundle.members import list_members
from autosam_deploy.bundle.reader import Bundle, read_manifest
from autosam_deploy.errors import BundleError, OutputError
from autosam_deploy.files import atomic_folder, sha256_file, write_json


class BundleWriter:
    """Collects the members of a bundle in a folder that is not visible yet."""

    def __init__(self, folder: Path) -> None:
        """Take the temporary folder to write members into."""
        self.folder = folder
        self.finished = False

    def ref(self, path: str) -> FileRef:
        """Hash a member that was written to `folder / path` (POSIX, relative).

        Raises:
            BundleError: the path is not allowed in a manifest, or no file lies there.
        """
        try:
            member = self.folder / check_member_path(path)
        except ValueError as error:
            raise BundleError("a member of the bundle is badly named", got=str(error)) from error
        if not member.is_file():
            raise BundleError(f"bundle member '{path}' was not written")
        return FileRef(path=path, sha256=sha256_file(member), bytes=member.stat().st_size)

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest and check the bundle as a reader would.

        Raises:
            BundleError: the manifest does not describe the folder, or members are not listed.
        """
        write_json(self.folder / MANIFEST, manifest.model_dump(mode="json", exclude_none=True))
        listed = {ref.path for ref in manifest.files()} | {MANIFEST}
        if strangers := sorted(list_members(self.folder).keys() - listed):
            raise BundleError("files of the bundle are not in its manifest", got=str(strangers))
        Bundle.open(self.folder, verify=False)
        self.finished = True


@contextmanager
def create_bundle(path: Path) -> Iterator[BundleWriter]:
    """Write a bundle; it takes the place of `path` when the block ends without an error.

    An older bundle at `path` is replaced whole; anything else is left alone.

    Raises:
        OutputError: `path` holds something that is no bundle, or cannot be written.
        BundleError: the block ended without `finish`.
    """
    if path.exists() and not _is_bundle(path):
        raise OutputError(
            f"'{path}' is in the way",
            got="a file or a folder that is no bundle",
            expected="a free name or an older bundle",
            todo="choose another --output",
        )
    with atomic_folder(path) as folder:
        writer = BundleWriter(folder)
        yield writer
        if not writer.finished:
            raise BundleError("the bundle was left without a manifest")


def _is_bundle(path: Path) -> bool:
    """Tell a bundle, also of another version, from folders that hold some manifest.json.

    Web sites and browser extensions have a file of that name too, and must not be replaced.
    """
    try:
        value = json.loads(read_manifest(path))
    except (BundleError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and {"schema_version", "artefacts"} <= value.keys()
