"""Labelled data sets on disk: what layout a folder has, and which image belongs to which labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from autosam_deploy.errors import SpecError, UsageError, VolumeError
from autosam_deploy.training.datasets.dataset_json import DatasetJson, read_dataset_json
from autosam_deploy.training.datasets.png import entries, png_folders, png_slices
from autosam_deploy.training.datasets.texts import listed
from autosam_deploy.volumes.cases import Case, find_cases
from autosam_deploy.volumes.read import SUFFIXES, case_name

#: `folders`: images and labels with equal names. `nnunet`, `decathlon`: a dataset.json in that
#: schema lies beside them. `png`: a folder of slices a volume, as the reference writes them.
Layout = Literal["folders", "nnunet", "decathlon", "png"]

#: Folders of images and of labels that `--data` looks for: nnU-Net's, plain ones, the reference's.
_SUBFOLDERS = (("imagesTr", "labelsTr"), ("images", "labels"), ("imgs", "annotations"))

_DATASET_JSON = "dataset.json"

#: nnU-Net numbers the channels of a case in the names of their files.
_CHANNEL = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class Pair:
    """One labelled volume: files, a DICOM folder as image, or two folders of PNG slices."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Dataset:
    """A labelled data set; `cases` are sorted by name.

    class_names: of its dataset.json, None without one.
    """

    layout: Layout
    cases: tuple[Pair, ...]
    class_names: tuple[str, ...] | None = None
    dataset_json: Path | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the volumes."""
        return tuple(case.name for case in self.cases)

    def select(self, names: Iterable[str]) -> Dataset:
        """Return the set with these volumes alone, in the order of `names`.

        Raises:
            UsageError: a name that is not in the set.
        """
        cases, wanted = {case.name: case for case in self.cases}, tuple(names)
        if unknown := [name for name in wanted if name not in cases]:
            raise UsageError(
                "volumes to select", got=listed(unknown), expected=f"names of {listed(self.names)}"
            )
        return replace(self, cases=tuple(cases[name] for name in wanted))


def find_dataset(
    images: Path | None = None,
    labels: Path | None = None,
    data: Path | None = None,
    *,
    channel: int | None = None,
) -> Dataset:
    """Find a labelled data set and pair its files by name; no voxel is read.

    Args:
        images: folder of volumes, DICOM series folders or folders of PNG slices.
        labels: folder of their labels.
        data: instead of the two, the folder that holds both: `imagesTr` and `labelsTr` (nnU-Net),
            `images` and `labels`, or `imgs` and `annotations` (the reference). A `dataset.json` in
            the folder that holds both is read either way.
        channel: which one to take where cases have several.

    Raises:
        UsageError: no such folders; more than one channel and none chosen, or no such channel.
        VolumeError: nothing there; names that do not pair up.
        SpecError: a dataset.json that cannot be used (see `read_dataset_json`).
    """
    images, labels = _folders(images, labels, data)
    if images.resolve() == labels.resolve():
        raise UsageError("images and labels are one folder", got=f"'{images}'", expected="two")
    content = _read_beside(images, labels)
    layout: Layout = "folders" if content is None else content.schema
    expected = "one label file for every volume, with its name"
    if _holds_png(labels):
        layout, expected = "png", "a folder of PNG slices for every volume, with its name"
        _check_channel(images, channel, [0])
        label_paths, image_paths = png_folders(labels), png_folders(images)
    else:
        label_paths = {case.name: case.path for case in _find(labels, content)}
        image_paths = _image_files(images, label_paths.keys(), content, channel)
    what = f"volumes of '{images}' and labels of '{labels}'"
    check_pairs(image_paths, label_paths, what, expected=expected)
    return Dataset(
        layout,
        tuple(Pair(name, image_paths[name], label_paths[name]) for name in sorted(image_paths)),
        class_names=None if content is None else content.class_names,
        dataset_json=None if content is None else content.path,
    )


def check_pairs(images: Iterable[str], labels: Iterable[str], what: str, *, expected: str) -> None:
    """Refuse names that stand on one side alone.

    Args:
        images: names of images.
        labels: names of labels.
        what: both sides, for the message.
        expected: what would be right.

    Raises:
        VolumeError: listing the first few of them.
    """
    without_labels = sorted(set(images) - set(labels))
    without_image = sorted(set(labels) - set(images))
    odd = [
        f"{listed(names)} without {missing}"
        for names, missing in ((without_labels, "labels"), (without_image, "an image"))
        if names
    ]
    if odd:
        raise VolumeError(f"{what} do not pair up", got=", and ".join(odd), expected=expected)


def _folders(images: Path | None, labels: Path | None, data: Path | None) -> tuple[Path, Path]:
    """Return the folders of images and labels."""
    if data is not None and images is None and labels is None:
        found = [
            (data / first, data / second)
            for first, second in _SUBFOLDERS
            if (data / first).is_dir() and (data / second).is_dir()
        ]
        if len(found) != 1:
            known = ", ".join(f"{first}/ and {second}/" for first, second in _SUBFOLDERS)
            raise UsageError(
                f"no labelled data set in '{data}'" if not found else f"several sets in '{data}'",
                got=" and ".join(f"'{pair[0].name}/'" for pair in found) or _content(data),
                expected=f"one of {known}",
                todo="name the two folders with --images and --labels",
            )
        return found[0]
    if data is not None or images is None or labels is None:
        given = {"--images": images, "--labels": labels, "--data": data}
        raise UsageError(
            "a labelled data set",
            got=", ".join(name for name, value in given.items() if value is not None) or "nothing",
            expected="--images and --labels, or --data alone",
        )
    for option, folder in (("--images", images), ("--labels", labels)):
        if not folder.is_dir():
            raise UsageError(f"{option}: no folder '{folder}'", todo="check the path")
    return images, labels


def _content(folder: Path) -> str:
    if not folder.is_dir():
        return "no folder there"
    return listed(sorted(path.name for path in folder.iterdir())) or "an empty folder"


def _read_beside(images: Path, labels: Path) -> DatasetJson | None:
    """Read the dataset.json of the folder that holds both, if it has one."""
    parent = images.absolute().parent
    path = parent / _DATASET_JSON
    same = parent.resolve() == labels.absolute().parent.resolve()
    return read_dataset_json(path) if same and path.is_file() else None


def _holds_png(labels: Path) -> bool:
    """Tell whether labels are folders of PNG slices; pictures beside volumes do not count."""
    if any(path.name.lower().endswith(SUFFIXES) for path in entries(labels)):
        return False
    if png_slices(labels):
        raise VolumeError(
            f"'{labels}' holds PNG slices itself",
            expected="a folder of them for every volume, here and among the images",
        )
    return bool(png_folders(labels))


def _find(folder: Path, content: DatasetJson | None) -> list[Case]:
    """List volumes; where a dataset.json names the file ending, other files are not the set's."""
    ending = None if content is None else content.file_ending
    if content is not None and ending is not None and ending.lower() not in SUFFIXES:
        raise SpecError(
            f"'{content.path}' is of a set whose files are not read",
            got=f"file_ending '{ending}'",
            expected=" ".join(SUFFIXES),
            todo="convert them, or make folders of PNG slices",
        )
    cases = [
        case
        for case in find_cases(folder)
        if ending is None or case.path.name.lower().endswith(ending.lower())
    ]
    if not cases:
        raise VolumeError(f"no volumes in '{folder}'", expected=f"{ending} (its dataset.json)")
    return cases


def _image_files(
    folder: Path, labels: Iterable[str], content: DatasetJson | None, channel: int | None
) -> dict[str, Path]:
    """Return the file of every case, of the chosen channel where cases have several."""
    cases = _by_channel(_find(folder, content), set(labels))
    numbers = sorted({number for files in cases.values() for number in files})
    names = () if content is None else content.channels
    if len(names) > 1 and not any(_CHANNEL.fullmatch(case_name(p)) for p in _paths(cases)):
        raise UsageError(
            f"files of '{folder}' hold several channels each",
            got=", ".join(f"{number} ({name})" for number, name in enumerate(names)),
            expected="one grey channel a file, which is what the encoder takes",
            todo="split them into NAME_0000, NAME_0001 (nnUNetv2_convert_MSD_dataset does)",
        )
    if len(names) > 1:
        numbers = sorted({*numbers, *range(len(names))})
    chosen = _check_channel(folder, channel, numbers, names)
    if without := sorted(name for name, files in cases.items() if chosen not in files):
        raise UsageError(
            f"not every case of '{folder}' has channel {chosen}",
            got=f"{listed(without)} without it",
            expected=f"NAME_{chosen:04d} for every case",
        )
    return {name: files[chosen] for name, files in cases.items()}


def _paths(cases: dict[str, dict[int, Path]]) -> list[Path]:
    return [path for files in cases.values() for path in files.values()]


def _by_channel(cases: list[Case], labels: set[str]) -> dict[str, dict[int, Path]]:
    """Group files by case and channel; a name that says no channel has channel 0.

    Names of volumes may end in four digits by themselves: it is the labels' names that tell.
    """
    parts = [_CHANNEL.fullmatch(case.name) for case in cases]
    bases = {part[1] for part in parts if part is not None}
    if None in parts or labels == {case.name for case in cases} or not bases & labels:
        return {case.name: {0: case.path} for case in cases}
    found: dict[str, dict[int, Path]] = {}
    for case, part in zip(cases, parts, strict=True):
        if part is not None:
            found.setdefault(part[1], {})[int(part[2])] = case.path
    return found


def _check_channel(
    folder: Path, channel: int | None, numbers: Sequence[int], names: Sequence[str] = ()
) -> int:
    """Return the channel to take: the only one, or the one that was asked for."""
    shown = ", ".join(
        f"{number} ({names[number]})" if number < len(names) else str(number) for number in numbers
    )
    if channel is None and len(numbers) > 1:
        raise UsageError(
            f"cases of '{folder}' have several channels",
            got=shown,
            expected="one grey channel, which is what the encoder takes",
            todo="choose one with --channel N",
        )
    if channel is not None and channel not in numbers:
        raise UsageError(f"no such channel in '{folder}'", got=str(channel), expected=shown)
    return numbers[0] if channel is None else channel
