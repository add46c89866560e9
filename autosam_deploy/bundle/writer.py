"""Writing a bundle: into a temporary sibling, put in place whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.manifest import (
    MANIFEST,
    FileRef,
    GoldenCase,
    Manifest,
    check_member_path,
)
from autosam_deploy.bundle.members import list_members
from autosam_deploy.bundle.reader import Bundle, read_manifest
from autosam_deploy.errors import BundleError, OutputError
from autosam_deploy.files import atomic_file, atomic_folder, sha256_file, write_json


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

    def golden(
        self,
        name: str,
        *,
        slices: NDArray[np.float32],
        labels: NDArray[np.uint8],
        logits: NDArray[np.float32],
    ) -> GoldenCase:
        """Write a golden case: slices (B, 1, H, W), labels (B, H, W), logits (B, K, H, W)."""
        (self.folder / "golden").mkdir(exist_ok=True)

        def save(kind: str, array: NDArray[Any]) -> FileRef:
            np.save(self.folder / "golden" / f"{name}.{kind}.npy", array)
            return self.ref(f"golden/{name}.{kind}.npy")

        return GoldenCase(
            name=name,
            slices=save("slices", slices),
            labels=save("labels", labels),
            logits=save("logits", logits),
        )

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


def add_member(bundle: Bundle, path: str, content: bytes) -> FileRef:
    """Write a file into a bundle; it is a member once `amend_bundle` has named it.

    Raises:
        OutputError: it cannot be written.
    """
    target = bundle.path / check_member_path(path)
    with atomic_file(target) as temporary:
        temporary.write_bytes(content)
    return FileRef(path=path, sha256=sha256_file(target), bytes=len(content))


def amend_bundle(bundle: Bundle, manifest: Manifest) -> Bundle:
    """Put a manifest in the place of a bundle's own, then remove what it does not name any more.

    New members lie there already, under names that no old one has, so a stop at any moment leaves
    a sound bundle.

    Raises:
        BundleError: the manifest names what is not there.
        OutputError: it cannot be written.
    """
    write_json(bundle.path / MANIFEST, manifest.model_dump(mode="json", exclude_none=True))
    named = {ref.path for ref in manifest.files()}
    for ref in bundle.manifest.files():
        if ref.path not in named:
            bundle.file(ref).unlink(missing_ok=True)
    return Bundle.open(bundle.path, verify=False)


def _is_bundle(path: Path) -> bool:
    """Tell a bundle, also of another version, from folders that hold some manifest.json.

    Web sites and browser extensions have a file of that name too, and must not be replaced.
    """
    try:
        value = json.loads(read_manifest(path))
    except (BundleError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and {"schema_version", "artefacts"} <= value.keys()
