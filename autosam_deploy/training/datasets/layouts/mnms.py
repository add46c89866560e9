"""M&Ms and M&Ms-2: cardiac MR of several centres and vendors, in the challenges' own folders.

M&Ms (Campello et al., IEEE TMI 2021): `A0S9V9/A0S9V9_sa.nii.gz` is a 4-D cine and
`A0S9V9_sa_gt.nii.gz` its labels, drawn at end diastole and end systole and zero elsewhere. Which
frames these are says a table, `..._Dataset_information_diagnosis_opendataset.csv`, counted from 0.
Patients lie in `Training/Labeled/`, `Training/Unlabeled/`, `Validation/` and `Testing/`.

M&Ms-2 (Martín-Isla et al., IEEE JBHI 2023): `001/001_SA_ED.nii.gz` and `001_SA_ED_gt.nii.gz`, the
same with `ES`, and with `LA` for the long axis: 3-D files. `001_SA_CINE.nii.gz` has no labels.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from autosam_deploy.errors import UsageError, VolumeError
from autosam_deploy.training.datasets.dataset import Dataset, Pair, check_pairs, make_dataset
from autosam_deploy.training.datasets.frames import count_dimensions
from autosam_deploy.training.datasets.layouts.folder import File, Folder, check_channel
from autosam_deploy.training.datasets.texts import counted, listed

#: Labels 0..3 of both; the order is not that of ACDC.
CLASSES = ("background", "left_ventricle", "myocardium", "right_ventricle")

_PHASES = ("ED", "ES")
_CINE, _CINE_LABELS = "_sa", "_sa_gt"
_UNLABELLED = "unlabeled"

_SECOND = re.compile(r"(\d+)_(SA|LA)_(ED|ES)(_gt)?")
_VIEWS = {"SA": "short axis", "LA": "long axis"}

#: Columns of the tables: patient, frames, diagnosis.
_CODE, _DIAGNOSIS = "External code", "Pathology"
_SECOND_CODE, _SECOND_DIAGNOSIS = "SUBJECT_CODE", "DISEASE"

#: A table lies in the folder that holds all patients, or so many folders above.
_ABOVE = 2


def find(folder: Folder) -> Dataset | None:
    """Make two volumes of every patient of M&Ms: the frames that the table names.

    Raises:
        UsageError: no table, several, or one that does not name a patient's frames; a channel that
            is not there.
        VolumeError: a cine without labels outside `Unlabeled/`, labels without a cine, a patient
            twice.
    """
    labels = _by_code(folder, _CINE_LABELS)
    # The same names with 3-D files are pairs by suffix.
    if not labels or count_dimensions(next(iter(labels.values())).path) != 4:
        return None
    folder.check_one_channel()
    images = _by_code(folder, _CINE)
    unlabelled = {code for code, file in images.items() if _is_unlabelled(file)}
    images = {code: file for code, file in images.items() if code not in unlabelled}
    labels = {code: file for code, file in labels.items() if not _is_unlabelled(file)}
    check_pairs(
        images,
        labels,
        f"series and labels of '{folder.root}'",
        expected="CODE_sa_gt for every CODE_sa",
    )
    path, rows = _table(folder.root, (_CODE, *_PHASES))
    if without := sorted(images.keys() - {row[_CODE] for row in rows}):
        raise UsageError(f"'{path}' does not name all patients", got=f"{listed(without)} without")
    by_code = {row[_CODE]: row for row in rows}
    cases = [
        Pair(
            f"{code}_{phase}",
            images[code].path,
            labels[code].path,
            patient_id=code,
            frame=_frame(path, by_code[code], phase),
            part=images[code].part,
            phase=phase,
            group=by_code[code].get(_DIAGNOSIS, ""),
        )
        for code in images
        for phase in _PHASES
    ]
    left = counted(len(unlabelled), "patient")
    notes = (f"left out: {left} in Unlabeled/",) if unlabelled else ()
    return make_dataset("mnms", "M&Ms", cases, class_names=CLASSES, notes=notes)


def find_second(folder: Folder) -> Dataset | None:
    """Pair the volumes of M&Ms-2, of the short axis or of the long one.

    Raises:
        UsageError: both views are there and `channel` chooses none (0: short axis, 1: long axis).
        VolumeError: a volume without labels, labels without a volume, a patient twice.
    """
    found = [
        (file, name)
        for file in folder.files
        if (name := _SECOND.fullmatch(file.stem)) is not None and file.path.parent.name == name[1]
    ]
    labelled = {name[2] for _, name in found if name[4]}
    if not labelled:
        return None
    number = check_channel(
        folder.root,
        folder.channel,
        [number for number, one in enumerate(_VIEWS) if one in labelled],
        tuple(_VIEWS.values()),
        what="views",
        expected="one: a head learns one plane",
    )
    view, title = list(_VIEWS.items())[number]
    found = [(file, name) for file, name in found if name[2] == view]
    labels = {file.stem.removesuffix("_gt"): file for file, name in found if name[4]}
    check_pairs(
        (file.stem for file, name in found if not name[4]),
        labels,
        f"volumes and labels of '{folder.root}'",
        expected="001_SA_ED_gt for every 001_SA_ED",
    )
    groups = _diagnoses(folder.root)
    cases = [
        Pair(
            file.stem,
            file.path,
            labels[file.stem].path,
            patient_id=name[1],
            part=file.part,
            phase=name[3],
            group=groups.get(int(name[1]), ""),
        )
        for file, name in found
        if not name[4]
    ]
    return make_dataset("mnms2", f"M&Ms-2 ({title})", cases, class_names=CLASSES)


def _by_code(folder: Folder, ending: str) -> dict[str, File]:
    """Return the files with an ending, by the patient's code."""
    found: dict[str, File] = {}
    for file in folder.files:
        if file.stem.endswith(ending):
            code = file.stem.removesuffix(ending)
            if code in found:
                raise VolumeError(
                    f"'{folder.root}' holds patient '{code}' twice",
                    got=f"'{found[code].path}' and '{file.path}'",
                    expected="each once",
                )
            found[code] = file
    return found


def _is_unlabelled(file: File) -> bool:
    return any(name.lower() == _UNLABELLED for name in file.folders)


def _table(root: Path, columns: tuple[str, ...]) -> tuple[Path, list[dict[str, str]]]:
    """Return the one CSV file with these columns, from the nearest folder that has any."""
    for place in (root, *list(root.resolve().parents)[:_ABOVE]):
        found = _tables(place, columns)
        if len(found) > 1:
            raise UsageError(
                f"several tables in '{place}'", got=listed([path.name for path, _ in found])
            )
        if found:
            return found[0]
    raise UsageError(
        f"no table says which frames of '{root}' have labels",
        expected=f"a CSV file with columns {listed(columns)}, there or above",
        todo="copy the challenge's ..._Dataset_information_....csv there",
    )


def _tables(folder: Path, columns: tuple[str, ...]) -> list[tuple[Path, list[dict[str, str]]]]:
    found = []
    for path in sorted(folder.glob("*.csv")):
        try:
            rows = _rows(path, columns)
        except (OSError, csv.Error):
            rows = None  # not of the challenge; folders above may hold anything
        if rows is not None and not path.name.startswith("."):
            found.append((path, rows))
    return found


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]] | None:
    """Return the rows of a table; None where it has not all of the columns."""
    # The columns that count are ASCII; centres and vendors may be in any encoding.
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        reader = csv.reader(stream)
        header = [cell.strip() for cell in next(reader, [])]
        if not set(columns) <= set(header):
            return None
        rows = [[cell.strip() for cell in row] for row in reader if len(row) >= len(header)]
    return [dict(zip(header, row, strict=False)) for row in rows]


def _frame(path: Path, row: dict[str, str], phase: str) -> int:
    text = row[phase]
    if not text.isdecimal():
        raise UsageError(
            f"'{path}' names no frame for {phase} of '{row[_CODE]}'",
            got=repr(text),
            expected="a number from 0 on",
        )
    return int(text)


def _diagnoses(root: Path) -> dict[int, str]:
    """Return the diagnoses of M&Ms-2 by patient number, where its table is there."""
    for place in (root, *list(root.resolve().parents)[:_ABOVE]):
        for _, rows in _tables(place, (_SECOND_CODE, _SECOND_DIAGNOSIS)):
            return {
                int(row[_SECOND_CODE]): row[_SECOND_DIAGNOSIS]
                for row in rows
                if row[_SECOND_CODE].isdecimal()
            }
    return {}
