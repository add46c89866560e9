"""Which volumes train a head and which choose its best epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autosam_deploy.errors import UsageError
from autosam_deploy.training.datasets.texts import listed, names_from, read_json

#: Of all patients, one in this many validates unless the user says otherwise.
_ONE_IN = 5

_ANOTHER = "at least 1 of another patient"

Split = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class SplitFile:
    """Names of a split's file, in its order; those for testing are kept out of all training."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def choose_split(
    names: Sequence[str],
    *,
    volumes: str | None = None,
    val: str | None = None,
    patients: Mapping[str, str] | None = None,
) -> Split:
    """Split a data set into volumes for training and for validation, patient by patient.

    Names that an option gives are taken as they are. A count takes whole patients of whom no option
    names a volume, in name order, until there are at least so many volumes: validation from the
    end, training from the start of what is left. Volumes that nobody named never stand opposite
    others of their patient.

    Args:
        names: of all volumes.
        volumes: for training: a count, names by comma, or a text file with one a line; None is all
            volumes of patients that do not validate. Digits alone are a count.
        val: for validation, likewise; None is a fifth of all patients (at most what training
            leaves), at least one, and none where there is but one patient.
        patients: whose volume it is, by name; volumes without an entry are their own patient.

    Returns:
        Names for training and names for validation, each in name order.

    Raises:
        UsageError: no volume for training; a count beyond what is there; a name that is unknown or
            on both sides.
    """
    everything = sorted(names)
    owner = {name: (patients or {}).get(name, name) for name in everything}
    train = _parse(volumes, "--volumes", everything)
    held_out = _parse(val, "--val", everything)
    named = [*_named(train), *_named(held_out)]
    if both := sorted({name for name in named if named.count(name) > 1}):
        raise UsageError(
            "volumes for both training and validation", got=listed(both), expected="each for one"
        )
    free = _without_patients(everything, named, owner)
    if isinstance(train, int):
        _check_count("--volumes", train, len(free))
    if held_out is None:
        held_out = _default(train, free, owner)
    if isinstance(held_out, int):
        _check_count("--val", held_out, len(free))
        held_out = _whole_patients(_by_patient(free, owner)[::-1], held_out)
    free = _without_patients(free, held_out, owner)
    if isinstance(train, int):
        _check_count("--volumes", train, len(free), validating=len(held_out))
        train = _whole_patients(_by_patient(free, owner), train)
    train = free if train is None else train
    if not train:
        raise UsageError(
            "volumes for training",
            got=f"0, with {len(held_out)} of {len(everything)} for validation",
            expected="at least 1" if len(set(owner.values())) == len(owner) else _ANOTHER,
        )
    return tuple(train), tuple(held_out)


def read_split(path: Path, names: Sequence[str] | None = None) -> SplitFile:
    """Read a split from a JSON file: lists of names under `train`, `val` and `test`.

    Args:
        path: `train` must be there; `validation` is another name of `val`.
        names: of all volumes, to check the file's against.

    Raises:
        UsageError: it cannot be read; a list is missing or is none of names; a name that is unknown
            or comes twice.
    """
    content = read_json(path)
    if "train" not in content:
        raise UsageError(
            f"'{path}' is no split",
            got=f"keys {listed(list(content))}" if content else "no keys",
            expected="'train', and perhaps 'val' and 'test'",
        )
    key = "validation" if "validation" in content else "val"
    train, held_out, test = (
        _names_under(path, content, one) if one in content else () for one in ("train", key, "test")
    )
    if not train:
        raise UsageError(f"'{path}' has no volume for training", expected="at least 1")
    together = [*train, *held_out, *test]
    if twice := sorted({name for name in together if together.count(name) > 1}):
        raise UsageError(f"'{path}' names volumes twice", got=listed(twice), expected="each once")
    if names is not None:
        _check_known(f"'{path}'", together, names)
    return SplitFile(train, held_out, test)


def _parse(text: str | None, option: str, names: list[str]) -> int | list[str] | None:
    """Return a count, or names in name order."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return int(text)
    wanted = names_from(text, option)
    _check_known(option, wanted, names)
    return sorted(wanted)


def _named(choice: int | list[str] | None) -> list[str]:
    return choice if isinstance(choice, list) else []


def _default(train: int | list[str] | None, free: list[str], owner: Mapping[str, str]) -> list[str]:
    """Return the volumes that validate when nobody says."""
    total = len(set(owner.values()))
    if total == 1:
        return []
    taken = _named(train)
    if isinstance(train, int):
        taken = _whole_patients(_by_patient(free, owner), train)
    left = _by_patient(_without_patients(free, taken, owner), owner)
    if not left:
        raise UsageError(
            "no volume is left for validation",
            got=f"{len(owner)} in all, {len(taken)} for training",
            expected="at least 1" if total == len(owner) else _ANOTHER,
            todo="lower --volumes, or say --val 0 to go without",
        )
    return sorted(name for group in left[-max(1, total // _ONE_IN) :] for name in group)


def _without_patients(
    names: Sequence[str], taken: Sequence[str], owner: Mapping[str, str]
) -> list[str]:
    """Return the names of patients of whom no volume is taken."""
    gone = {owner[name] for name in taken}
    return [name for name in names if owner[name] not in gone]


def _by_patient(names: Sequence[str], owner: Mapping[str, str]) -> list[list[str]]:
    """Return the names of every patient, in the order of the first ones."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(owner[name], []).append(name)
    return list(found.values())


def _whole_patients(groups: Sequence[Sequence[str]], count: int) -> list[str]:
    """Return all volumes of the first patients that have at least `count` together, by name."""
    chosen: list[str] = []
    for group in groups:
        if len(chosen) >= count:
            break
        chosen += group
    return sorted(chosen)


def _check_count(option: str, count: int, free: int, *, validating: int | None = None) -> None:
    if option == "--volumes" and count == 0:
        raise UsageError("--volumes", got="0", expected="at least 1")
    if count > free:
        beside = f" beside {validating} for validation" if validating else ""
        raise UsageError(option, got=str(count), expected=f"at most {free}{beside}")


def _check_known(what: str, wanted: Sequence[str], names: Sequence[str]) -> None:
    if unknown := [name for name in wanted if name not in names]:
        raise UsageError(
            f"{what} names volumes that are not in the set",
            got=listed(unknown),
            expected=f"names such as {listed(sorted(names))}",
        )


def _names_under(path: Path, content: dict[str, object], key: str) -> tuple[str, ...]:
    value = content[key]
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UsageError(
            f"'{path}' holds no names under '{key}'",
            got=repr(value)[:80],
            expected='a list: ["name", ...]',
        )
    return tuple(value)
