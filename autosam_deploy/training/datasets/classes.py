"""Names of classes: from an option, from the data set, or made up from the labels."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from pathlib import Path

from autosam_deploy.errors import SpecError
from autosam_deploy.training.datasets.dataset import Dataset
from autosam_deploy.training.datasets.dataset_json import check_class_names, read_dataset_json
from autosam_deploy.training.datasets.texts import is_file, names_from


def given_names(text: str | None, dataset: Dataset) -> tuple[str, ...] | None:
    """Return the class names that somebody gave, before any label is read.

    Args:
        text: of `--classes`: names by comma, a text file with one a line, or a dataset.json.
        dataset: its dataset.json counts where `text` is None.

    Returns:
        Names of labels 0 .. K - 1, or None where nobody names them.

    Raises:
        UsageError: a file that cannot be read, an empty name or a name twice.
        SpecError: the background does not come first, or is alone; see also `read_dataset_json`.
    """
    if text is None:
        return dataset.class_names
    if text.lower().endswith(".json") and is_file(text):
        return read_dataset_json(Path(text)).class_names
    names = names_from(text, "--classes")
    check_class_names(names, "--classes")
    return names


def class_names(
    text: str | None, dataset: Dataset, labels_present: AbstractSet[int]
) -> tuple[str, ...]:
    """Return the name of every class, background first.

    Args:
        text: of `--classes`, as `given_names` takes it.
        dataset: its dataset.json counts where `text` is None.
        labels_present: label values that the volumes hold.

    Returns:
        What `given_names` returns, else `background`, `class_1` and so on up to the largest label.

    Raises:
        UsageError: as `given_names`.
        SpecError: as `given_names`; fewer names than labels; no foreground; label values with a gap
            that nobody named (which may be a mistake, and would cost a class that is never seen).
    """
    names = given_names(text, dataset)
    largest = max(labels_present, default=0)
    shown = ", ".join(str(value) for value in sorted(labels_present)[:12]) or "none"
    if names is not None:
        if largest >= len(names):
            raise SpecError(
                "fewer class names than labels",
                got=f"{len(names)} names ({', '.join(names)}) for labels {shown}",
                expected=f"{largest + 1} names, background first",
            )
        return names
    if largest == 0:
        raise SpecError("labels to name classes after", got=shown, expected="some foreground")
    if missing := set(range(1, largest)) - labels_present:
        raise SpecError(
            "label values have gaps",
            got=shown,
            expected=f"0..{largest}, and there is no {min(missing)}",
            todo="name all classes with --classes, or renumber the labels",
        )
    return ("background", *(f"class_{value}" for value in range(1, largest + 1)))
