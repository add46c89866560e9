"""`dataset.json`: the classes, channels and file ending of a data set, in both of its schemas.

nnU-Net v2 has `labels` name -> integer, `channel_names` and `file_ending`. The Medical Segmentation
Decathlon, and nnU-Net v1 after it, have `labels` integer (as text) -> name, and `modality`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autosam_deploy.errors import SpecError
from autosam_deploy.training.datasets.texts import listed, read_json

Schema = Literal["nnunet", "decathlon"]

#: Labels are bytes.
_MOST_CLASSES = 256


@dataclass(frozen=True)
class DatasetJson:
    """What the file says.

    class_names: of labels 0 .. K - 1. channels: empty where it names none. file_ending: None where
    it says nothing; other files are then no part of the set.
    """

    path: Path
    schema: Schema
    class_names: tuple[str, ...]
    channels: tuple[str, ...] = ()
    file_ending: str | None = None


def read_dataset_json(path: Path) -> DatasetJson:
    """Read a `dataset.json`.

    Raises:
        UsageError: it cannot be read, or is no JSON object.
        SpecError: labels that are regions, skip a value or are to be ignored; names that repeat or
            do not begin with the background; files named one by one.
    """
    content = read_json(path)
    if "dataset" in content:
        raise SpecError(
            f"'{path}' names its files one by one ('dataset')",
            expected="files in imagesTr and labelsTr",
            todo="copy or link them there, and remove 'dataset'",
        )
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise SpecError(
            f"'{path}' names no labels",
            got="'labels' that is empty or no object" if "labels" in content else "no 'labels'",
            expected='"labels": {"background": 0, "name": 1, ...}',
        )
    texts = all(key.isdecimal() and isinstance(value, str) for key, value in labels.items())
    schema: Schema = "decathlon" if texts else "nnunet"
    values = {int(key): value for key, value in labels.items()} if texts else _invert(path, labels)
    _check_values(path, values)
    names = tuple(values[value] for value in range(len(values)))
    check_class_names(names, f"'{path}'")
    return DatasetJson(
        path, schema, names, channels=_channels(path, content), file_ending=_ending(path, content)
    )


def check_class_names(names: tuple[str, ...], what: str) -> None:
    """Refuse names that cannot be those of labels 0 .. K - 1.

    Args:
        names: in order of their labels.
        what: where they are from, for messages.

    Raises:
        SpecError: the first is not "background" (in any case of letters), there is no other, a name
            repeats, or there are more than labels of one byte can tell apart.
    """
    if names[0].casefold() != "background":
        raise SpecError(
            f"{what} does not begin with the background",
            got=", ".join(names),
            expected="'background' first: it is label 0",
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SpecError(
            f"{what} gives several classes one name", got=listed(twice), expected="distinct names"
        )
    if not 2 <= len(names) <= _MOST_CLASSES:
        raise SpecError(
            f"{what} cannot be trained on",
            got="the background alone" if len(names) == 1 else f"{len(names)} classes",
            expected=f"the background and 1 to {_MOST_CLASSES - 1} others",
        )


def _invert(path: Path, labels: dict[str, Any]) -> dict[int, str]:
    """Turn nnU-Net's name -> integer round."""
    if regions := [name for name, value in labels.items() if isinstance(value, list)]:
        raise SpecError(
            f"'{path}' has regions: classes made of several labels",
            got=f"{listed(regions)}, such as {labels[regions[0]]}",
            expected="one whole number a class",
            todo="name the plain labels there instead",
        )
    if wrong := [name for name, value in labels.items() if type(value) is not int]:
        raise SpecError(
            f"'{path}' gives '{wrong[0]}' no label",
            got=repr(labels[wrong[0]]),
            expected="a whole number",
        )
    values: dict[int, str] = {}
    for name, value in labels.items():
        if value in values:
            raise SpecError(
                f"'{path}' gives two classes the label {value}",
                got=f"'{values[value]}' and '{name}'",
                expected="one class a label",
            )
        values[value] = name
    return values


def _check_values(path: Path, values: dict[int, str]) -> None:
    if ignored := [value for value, name in values.items() if name.casefold() == "ignore"]:
        raise SpecError(
            f"'{path}' has a label to ignore",
            got=f"'{values[ignored[0]]}': {ignored[0]}",
            expected="labels that are all trained on",
            todo="give those voxels a class, or leave their volumes out",
        )
    if sorted(values) != list(range(len(values))):
        raise SpecError(
            f"'{path}' skips label values",
            got=", ".join(str(value) for value in sorted(values)),
            expected=f"0..{len(values) - 1}",
            todo="name the values between as well, or renumber the labels",
        )


def _channels(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    channels = content.get("channel_names", content.get("modality", {}))
    if not isinstance(channels, dict) or sorted(channels) != sorted(map(str, range(len(channels)))):
        raise SpecError(
            f"'{path}' does not number its channels",
            got=repr(channels)[:80],
            expected='"channel_names": {"0": "MRI"}',
        )
    return tuple(str(channels[str(number)]) for number in range(len(channels)))


def _ending(path: Path, content: dict[str, Any]) -> str | None:
    ending = content.get("file_ending")
    if ending is not None and not isinstance(ending, str):
        raise SpecError(f"file_ending of '{path}'", got=repr(ending), expected="text")
    return ending
