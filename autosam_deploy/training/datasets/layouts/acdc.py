"""ACDC: the cardiac challenge's own folders.

Bernard et al., IEEE TMI 2018. `patient001/` holds `patient001_frame01.nii.gz` (end diastole),
another frame (end systole), labels with `_gt` behind, `patient001_4d.nii.gz` (the whole cine, which
has no labels) and `Info.cfg` (`ED: 1`, `ES: 12`, `Group: DCM`). The download has two folders of
these, `training/` and `testing/`.
"""

from __future__ import annotations

import re
from pathlib import Path

from autosam_deploy.training.datasets.dataset import Dataset, Pair, check_pairs, make_dataset
from autosam_deploy.training.datasets.layouts.folder import File, Folder
from autosam_deploy.training.datasets.texts import counted, read_text

#: Labels 0..3.
CLASSES = ("background", "right_ventricle", "myocardium", "left_ventricle")

_NAME = re.compile(r"(patient\d+)_frame(\d+)(_gt)?")
_INFO = "Info.cfg"


def find(folder: Folder) -> Dataset | None:
    """Pair the frames of all patients.

    Patients under `testing/` are kept for testing where there is `training/` beside it; where they
    have no labels at all (as in the first release) they are left out with a note.

    Raises:
        UsageError: a channel that is not there; an Info.cfg that cannot be read.
        VolumeError: a frame without labels, labels without a frame, a patient twice.
    """
    found = [(file, name) for file in folder.files if (name := _match(file)) is not None]
    if not any(name[3] for _, name in found):
        return None
    folder.check_one_channel()
    notes: tuple[str, ...] = ()
    testing = [name for file, name in found if file.part == "test"]
    if testing and not any(name[3] for name in testing):
        found = [(file, name) for file, name in found if file.part != "test"]
        patients = counted(len({name[1] for name in testing}), "patient")
        notes = (f"left out: {patients} for testing, without labels",)
    images = {_place(folder, file): (file, name) for file, name in found if not name[3]}
    labels = {_place(folder, file).removesuffix("_gt"): file for file, name in found if name[3]}
    check_pairs(
        images,
        labels,
        f"frames and labels of '{folder.root}'",
        expected="patient001_frame01_gt for every patient001_frame01",
    )
    cases = [_pair(file, name, labels[place].path) for place, (file, name) in images.items()]
    return make_dataset("acdc", "ACDC", cases, class_names=CLASSES, notes=notes)


def _match(file: File) -> re.Match[str] | None:
    """Match a frame or its labels in the patient's own folder."""
    name = _NAME.fullmatch(file.stem)
    return name if name is not None and file.path.parent.name == name[1] else None


def _place(folder: Folder, file: File) -> str:
    return (file.path.parent / file.stem).relative_to(folder.root).as_posix()


def _pair(file: File, name: re.Match[str], label: Path) -> Pair:
    info = _read_info(file.path.parent / _INFO)
    frame = int(name[2])
    phases = {int(info[key]): key for key in ("ES", "ED") if info.get(key, "").isdecimal()}
    return Pair(
        file.stem,
        file.path,
        label,
        patient_id=name[1],
        part=file.part,
        phase=phases.get(frame, ""),
        group=info.get("Group", ""),
    )


def _read_info(path: Path) -> dict[str, str]:
    """Return the lines `key: value`; nothing where the file was not copied along."""
    if not path.is_file():
        return {}
    lines = [line.partition(":") for line in read_text(path).splitlines()]
    return {key.strip(): value.strip() for key, _, value in lines}
