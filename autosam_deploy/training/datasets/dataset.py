"""What a labelled data set is: pairs of image and labels, with what their layout tells of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from autosam_deploy.errors import UsageError, VolumeError
from autosam_deploy.training.datasets.texts import counted, listed

#: What a data set's own folders or lists say a volume is for.
Part = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Pair:
    """One labelled volume: files, a DICOM folder as image, or two folders of PNG slices.

    patient_id: whose volume it is; None where neither layout nor name nor DICOM header tells.
    frame: time point of two 4-D files, counted from 0; None where they are 3-D.
    part: what the data set keeps the volume for, None where it does not say.
    phase, group: such as ED or ES, and the diagnosis; empty where the data set does not say.
    """

    name: str
    image: Path
    label: Path
    patient_id: str | None = None
    frame: int | None = None
    part: Part | None = None
    phase: str = ""
    group: str = ""

    @property
    def patient(self) -> str:
        """Whose volume it is; the volume's own name where nothing tells."""
        return self.name if self.patient_id is None else self.patient_id

    @property
    def where(self) -> str:
        """The label file, for messages; with the time point where the file holds several."""
        return f"'{self.label}'" + ("" if self.frame is None else f" (frame {self.frame})")


@dataclass(frozen=True)
class Dataset:
    """A labelled data set; `cases` are sorted by name.

    layout: a short word for code (`folders`, `nnunet`, `acdc`, ...); title: its name for people.
    class_names: of its dataset.json or its publication, None without them. root: the folder that
    holds all of it, None where images and labels were named one by one. notes: what its user should
    know, such as files that were left out.
    """

    layout: str
    cases: tuple[Pair, ...]
    class_names: tuple[str, ...] | None = None
    dataset_json: Path | None = None
    title: str = ""
    root: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the volumes."""
        return tuple(case.name for case in self.cases)

    @property
    def summary(self) -> str:
        """One line: layout, patients (where known) and volumes."""
        volumes = counted(len(self.cases), "volume") + _by(case.phase for case in self.cases)
        if any(case.patient_id is None for case in self.cases):
            return f"layout: {self.title or self.layout}, {volumes}"
        groups = {case.patient: case.group for case in self.cases}
        patients = counted(len(groups), "patient") + _by(groups.values())
        return f"layout: {self.title or self.layout}, {patients}, {volumes}"

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
    of_images, of_labels = set(images), set(labels)
    without_labels = sorted(of_images - of_labels)
    without_image = sorted(of_labels - of_images)
    odd = [
        f"{listed(names)} without {missing}"
        for names, missing in ((without_labels, "labels"), (without_image, "an image"))
        if names
    ]
    if odd:
        raise VolumeError(f"{what} do not pair up", got=", and ".join(odd), expected=expected)


def make_dataset(
    layout: str,
    title: str,
    cases: Iterable[Pair],
    *,
    class_names: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Return a data set of volumes in any order.

    Raises:
        VolumeError: two volumes with one name.
    """
    taken: dict[str, Pair] = {}
    for case in cases:
        if case.name in taken:
            raise VolumeError(
                f"two volumes are named '{case.name}'",
                got=f"'{taken[case.name].image}' and '{case.image}'",
                todo="rename one: splits and scores name volumes",
            )
        taken[case.name] = case
    ordered = tuple(taken[name] for name in sorted(taken))
    return Dataset(layout, ordered, class_names, title=title, notes=notes)


def _by(kinds: Iterable[str]) -> str:
    """Return how many there are of every kind, in brackets; nothing where there are no kinds."""
    counts = Counter(kind for kind in kinds if kind)
    shown = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    return f" ({shown})" if shown else ""
