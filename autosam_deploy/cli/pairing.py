"""Which files `autosam-evaluate` compares and where it writes, refused before any work is done."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from autosam_deploy.errors import OutputError, UsageError
from autosam_deploy.volumes.cases import Case, find_cases

#: Names of unpaired cases that a message lists.
_LISTED = 10


@dataclass(frozen=True)
class Pair:
    """One case: `source` is its prediction, or the image to predict from; `truth` its labels."""

    name: str
    source: Path
    truth: Path


@dataclass(frozen=True)
class Pairing:
    """Pairs sorted by name, and the names that only one side has."""

    pairs: tuple[Pair, ...]
    only_sources: tuple[str, ...] = ()
    only_truths: tuple[str, ...] = ()


def pair_cases(source: Path, truth: Path, *, what: str, allow_missing: bool = False) -> Pairing:
    """Pair predictions or images with labels.

    Args:
        source: file, DICOM series folder or a folder of either.
        truth: likewise. Two paths that are one volume each are a pair whatever their names;
            volumes of folders pair by name.
        what: what the sources are, for messages ("predictions", "images").
        allow_missing: leave out names that only one side has, instead of refusing them.

    Raises:
        VolumeError: nothing at one of the paths, or two volumes with one name.
        UsageError: a name without its counterpart; nothing that pairs up.
    """
    sources, truths = find_cases(source), find_cases(truth)
    if _is_one_volume(sources, source) and _is_one_volume(truths, truth):
        return Pairing((Pair(truths[0].name, source, truth),))
    mine = {case.name: case.path for case in sources}
    theirs = {case.name: case.path for case in truths}
    only_sources = tuple(sorted(mine.keys() - theirs.keys()))
    only_truths = tuple(sorted(theirs.keys() - mine.keys()))
    pairs = tuple(Pair(n, mine[n], theirs[n]) for n in sorted(mine.keys() & theirs.keys()))
    if not pairs or ((only_sources or only_truths) and not allow_missing):
        raise UsageError(
            f"{what} of '{source}' and labels of '{truth}' do not pair up",
            got="; ".join(
                f"{_listed(names)} without {other}"
                for names, other in ((only_sources, "labels"), (only_truths, f"one of the {what}"))
                if names
            ),
            expected="equal names",
            todo="use --allow-missing to evaluate those that pair up" if pairs else "rename them",
        )
    return Pairing(pairs, only_sources, only_truths)


def _is_one_volume(cases: list[Case], path: Path) -> bool:
    return len(cases) == 1 and cases[0].path == path


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_LISTED])
    more = len(names) - _LISTED
    return f"{shown} and {more} more" if more > 0 else shown


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path]) -> None:
    """Refuse places for results that cannot be written, or that hold something that is read.

    Args:
        outputs: option -> file, None where it was not given.
        inputs: files and folders (DICOM series, bundles) that the command reads.

    Raises:
        OutputError: a folder, not writable, an input, or the file of another option.
    """
    read = [path.resolve() for path in inputs]
    taken: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        place = path.resolve()
        if path.is_dir():
            raise OutputError(f"'{path}' is a folder", expected=f"a file for {option}")
        if any(place == one or one in place.parents for one in read):
            raise OutputError(f"{option} would replace '{path}', which is read", todo="rename it")
        if place in taken:
            raise OutputError(f"{taken[place]} and {option} name one file", got=f"'{path}'")
        taken[place] = option
        _check_writable(path.parent)


def _check_writable(folder: Path) -> None:
    """Refuse a place that cannot be written, before hours of work; makes nothing."""
    existing = folder.absolute()
    while not os.access(existing, os.F_OK) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError(f"'{existing}' is a file", expected="a folder to write into")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(
            f"cannot write into '{folder}'",
            got=f"'{existing}', where this user may not write",
            todo="choose another output path",
        )
