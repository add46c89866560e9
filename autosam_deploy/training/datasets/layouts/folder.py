"""A folder that may be a data set: what lies in it, looked at once for all layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from autosam_deploy.errors import UsageError
from autosam_deploy.training.datasets.dataset import Part
from autosam_deploy.training.datasets.png import entries
from autosam_deploy.volumes.read import SUFFIXES, case_name

#: BIDS goes deepest: derivatives/PIPELINE/sub-01/ses-01/anat/file.
_DEPTH = 5

#: Folders by which challenges part their data.
_PARTS: dict[str, Part] = {
    "training": "train",
    "train": "train",
    "validation": "val",
    "val": "val",
    "testing": "test",
    "test": "test",
}


@dataclass(frozen=True)
class File:
    """A volume's file: its path, its name without suffix, and the folders that lead to it."""

    path: Path
    stem: str
    folders: tuple[str, ...]

    @property
    def part(self) -> Part | None:
        """What the file's folders keep it for: `training/patient001/` trains."""
        parts = [_PARTS[name.lower()] for name in self.folders if name.lower() in _PARTS]
        return parts[0] if parts else None

    @property
    def own_folders(self) -> tuple[str, ...]:
        """The folders without those that part the data set."""
        return tuple(name for name in self.folders if name.lower() not in _PARTS)


@dataclass(frozen=True)
class Folder:
    """The folder of `--data`, and the channel that was asked for."""

    root: Path
    channel: int | None = None

    @cached_property
    def files(self) -> tuple[File, ...]:
        """Volumes' files in name order, some folders deep, without hidden ones.

        Raises:
            VolumeError: a folder that cannot be read.
        """
        return tuple(_walk(self.root, ())) if self.root.is_dir() else ()

    def check_one_channel(self) -> None:
        """Refuse another channel than the one of a layout that has no others.

        Raises:
            UsageError: as `check_channel`.
        """
        check_channel(self.root, self.channel, [0])


def check_channel(
    folder: Path,
    channel: int | None,
    numbers: Sequence[int],
    names: Sequence[str] = (),
    *,
    what: str = "channels",
    expected: str = "one grey channel, which is what the encoder takes",
) -> int:
    """Return the channel to take: the only one, or the one that was asked for.

    Args:
        folder: for messages.
        channel: what was asked for.
        numbers: of the channels that there are.
        names: of channels 0, 1, ...
        what: what is numbered.
        expected: what would be right, for messages.

    Raises:
        UsageError: several and none chosen, or no such channel.
    """
    shown = ", ".join(
        f"{number} ({names[number]})" if number < len(names) else str(number) for number in numbers
    )
    if channel is None and len(numbers) > 1:
        raise UsageError(
            f"cases of '{folder}' have several {what}",
            got=shown,
            expected=expected,
            todo="choose one with --channel N",
        )
    if channel is not None and channel not in numbers:
        raise UsageError(f"no such channel in '{folder}'", got=str(channel), expected=shown)
    return numbers[0] if channel is None else channel


def _walk(folder: Path, above: tuple[str, ...]) -> list[File]:
    found: list[File] = []
    for path in sorted(entries(folder)):
        if path.is_dir():
            if len(above) < _DEPTH:
                found += _walk(path, (*above, path.name))
        elif path.name.lower().endswith(SUFFIXES):
            found.append(File(path, case_name(path), above))
    return found
