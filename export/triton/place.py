"""Putting a model or a version into a model repository in one step."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autosam_deploy.bundle.manifest import FileRef
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BundleError, OutputError
from autosam_deploy.files import atomic_file, atomic_folder

Fill = Callable[[Path], None]

_CHUNK = 1 << 22
#: Triton reads a folder's number up to the first character that is no digit: `3-old` is version 3.
_NUMBERED = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Existing:
    """What is at a model's place.

    versions: numbers of proper versions. numbers: these and those of folders that Triton would
    take for versions.
    """

    path: Path
    empty: bool
    versions: frozenset[int] = frozenset()
    numbers: frozenset[int] = frozenset()

    def differing(self, shared: Mapping[str, bytes]) -> tuple[str, ...]:
        """Return the files that are missing or hold something else.

        Args:
            shared: POSIX path in the model's folder -> content.

        Raises:
            OutputError: one cannot be read.
        """
        found = []
        for name, content in shared.items():
            path = self.path / name
            try:
                if not path.exists() or path.read_bytes() != content:
                    found.append(name)
            except OSError as error:
                raise OutputError(
                    f"'{path}' cannot be read", got=error.strerror or str(error)
                ) from error
        return tuple(found)

    def check_config(self, changed: tuple[str, ...], *, allowed: bool) -> None:
        """Refuse to touch a model that is configured otherwise.

        Raises:
            OutputError: files differ and that is not allowed.
        """
        if changed and not self.empty and not allowed:
            raise OutputError(
                f"model '{self.path}' is configured otherwise",
                got=f"other or no {', '.join(changed)}",
                expected="what this bundle and these options give",
                todo="choose another --name, or say --existing-config keep or replace",
            )


def look_at_model(path: Path) -> Existing:
    """Return what is at a model's place.

    Raises:
        OutputError: something that is no model, or cannot be read.
    """
    try:
        if not path.exists() and not path.is_symlink():
            return Existing(path, empty=True)
        names = [entry.name for entry in path.iterdir() if entry.is_dir()]
        files = [entry.name for entry in path.iterdir() if not entry.is_dir()]
    except OSError as error:
        raise OutputError(
            f"'{path}' is in the way",
            got=error.strerror or str(error),
            expected="a free name or a model of a Triton repository",
            todo="choose another --name or --output",
        ) from error
    if not names and not files:
        return Existing(path, empty=True)
    matched = {name: _NUMBERED.match(name) for name in names}
    numbers = {name: int(found[0]) for name, found in matched.items() if found is not None}
    if not numbers and "config.pbtxt" not in files:
        raise OutputError(
            f"'{path}' is in the way",
            got="a folder with neither config.pbtxt nor a numbered version",
            expected="a free name or a model of a Triton repository",
            todo="choose another --name or --output",
        )
    versions = frozenset(number for name, number in numbers.items() if name == str(number))
    return Existing(path, empty=False, versions=versions, numbers=frozenset(numbers.values()))


def place_model(
    repository: Path, name: str, version: int, *, shared: Mapping[str, bytes], fill: Fill
) -> None:
    """Write a model with its first version; a killed process leaves no part of it.

    Args:
        repository: folder of models, made if it is not there.
        name: of the model.
        version: of its first version.
        shared: POSIX path in the model's folder -> content.
        fill: writes the files of the version into a folder.

    Raises:
        OutputError: it cannot be written, or somebody else wrote it meanwhile.
    """
    with _staging(repository) as staging:
        with atomic_folder(staging / name) as folder:
            for path, content in shared.items():
                (folder / path).parent.mkdir(exist_ok=True)
                (folder / path).write_bytes(content)
            (folder / str(version)).mkdir()
            fill(folder / str(version))
        _move(staging / name, repository / name, retired=None)


def place_version(model: Path, version: int, *, shared: Mapping[str, bytes], fill: Fill) -> None:
    """Add a version to a model, or replace one.

    Files that all versions share are replaced when the version is complete, right before it is
    moved: the other way round, a killed process would leave a version without its configuration,
    and the next run would add it once more. Replacing a version takes two renames; a process
    killed between them leaves the old version in the temporary folder `.tmp-*` beside the
    repository.

    Args:
        model: folder of the model.
        version: its number.
        shared: POSIX path in the model's folder -> content that takes the place of what is there.
        fill: writes the files of the version into a folder.

    Raises:
        OutputError: it cannot be written, or somebody else wrote it meanwhile.
    """
    target = model / str(version)
    replace = target.exists()
    with _staging(model.parent) as staging:
        with atomic_folder(staging / str(version)) as folder:
            fill(folder)
        for path, content in shared.items():
            with atomic_file(model / path) as temporary:
                temporary.write_bytes(content)
        _move(staging / str(version), target, retired=staging / "retired" if replace else None)


def copy_member(bundle: Bundle, ref: FileRef, target: Path) -> None:
    """Copy a member of a bundle, hashing what is copied.

    Raises:
        BundleError: it cannot be read, or is not what the manifest binds.
        OSError: the copy cannot be written.
    """
    what = f"bundle member '{ref.path}' of '{bundle.path}'"
    try:
        source = bundle.file(ref).open("rb")
    except OSError as error:
        raise BundleError(f"{what} cannot be read", got=error.strerror or str(error)) from error
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, target.open("wb") as stream:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            stream.write(chunk)
    if digest.hexdigest() != ref.sha256:
        raise BundleError(
            f"{what} was altered",
            got=f"sha256 {digest.hexdigest()[:16]}...",
            expected=f"{ref.sha256[:16]}...",
            todo="copy or export the bundle again",
        )


@contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """Yield a temporary folder beside a repository, on the same file system."""
    parent = repository.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if repository.exists() and repository.stat().st_dev != parent.stat().st_dev:
            raise _other_file_system(repository)
        staging = Path(tempfile.mkdtemp(dir=parent, prefix=f".tmp-{repository.name}-"))
    except OSError as error:
        raise OutputError(
            f"cannot write beside '{repository}'",
            got=error.strerror or str(error),
            expected=f"a writable folder '{parent}', where models are put together",
            todo="choose an --output in a folder that you may write",
        ) from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(source: Path, target: Path, *, retired: Path | None) -> None:
    """Rename a folder into its place, out of which an older one goes to `retired`."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if retired is not None:
            target.replace(retired)
        try:
            # Onto a folder that is not empty, this fails: nothing that came meanwhile is lost.
            source.replace(target)
        except OSError:
            if retired is not None:
                retired.replace(target)
            raise
        handle = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise OutputError(
            f"cannot move the model to '{target}'",
            got=error.strerror or str(error),
            expected="a writable folder in which nothing else writes this version",
            todo="run it again, or choose another --output",
        ) from error


def _other_file_system(repository: Path) -> OutputError:
    return OutputError(
        f"'{repository}' is the top of a file system of its own",
        expected="a folder in it, so that a model can be moved there in one step",
        todo=f"take --output '{repository / 'models'}', or write elsewhere and copy the model",
    )
