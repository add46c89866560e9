"""How a data set is split for training: by options, by a file, or as the set itself says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from autosam_deploy.errors import UsageError
from autosam_deploy.training.datasets.dataset import Dataset, Part
from autosam_deploy.training.datasets.splits import SplitFile, choose_split, read_split
from autosam_deploy.training.datasets.texts import listed

#: A data set's own split, in the folder that holds it.
SPLIT_JSON = "split.json"


@dataclass(frozen=True)
class Chosen:
    """Names of volumes by role, each in name order, and what to say of the choice.

    test: volumes that the split keeps out. said: lines that tell how the choice was made. notes:
    what the user should know, such as patients on both sides.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def own_split(dataset: Dataset) -> tuple[SplitFile, str] | None:
    """Return the split that a data set brings along, and where it is from; None without one.

    That is the `split.json` of the folder, else the folders by which the set itself is parted
    (`training/` and `testing/` of ACDC).

    Raises:
        UsageError: as `read_split`.
    """
    path = None if dataset.root is None else dataset.root / SPLIT_JSON
    if path is not None and path.is_file():
        try:
            return read_split(path, dataset.names), f"{SPLIT_JSON} of the data"
        except UsageError as error:
            raise UsageError(
                str(error), todo="correct it, or override it with --split, --volumes or --val"
            ) from error
    train, validation, test = (_part(dataset, part) for part in ("train", "val", "test"))
    if not train or not (validation or test):
        return None
    return SplitFile(train, validation, test), "folders of the data"


def split_dataset(
    dataset: Dataset,
    *,
    split: Path | None = None,
    volumes: str | None = None,
    val: str | None = None,
) -> Chosen:
    """Choose the volumes to learn from and those that choose the epoch.

    Args:
        dataset: of `find_dataset`; without any of the options its own split counts.
        split: a JSON file, see `read_split`; its volumes for testing are never opened.
        volumes: as `choose_split` takes it.
        val: likewise; None takes the validation volumes of the split, where it has any.

    Raises:
        UsageError: as `read_split` and `choose_split`.
    """
    if split is not None:
        return _by_file(dataset, read_split(split, dataset.names), f"'{split}'", volumes, val)
    if volumes is None and val is None and (own := own_split(dataset)) is not None:
        return _by_file(dataset, own[0], own[1], None, None)
    patients = {case.name: case.patient for case in dataset.cases}
    train, held_out = choose_split(dataset.names, volumes=volumes, val=val, patients=patients)
    chosen = Chosen(train, held_out)
    said = _say_patients(dataset, chosen) + _say_rounding(chosen, volumes, val)
    notes = (
        *_leaks(dataset, chosen),
        *(_left_out(dataset, chosen) if volumes is None else ()),
        *_by_volume(dataset, chosen),
        *_tests_that_take_part(dataset, chosen),
    )
    return Chosen(train, held_out, said=said, notes=notes)


def _by_file(
    dataset: Dataset, given: SplitFile, source: str, volumes: str | None, val: str | None
) -> Chosen:
    """Take the volumes by role of a split; options choose among its volumes that do not test."""
    notes: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    if volumes is None and val is None and given.validation:
        chosen = _sorted(given.train, given.validation, given.test)
    else:
        names = {*given.train, *given.validation}
        patients = {case.name: case.patient for case in dataset.cases}
        train, held_out = choose_split(
            tuple(names),
            volumes=volumes,
            val=val or (",".join(given.validation) or None),
            patients=patients,
        )
        chosen = _sorted(train, held_out, given.test)
        among = dataset.select(sorted(names))
        said = _say_patients(among, chosen) + _say_rounding(chosen, volumes, val)
        notes = (
            *(_left_out(among, chosen) if volumes is None else ()),
            *_by_volume(among, chosen),
        )
    counts = f"{len(chosen.train)} train, {len(chosen.validation)} validate"
    if chosen.test:
        counts += f", {len(chosen.test)} held out for testing"
    return Chosen(
        chosen.train,
        chosen.validation,
        chosen.test,
        said=(f"{source}: {counts}", *said),
        notes=(*_leaks(dataset, chosen), *notes),
    )


def _sorted(train: Iterable[str], validation: Iterable[str], test: Iterable[str]) -> Chosen:
    return Chosen(tuple(sorted(train)), tuple(sorted(validation)), tuple(sorted(test)))


def _part(dataset: Dataset, part: Part) -> tuple[str, ...]:
    return tuple(case.name for case in dataset.cases if case.part == part)


def _say_patients(dataset: Dataset, chosen: Chosen) -> tuple[str, ...]:
    """Tell how many patients are on each side, where all are known."""
    if any(case.patient_id is None for case in dataset.cases) or not chosen.validation:
        return ()
    owner = {case.name: case.patient for case in dataset.cases}
    train, validating = (
        len({owner[name] for name in names}) for names in (chosen.train, chosen.validation)
    )
    return (f"split by patient: {train} train, {validating} validate",)


def _say_rounding(chosen: Chosen, volumes: str | None, val: str | None) -> tuple[str, ...]:
    """Tell where a count was no whole number of patients."""
    rounded = [
        f"{option} {int(text)} gives {len(names)}"
        for option, text, names in (
            ("--volumes", volumes, chosen.train),
            ("--val", val, chosen.validation),
        )
        if text is not None and text.strip().isdecimal() and int(text) != len(names)
    ]
    return (f"counts go up to whole patients: {', '.join(rounded)}",) if rounded else ()


def _leaks(dataset: Dataset, chosen: Chosen) -> tuple[str, ...]:
    """Tell of patients with volumes in two roles; only names that somebody gave make them."""
    owner = {case.name: case.patient for case in dataset.cases}
    roles = {
        "training": chosen.train,
        "validation": chosen.validation,
        "testing": chosen.test,
    }
    notes = []
    for first, second in combinations(roles, 2):
        shared = {owner[name] for name in roles[first]} & {owner[name] for name in roles[second]}
        if shared:
            names = [name for name in (*roles[first], *roles[second]) if owner[name] in shared]
            notes.append(
                f"leak: {len(shared)} patient{'s have' if len(shared) > 1 else ' has'} volumes for "
                f"both {first} and {second}, so scores flatter: {listed(sorted(names))}"
            )
    return tuple(notes)


def _left_out(dataset: Dataset, chosen: Chosen) -> tuple[str, ...]:
    """Tell of volumes that do not train since others of their patient were named to validate."""
    names = sorted({*dataset.names} - {*chosen.train, *chosen.validation})
    if not names:
        return ()
    return (f"left out, since other volumes of their patients validate: {listed(names)}",)


def _by_volume(dataset: Dataset, chosen: Chosen) -> tuple[str, ...]:
    """Tell if volumes of one patient may be on both sides for all that is known."""
    unknown = sum(case.patient_id is None for case in dataset.cases)
    if not unknown or not chosen.validation:
        return ()
    total = len(dataset.cases)
    if unknown == total:
        return ("names do not tell the patients: the split is by volume",)
    return (f"names of {unknown} of {total} volumes do not tell the patient: split by volume",)


def _tests_that_take_part(dataset: Dataset, chosen: Chosen) -> tuple[str, ...]:
    """Tell of volumes that the set's own split, which options override, keeps for testing."""
    try:
        own = own_split(dataset)
    except UsageError:
        return ()
    if own is None:
        return ()
    names = sorted({*own[0].test} & {*chosen.train, *chosen.validation})
    if not names:
        return ()
    return (f"held out for testing by the {own[1]}, but in use here: {listed(names)}",)
