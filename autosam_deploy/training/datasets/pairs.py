"""Labelled data sets on disk: what layout a folder has, and which image belongs to which labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autosam_deploy.errors import UsageError
from autosam_deploy.training.datasets.dataset import Dataset, Pair, check_pairs
from autosam_deploy.training.datasets.layouts import bids
from autosam_deploy.training.datasets.layouts.folder import Folder
from autosam_deploy.training.datasets.layouts.folders import pair_folders
from autosam_deploy.training.datasets.layouts.table import LAYOUTS
from autosam_deploy.training.datasets.patients import with_patients
from autosam_deploy.training.datasets.texts import listed

__all__ = ["Dataset", "Pair", "check_pairs", "find_dataset"]


def find_dataset(
    images: Path | None = None,
    labels: Path | None = None,
    data: Path | None = None,
    *,
    channel: int | None = None,
) -> Dataset:
    """Find a labelled data set, pair its files and tell its patients; no voxel is read.

    Args:
        images: folder of volumes, DICOM series folders or folders of PNG slices.
        labels: folder of their labels.
        data: instead of the two, a folder in one of `LAYOUTS`; the first that recognises it counts.
        channel: which one to take where cases have several.

    Raises:
        UsageError: no such folders; no known layout; more than one channel and none chosen, or no
            such channel.
        VolumeError: nothing there; images and labels that do not pair up.
        SpecError: a dataset.json that cannot be used (see `read_dataset_json`).
    """
    if data is not None and images is None and labels is None:
        return with_patients(replace(_recognise(Folder(data, channel)), root=data))
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
    if bids.has_subjects(of_labels := Folder(labels)):
        return with_patients(bids.pair_subjects(Folder(images, channel), of_labels))
    return with_patients(pair_folders(images, labels, channel=channel))


def _recognise(folder: Folder) -> Dataset:
    """Return the data set as the first layout reads it that recognises the folder."""
    for layout in LAYOUTS:
        if (found := layout.find(folder)) is not None:
            return found
    raise UsageError(
        f"no labelled data set in '{folder.root}'",
        got=_content(folder.root),
        expected=f"one of {', '.join(layout.looks for layout in LAYOUTS)}",
        todo="name the two folders with --images and --labels",
    )


def _content(folder: Path) -> str:
    if not folder.is_dir():
        return "no folder there"
    return listed(sorted(path.name for path in folder.iterdir())) or "an empty folder"
