"""Opening a bundle: nothing in it is believed before it was checked."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autosam_deploy.bundle.manifest import (
    SCHEMA_VERSION,
    Artefact,
    FileRef,
    Kind,
    Manifest,
    Precision,
)
from autosam_deploy.errors import BundleError, SpecError
from autosam_deploy.files import sha256_file
from autosam_deploy.spec import parse_spec

MANIFEST = "manifest.json"

#: A real manifest has some tens of KiB; a larger one is a mistake or an attack.
MAX_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its manifest."""

    path: Path
    manifest: Manifest
    manifest_sha256: str

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
        if not folder.is_dir():
            raise BundleError(
                f"no bundle at '{folder}'",
                got="a file" if folder.exists() else "nothing",
                expected="a folder NAME.autosam",
                todo="make one with autosam-export",
            )
        text = _read_manifest(folder)
        manifest = parse_manifest(text, name=str(folder / MANIFEST))
        bundle = cls(folder, manifest, sha256_file(folder / MANIFEST))
        for ref in manifest.files():
            bundle._check(ref, verify=verify)
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

    def _check(self, ref: FileRef, *, verify: bool) -> None:
        path = self.file(ref)
        what = f"bundle member '{ref.path}' of '{self.path}'"
        # Walk by lstat: a link anywhere on the way could lead out of the folder.
        current = self.path
        for part in ref.path.split("/"):
            current = current / part
            if not os.path.lexists(current):
                raise BundleError(f"{what} is missing", todo="copy the whole folder again")
            if current.is_symlink():
                raise BundleError(f"{what} is a link", expected="a regular file")
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BundleError(f"{what} is no regular file")
        size = path.stat().st_size
        if size != ref.bytes:
            raise BundleError(f"{what} was altered", got=f"{size} bytes", expected=str(ref.bytes))
        if verify and (digest := sha256_file(path)) != ref.sha256:
            raise BundleError(
                f"{what} was altered",
                got=f"sha256 {digest[:16]}...",
                expected=f"{ref.sha256[:16]}...",
                todo="copy or export the bundle again",
            )


def _read_manifest(folder: Path) -> str:
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise BundleError(
            f"'{folder}' is no bundle",
            got="no manifest.json in it",
            expected="a folder that autosam-export wrote",
        )
    size = path.stat().st_size
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"'{path}' is too large", got=f"{size} bytes", expected=f"at most {MAX_MANIFEST_BYTES}"
        )
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"'{path}' cannot be read", got=str(error)) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BundleError(f"the manifest names '{twice}' twice in one object")
    return found


def parse_manifest(text: str, *, name: str = MANIFEST) -> Manifest:
    """Validate the text of a manifest.

    Raises:
        BundleError: no JSON, another schema version, unknown or missing keys, unsafe paths.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BundleError(f"'{name}' is no JSON", got=str(error)) from error
    if not isinstance(value, dict):
        raise BundleError(
            f"'{name}' is no manifest", got=type(value).__name__, expected="an object"
        )
    version = value.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
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
