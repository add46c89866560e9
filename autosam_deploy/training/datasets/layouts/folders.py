"""Two folders, images and labels with equal names; perhaps with a dataset.json beside them.

That is nnU-Net's raw layout (both versions), the Medical Segmentation Decathlon's, and folders of
PNG slices as the reference implementation writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from autosam_deploy.errors import SpecError, UsageError, VolumeError
from autosam_deploy.training.datasets.dataset import Dataset, Pair, check_pairs
from autosam_deploy.training.datasets.dataset_json import DatasetJson, read_dataset_json
from autosam_deploy.training.datasets.layouts.folder import Folder, check_channel
from autosam_deploy.training.datasets.png import entries, png_folders, png_slices
from autosam_deploy.training.datasets.texts import listed
from autosam_deploy.volumes.cases import Case, find_cases
from autosam_deploy.volumes.read import SUFFIXES, case_name

#: Folders of images and of labels that `--data` looks for: nnU-Net's, plain ones, the reference's.
SUBFOLDERS = (("imagesTr", "labelsTr"), ("images", "labels"), ("imgs", "annotations"))

#: `folders`: images and labels with equal names. `nnunet`, `decathlon`: a dataset.json in that
#: schema lies beside them. `png`: a folder of slices a volume.
_TITLES = {
    "folders": "two folders with equal names",
    "nnunet": "nnU-Net",
    "decathlon": "Decathlon or nnU-Net v1",
    "png": "folders of PNG slices",
}

_DATASET_JSON = "dataset.json"

#: nnU-Net numbers the channels of a case in the names of their files.
_CHANNEL = re.compile(r"(.+)_(\d{4})")


def find(folder: Folder) -> Dataset | None:
    """Find `imagesTr` and `labelsTr`, `images` and `labels`, or `imgs` and `annotations`.

    Raises:
        UsageError: two of these; see also `pair_folders`.
        VolumeError, SpecError: as `pair_folders`.
    """
    data = folder.root
    found = [
        (data / first, data / second)
        for first, second in SUBFOLDERS
        if (data / first).is_dir() and (data / second).is_dir()
    ]
    if len(found) > 1:
        known = ", ".join(f"{first}/ and {second}/" for first, second in SUBFOLDERS)
        raise UsageError(
            f"several sets in '{data}'",
            got=" and ".join(f"'{pair[0].name}/'" for pair in found),
            expected=f"one of {known}",
            todo="name the two folders with --images and --labels",
        )
    return pair_folders(*found[0], channel=folder.channel) if found else None


def pair_folders(images: Path, labels: Path, *, channel: int | None = None) -> Dataset:
    """Pair the volumes of two folders by name.

    Args:
        images: folder of volumes, DICOM series folders or folders of PNG slices.
        labels: folder of their labels. A `dataset.json` in the folder that holds both is read.
        channel: which one to take where cases have several.

    Raises:
        UsageError: one folder for both; more than one channel and none chosen, or no such channel.
        VolumeError: nothing there; names that do not pair up.
        SpecError: a dataset.json that cannot be used (see `read_dataset_json`).
    """
    if images.resolve() == labels.resolve():
        raise UsageError("images and labels are one folder", got=f"'{images}'", expected="two")
    content = _read_beside(images, labels)
    layout: str = "folders" if content is None else content.schema
    expected = "one label file for every volume, with its name"
    if _holds_png(labels):
        layout, expected = "png", "a folder of PNG slices for every volume, with its name"
        check_channel(images, channel, [0])
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
        title=_TITLES[layout],
    )


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
    chosen = check_channel(folder, channel, numbers, names)
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
