"""Opening a bundle: nothing in it is believed before it was checked.

The folder holds `manifest.json`, the members it names, and nothing that is a link, a device or
code. Other files (a `.DS_Store`, somebody's notes) are left alone and named in `Bundle.notes`: file
managers drop such files into every folder they show, and nothing here ever reads them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autosam_deploy.bundle.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    Artefact,
    FileRef,
    Kind,
    Manifest,
    Precision,
)
from autosam_deploy.bundle.members import list_members
from autosam_deploy.errors import BundleError, SpecError
from autosam_deploy.files import sha256_file
from autosam_deploy.strict import parse_spec

_LOG = logging.getLogger(__name__)

#: A real manifest has some tens of KiB; a larger one is a mistake or an attack.
MAX_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder, its manifest, and what was odd but harmless about it."""

    path: Path
    manifest: Manifest
    manifest_sha256: str
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = True) -> Bundle:
        """Open a bundle folder.

        Args:
            path: the `NAME.autosam` folder.
            verify: hash every member; otherwise presence and size alone are checked.

        Raises:
            BundleError: missing, incomplete, altered or unsafe, or of another schema version.
        """
        folder = Path(path)
        try:
            is_folder, exists = folder.is_dir(), folder.exists()
        except OSError as error:
            raise BundleError(f"'{folder}' cannot be read", got=str(error)) from error
        if not is_folder:
            raise BundleError(
                f"no bundle at '{folder}'",
                got="a file" if exists else "nothing",
                expected="a folder NAME.autosam",
                todo="make one with autosam-export",
            )
        content = read_manifest(folder)
        manifest = parse_manifest(content, name=str(folder / MANIFEST))
        members = list_members(folder)
        listed = {MANIFEST} | {ref.path for ref in manifest.files()}
        notes = tuple(
            f"'{name}' is not in the manifest" for name in sorted(members.keys() - listed)
        )
        bundle = cls(folder, manifest, hashlib.sha256(content).hexdigest(), notes)
        for ref in manifest.files():
            bundle._check(ref, members, verify=verify)
        for note in notes:
            _LOG.warning("bundle '%s': %s; it is ignored", folder, note)
        return bundle

    def file(self, ref: FileRef) -> Path:
        """Return where a member lies."""
        return self.path / ref.path

    def find(self, kind: Kind, precision: Precision | None = None) -> Artefact | None:
        """Return the first artefact of that kind and precision, or None."""
        for artefact in self.manifest.artefacts:
            if artefact.kind == kind and precision in (None, artefact.precision):
                return artefact
        return None

    def precisions(self, kind: Kind) -> tuple[Precision, ...]:
        """Return the precisions in which a kind of artefact is there."""
        return tuple(a.precision for a in self.manifest.artefacts if a.kind == kind)

    def _check(self, ref: FileRef, members: dict[str, int], *, verify: bool) -> None:
        what = f"bundle member '{ref.path}' of '{self.path}'"
        path = self.file(ref)
        if ref.path not in members:
            if path.is_dir():
                raise BundleError(f"{what} is no regular file", got="a folder")
            raise BundleError(f"{what} is missing", todo="copy the whole folder again")
        if members[ref.path] != ref.bytes:
            raise BundleError(
                f"{what} was altered",
                got=f"{members[ref.path]} bytes",
                expected=str(ref.bytes),
                todo="copy or export the bundle again",
            )
        if verify:
            self.verify(ref)

    def verify(self, ref: FileRef) -> None:
        """Hash one member.

        Raises:
            BundleError: it cannot be read, or is not what the manifest binds.
        """
        what = f"bundle member '{ref.path}' of '{self.path}'"
        try:
            digest = sha256_file(self.file(ref))
        except OSError as error:
            raise BundleError(f"{what} cannot be read", got=str(error)) from error
        if digest != ref.sha256:
            raise BundleError(
                f"{what} was altered",
                got=f"sha256 {digest[:16]}...",
                expected=f"{ref.sha256[:16]}...",
                todo="copy or export the bundle again",
            )


def read_manifest(folder: Path) -> bytes:
    """Return the bytes of a folder's manifest, never more than `MAX_MANIFEST_BYTES`.

    Raises:
        BundleError: there is none, it is a link, too large, or cannot be read.
    """
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise BundleError(
            f"'{folder}' is no bundle",
            got=f"{MANIFEST} that is a link" if path.is_symlink() else f"no {MANIFEST} in it",
            expected="a folder that autosam-export wrote",
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            content = stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"'{path}' cannot be read", got=str(error)) from error
    if max(size, len(content)) > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"'{path}' is too large", got=f"{size} bytes", expected=f"at most {MAX_MANIFEST_BYTES}"
        )
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BundleError(f"the manifest names '{twice}' twice in one object")
    return found


def parse_manifest(text: str | bytes, *, name: str = MANIFEST) -> Manifest:
    """Validate the UTF-8 text of a manifest.

    Raises:
        BundleError: no JSON, another schema version, unknown or missing keys, unsafe paths.
    """
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(decoded, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        # ValueError: no JSON, no UTF-8, or a number of thousands of digits.
        raise BundleError(f"'{name}' is no JSON", got=str(error)) from error
    if not isinstance(value, dict):
        raise BundleError(
            f"'{name}' is no manifest", got=type(value).__name__, expected="an object"
        )
    version = value.get("schema_version")
    if type(version) is int and version > SCHEMA_VERSION:
        raise BundleError(
            f"'{name}' was made by a newer autosam-deploy",
            got=f"schema version {version}",
            expected=f"{SCHEMA_VERSION}",
            todo="upgrade autosam-deploy or export again with this version",
        )
    try:
        return parse_spec(Manifest, value, what=f"'{name}'")
    except SpecError as error:
        raise BundleError(str(error)) from error
