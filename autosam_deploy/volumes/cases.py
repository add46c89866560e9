"""Cases: what a path on the command line stands for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from autosam_deploy.errors import VolumeError
from autosam_deploy.volumes.dicom import is_dicom_file, is_dicom_folder
from autosam_deploy.volumes.read import SUFFIXES, case_name

#: nnU-Net appends the channel to the names of images but not to those of labels.
_CHANNEL = "_0000"


@dataclass(frozen=True)
class Case:
    """One volume to be read: its name (without suffix) and where it lies.

    kind: "dicom" is a series folder, or a single DICOM file that was named itself.
    """

    name: str
    path: Path
    kind: Literal["file", "dicom"]


def find_cases(path: Path | str) -> list[Case]:
    """List the volumes that a path stands for, sorted by name.

    Args:
        path: an image file, a DICOM series folder, or a folder of any of these.

    Raises:
        VolumeError: nothing there, or two volumes with one name (their labels would collide).
    """
    source = Path(path)
    try:
        cases = _list(source)
    except OSError as error:
        raise VolumeError(f"'{source}' cannot be read", got=error.strerror) from error
    if all(case.name.endswith(_CHANNEL) for case in cases) and source.is_dir():
        cases = [replace(case, name=case.name.removesuffix(_CHANNEL)) for case in cases]
    taken: dict[str, Path] = {}
    for case in cases:
        if case.name in taken:
            raise VolumeError(
                f"two volumes of '{source}' are named '{case.name}'",
                got=f"{taken[case.name].name} and {case.path.name}",
                todo="rename one: their labels would have one name",
            )
        taken[case.name] = case.path
    return cases


def _list(source: Path) -> list[Case]:
    if source.is_file():
        kind: Literal["file", "dicom"] = "dicom" if is_dicom_file(source) else "file"
        return [Case(case_name(source), source, kind)]
    if not source.is_dir():
        raise VolumeError(f"no volume at '{source}'", todo="check the path")
    if is_dicom_folder(source):
        return [Case(case_name(source), source, "dicom")]
    cases = []
    for entry in sorted(source.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if is_dicom_folder(entry):
                cases.append(Case(entry.name, entry, "dicom"))
        elif entry.name.lower().endswith(SUFFIXES):
            cases.append(Case(case_name(entry), entry, "file"))
    if not cases:
        raise VolumeError(
            f"no volumes in '{source}'", expected=f"{' '.join(SUFFIXES)} or DICOM series folders"
        )
    return cases
