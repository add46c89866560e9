"""BIDS: images of subjects in `sub-*/`, their labels in `derivatives/PIPELINE/sub-*/`.

Brain Imaging Data Structure, bids-specification.readthedocs.io. A name is made of entities and a
suffix, `sub-01_ses-2_run-1_T1w`; labels have the suffix `dseg` or `seg`, or an entity `label-...`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from autosam_deploy.errors import VolumeError
from autosam_deploy.training.datasets.dataset import Dataset, Pair, check_pairs, make_dataset
from autosam_deploy.training.datasets.layouts.folder import File, Folder
from autosam_deploy.training.datasets.texts import listed

#: Masks of whole numbers; probabilities (`probseg`) and points (`dlabel`) are none.
_LABELS = re.compile(r".+(?:_(?:dseg|seg|label)(?:-manual)?|-label|_label-[^_]+(?:_mask|_roi)?)")

_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")
_DERIVATIVES = "derivatives"


def find(folder: Folder) -> Dataset | None:
    """Pair the images of a BIDS folder with the labels of its one labelling pipeline.

    Raises:
        UsageError: a channel that is not there.
        VolumeError: no labels, labels of several pipelines, or as `pair_subjects`.
    """
    derived = [file for file in folder.files if file.folders[:1] == (_DERIVATIVES,)]
    derived = [file for file in derived if _subject_at(file) is not None]
    if not derived or not _images(folder.files):
        return None
    labels = [file for file in derived if _LABELS.fullmatch(file.stem)]
    pipelines = sorted({"/".join(file.folders[1 : _subject_at(file)]) for file in labels})
    if len(pipelines) != 1:
        raise VolumeError(
            f"'{folder.root}' holds labels of several pipelines"
            if pipelines
            else f"'{folder.root / _DERIVATIVES}' holds no labels",
            got=listed(pipelines) if pipelines else listed([file.stem for file in derived]),
            expected="names that end in _dseg, _seg or _label-NAME"
            if not pipelines
            else "labels of one",
            todo=f"choose one with --images {folder.root} --labels "
            f"{folder.root / _DERIVATIVES}/{pipelines[0] if pipelines else 'PIPELINE'}",
        )
    return _pair(folder, labels)


def has_subjects(folder: Folder) -> bool:
    """Tell whether a folder holds volumes in folders of subjects, `sub-*`."""
    return bool(_images(folder.files))


def pair_subjects(images: Folder, labels: Folder) -> Dataset:
    """Pair the images of a BIDS folder with the labels of a pipeline.

    Labels belong to the image of the same subject whose entities are the same where both have them;
    where the labels' name or its `space-` names the suffix of an image (`_T1w`), to that one.

    Args:
        images: the folder that holds `sub-*`.
        labels: the pipeline's folder.

    Raises:
        UsageError: a channel that is not there.
        VolumeError: no labels; labels of no image or of several; several labels of one image; an
            image without labels whose like has some elsewhere.
    """
    found = _images(labels.files)
    masks = [file for file in found if _LABELS.fullmatch(file.stem)]
    if not masks:
        raise VolumeError(
            f"'{labels.root}' holds no labels",
            got=listed([file.stem for file in found]) or "no volume",
            expected="names that end in _dseg, _seg or _label-NAME",
        )
    return _pair(images, masks)


def _subject_at(file: File) -> int | None:
    """Return which of the folders that lead to a file is the subject's."""
    at = [number for number, name in enumerate(file.folders) if _SUBJECT.fullmatch(name)]
    return at[0] if at else None


def _images(files: Sequence[File]) -> list[File]:
    return [file for file in files if file.folders[:1] and _SUBJECT.fullmatch(file.folders[0])]


def _pair(folder: Folder, labels: Sequence[File]) -> Dataset:
    folder.check_one_channel()
    images = [file for file in _images(folder.files) if not _LABELS.fullmatch(file.stem)]
    of_image: dict[str, list[File]] = {}
    lost: list[str] = []
    for label in labels:
        fitting = _fitting(label, images)
        if len(fitting) > 1:
            raise VolumeError(
                f"'{label.path}' may belong to several images",
                got=listed([image.stem for image in fitting]),
                expected="one whose entities are those of the labels",
                todo="name the labels after one image, or name two folders with equal names",
            )
        if fitting:
            of_image.setdefault(fitting[0].stem, []).append(label)
        else:
            lost.append(label.stem)
    for name, several in of_image.items():
        if len(several) > 1:
            raise VolumeError(
                f"image '{name}' has several label files",
                got=listed([label.stem for label in several]),
                expected="one, with all classes",
                todo="merge them, or copy those to train on into a folder of their own",
            )
    suffixes = {_suffix(image.stem) for image in images if image.stem in of_image}
    taken = [image for image in images if not suffixes or _suffix(image.stem) in suffixes]
    check_pairs(
        (image.stem for image in taken),
        [*of_image, *lost],
        f"images of '{folder.root}' and their labels",
        expected="labels of every image, such as sub-01_dseg for sub-01_T1w",
    )
    cases = [
        Pair(image.stem, image.path, of_image[image.stem][0].path, patient_id=image.folders[0])
        for image in taken
    ]
    left = Counter(_suffix(image.stem) for image in images if image not in taken)
    shown = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left.items()))
    notes = (f"left out: images of a kind that has no labels, {shown}",) if left else ()
    return make_dataset("bids", "BIDS", cases, notes=notes)


def _fitting(label: File, images: Sequence[File]) -> list[File]:
    """Return the images that labels may belong to."""
    mine, words = _entities(label.stem)
    subject = label.folders[_subject_at(label) or 0]
    fitting = []
    for image in images:
        theirs, _ = _entities(image.stem)
        if image.folders[0] == subject and all(
            theirs.get(key, value) == value for key, value in mine.items()
        ):
            fitting.append(image)
    named = [
        image for image in fitting if _suffix(image.stem) in {*words, mine.get("space")} - {None}
    ]
    return named or fitting


def _entities(stem: str) -> tuple[dict[str, str], set[str]]:
    """Return the entities of a name, and its words without a key (suffixes)."""
    parts = [part.partition("-") for part in stem.split("_")]
    entities = {key: value for key, dash, value in parts if dash}
    return entities, {key for key, dash, _ in parts if not dash}


def _suffix(stem: str) -> str:
    return stem.rpartition("_")[2]
