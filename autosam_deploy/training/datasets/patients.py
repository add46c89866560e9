"""Whose volume is it? Volumes of one patient must not both teach a head and judge it.

The layout of a data set may tell, else the PatientID of a DICOM series, else the volume's name by
the rule of `patient_in_name`. Where none of them tells, every volume counts as its own patient, and
whoever splits the set says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autosam_deploy.training.datasets.dataset import Dataset
from autosam_deploy.volumes.itk import quiet_itk, simpleitk

#: Names that begin with whose they are, `sub-01_...` of BIDS and `patient001_...`.
_SUBJECT = re.compile(r"(sub-[a-z0-9]+|(?:patient|subject|subj|pat)[-_]?\d+)(?![a-z0-9])", re.I)

#: Endings that say when a volume was taken, by a number or a date.
_NUMBERED = re.compile(
    r"[-_](?:(?:frame|phase|timepoint|time|tp|t|visit|session|ses|day|week|month|year)[-_]?\d+"
    r"|(?:19|20)\d\d[-.]?(?:0\d|1[0-2])[-.]?(?:[0-2]\d|3[01]))$",
    re.I,
)

#: Endings that say in which phase, with which contrast, in which view or of which side.
_WORD = re.compile(
    r"[-_](?:ED|ES|diastole|systole|baseline|bl|follow-?up|fu|pre|post|left|right"
    r"|T1w|T2w|T1ce|T1c|T1gd|T2star|T2s|PDw?|FLAIR|DWI|ADC|SAX?|LAX?|[234]CH)$",
    re.I,
)

_PATIENT_ID = "0010|0020"


def patients_of(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Return the volumes of every patient.

    Returns:
        Patient -> names of volumes in name order; patients in the order of their first volume. A
        volume of which nothing tells the patient is its own (see `Pair.patient`).
    """
    found: dict[str, list[str]] = {}
    for case in sorted(dataset.cases, key=lambda case: case.name):
        found.setdefault(case.patient, []).append(case.name)
    return {patient: tuple(names) for patient, names in found.items()}


def patient_in_name(name: str) -> str | None:
    """Return the patient that a volume's name tells of.

    A name that begins with `sub-LABEL` or with `patient`, `subject`, `subj` or `pat` and a number
    names its patient there. Else endings that say when or how a volume was taken are cut off:
    `_ED`, `_baseline`, `_T1w`, `_left` and the like, and `_frame01`, `_t2`, `_visit1` or a date
    where digits are left before them (`mri_t001` may well be the first of a hundred patients). What
    is left is the patient. Of names without any of these (`hippocampus_001`) nothing is known.
    """
    if (begins := subject_in_name(name)) is not None:
        return begins
    rest = name
    while (shorter := _without_ending(rest)) is not None:
        rest = shorter
    return None if rest == name else rest


def subject_in_name(name: str) -> str | None:
    """Return the patient that a volume's name begins with (`sub-01`, `patient001`), if it does."""
    found = _SUBJECT.match(name)
    return None if found is None else found[1]


def with_patients(dataset: Dataset) -> Dataset:
    """Return the set with the patients that DICOM headers and names tell of.

    A PatientID that all of several series share is one that an anonymiser wrote: names count then.
    """
    open_cases = [case for case in dataset.cases if case.patient_id is None]
    told: dict[str, str] = {}
    if dataset.layout != "png":
        for case in open_cases:
            if (header := _patient_id(case.image)) is not None:
                told[case.name] = header
    notes = dataset.notes
    if len(told) > 1 and len(set(told.values())) == 1:
        notes = (*notes, f"all {len(told)} DICOM series have one PatientID: names tell patients")
        told = {}
    told |= _by_names([case.name for case in open_cases if case.name not in told])
    cases = tuple(
        replace(case, patient_id=told[case.name]) if case.name in told else case
        for case in dataset.cases
    )
    return replace(dataset, cases=cases, notes=notes)


def _by_names(names: Sequence[str]) -> dict[str, str]:
    """Return the patients of those volumes whose names tell."""
    found = {name: told for name in names if (told := patient_in_name(name)) is not None}
    # Of `x` and `x_followup` the first has no ending, and both are of patient `x`.
    return found | {name: name for name in set(found.values()) & set(names)}


def _without_ending(name: str) -> str | None:
    """Cut one ending off; None where there is none, or nothing would be left."""
    for pattern, needs_digit in ((_WORD, False), (_NUMBERED, True)):
        found = pattern.search(name)
        if found is not None and found.start() > 0:
            rest = name[: found.start()]
            if not needs_digit or any(letter.isdigit() for letter in rest):
                return rest
    return None


def _patient_id(image: Path) -> str | None:
    """Return the PatientID of a DICOM series; None for other images, or where it is empty."""
    if not image.is_dir():
        return None
    for path in sorted(image.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            told = _read_patient_id(path)
            if told is not None:
                return told.strip() or None
    return None


def _read_patient_id(path: Path) -> str | None:
    """Return what a file says, perhaps nothing (""); None where it is no DICOM image."""
    reader = simpleitk().ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError:
        return None
    return str(reader.GetMetaData(_PATIENT_ID)) if reader.HasMetaDataKey(_PATIENT_ID) else ""
