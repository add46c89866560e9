"""Images and labels side by side, told apart by how names end: `x.nii.gz` and `x_seg.nii.gz`."""

from __future__ import annotations

import re

from autosam_deploy.errors import VolumeError
from autosam_deploy.training.datasets.dataset import Dataset, Pair, check_pairs, make_dataset
from autosam_deploy.training.datasets.layouts.folder import File, Folder
from autosam_deploy.training.datasets.patients import subject_in_name
from autosam_deploy.training.datasets.texts import counted, listed

_LABELS = re.compile(r"(.+)(?:_seg|_labels?|_gt|_mask|-label|-seg)", re.I)


def find(folder: Folder) -> Dataset | None:
    """Pair the files of one folder, or of a folder a patient.

    Where there are several folders, a folder is a patient, unless names begin with the patient
    (`sub-01`, `patient001`).

    Raises:
        UsageError: a channel that is not there.
        VolumeError: an image without labels, labels without an image, several labels of one image,
            two volumes with one name.
    """
    near = [file for file in folder.files if len(file.own_folders) <= 1]
    if not any(_LABELS.fullmatch(file.stem) for file in near):
        return None
    folder.check_one_channel()
    per_patient = len({file.own_folders for file in near}) > 1
    images: dict[str, File] = {}
    labels: dict[str, File] = {}
    for file in near:
        ending = _LABELS.fullmatch(file.stem)
        name = _name(file, file.stem if ending is None else ending[1], per_patient=per_patient)
        side = images if ending is None else labels
        if name in side:
            raise VolumeError(
                f"image '{name}' has several label files"
                if ending is not None
                else f"two images are named '{name}'",
                got=listed([str(side[name].path), str(file.path)]),
                expected="one",
                todo="move the others away",
            )
        side[name] = file
    check_pairs(
        images,
        labels,
        f"images and labels of '{folder.root}'",
        expected="x_seg (or _label, _labels, _gt, _mask, -label, -seg) beside every x",
    )
    cases = [
        Pair(
            name,
            file.path,
            labels[name].path,
            patient_id=_patient(file) if per_patient else None,
            part=file.part,
        )
        for name, file in images.items()
    ]
    deeper = len(folder.files) - len(near)
    notes = (f"left out: {counted(deeper, 'file')} in deeper folders",) if deeper else ()
    return make_dataset("suffixes", "pairs by suffix", cases, notes=notes)


def _name(file: File, stem: str, *, per_patient: bool) -> str:
    """Return the name of the volume; files of several patients may be named alike."""
    folder = "".join(file.own_folders)
    if not per_patient or stem.startswith(folder):
        return stem
    return f"{folder}_{stem}"


def _patient(file: File) -> str | None:
    return subject_in_name(file.stem) or "".join(file.own_folders) or None
