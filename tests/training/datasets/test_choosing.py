from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosam_deploy.errors import UsageError
from autosam_deploy.training.datasets.choosing import Chosen, own_split, split_dataset
from autosam_deploy.training.datasets.dataset import Dataset, Pair
from autosam_deploy.training.datasets.pairs import find_dataset
from autosam_deploy.training.datasets.patients import with_patients
from autosam_deploy.training.datasets.splits import SplitFile, choose_split

BY_VOLUME = "names do not tell the patients: the split is by volume"


def dataset(*names: str, root: Path | None = None) -> Dataset:
    cases = tuple(Pair(name, Path(name), Path(name)) for name in names)
    return with_patients(Dataset("folders", cases, root=root))


def phases(count: int, root: Path | None = None) -> Dataset:
    """Return a set of patients with two volumes each."""
    return dataset(*(f"p{n}_{phase}" for n in range(count) for phase in ("ED", "ES")), root=root)


def write(path: Path, **content: Any) -> Path:
    path.write_text(json.dumps(content), "utf-8")
    return path


def test_no_patient_is_on_both_sides() -> None:
    for seed in range(150):
        random = np.random.default_rng(seed)
        sizes = random.integers(1, 5, random.integers(2, 12))
        names = [f"p{n:02d}_t{k}" for n, size in enumerate(sizes) for k in range(size)]
        found = dataset(*random.permutation(names))
        volumes, val = (
            None if random.random() < 0.4 else str(random.integers(low, len(names)))
            for low in (1, 0)
        )
        try:
            chosen = split_dataset(found, volumes=volumes, val=val)
        except UsageError:
            continue
        owner = {case.name: case.patient for case in found.cases}
        sides = [{owner[name] for name in side} for side in (chosen.train, chosen.validation)]
        assert not sides[0] & sides[1]
        for side, patients in zip((chosen.train, chosen.validation), sides, strict=True):
            assert list(side) == sorted(name for name in names if owner[name] in patients)
        if volumes is None:
            assert len(chosen.train) + len(chosen.validation) == len(names)
        else:
            most = max(sizes) - 1
            assert int(volumes) <= len(chosen.train) <= int(volumes) + most
        if val is None:
            assert 1 <= len(sides[1]) <= max(1, len(sizes) // 5)
        else:
            assert int(val) <= len(chosen.validation) <= int(val) + max(sizes) - 1
        assert not any("leak" in note for note in chosen.notes)


def test_a_fifth_of_the_patients_validates() -> None:
    chosen = split_dataset(phases(10))
    assert chosen.validation == ("p8_ED", "p8_ES", "p9_ED", "p9_ES")
    assert len(chosen.train) == 16
    assert (chosen.said, chosen.notes) == (("split by patient: 8 train, 2 validate",), ())
    assert split_dataset(phases(1)).validation == ()


def test_counts_go_up_to_whole_patients() -> None:
    chosen = split_dataset(phases(5), volumes="3", val="1")
    assert chosen.train == ("p0_ED", "p0_ES", "p1_ED", "p1_ES")
    assert chosen.validation == ("p4_ED", "p4_ES")
    assert chosen.said == (
        "split by patient: 2 train, 1 validate",
        "counts go up to whole patients: --volumes 3 gives 4, --val 1 gives 2",
    )
    assert split_dataset(phases(5), volumes="4", val="2").said[1:] == ()
    assert split_dataset(phases(5), val="0").said == ()


def test_interleaved_names_stay_together() -> None:
    patients = {f"{phase}_{n}": str(n) for phase in ("ED", "ES") for n in range(4)}
    train, held_out = choose_split(tuple(patients), patients=patients)
    assert (train[:2], held_out) == (("ED_0", "ED_1"), ("ED_3", "ES_3"))
    assert choose_split(tuple(patients), volumes="1", val="1", patients=patients) == (
        ("ED_0", "ES_0"),
        ("ED_3", "ES_3"),
    )


@pytest.mark.parametrize(
    ("volumes", "val", "message"),
    [
        ("4", None, "got 4 in all, 4 for training; expected at least 1 of another patient; lower"),
        ("p0_ED,p1_ED", None, "no volume is left .* got 4 in all, 2 for training; expected .* ano"),
        (None, "3", "volumes for training; got 0, with 4 of 4 for validation; expected .* another"),
        (None, "p0_ED,p1_ED", "volumes for training; got 0, with 2 of 4 for validation"),
        ("3", "1", "--volumes; got 3; expected at most 2 beside 2 for validation"),
        ("p0_ED", "3", "--val; got 3; expected at most 2"),
    ],
)
def test_splits_that_leave_no_patient(volumes: str | None, val: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split_dataset(phases(2), volumes=volumes, val=val)


def test_named_on_both_sides_is_a_leak() -> None:
    chosen = split_dataset(phases(3), volumes="p0_ED,p1_ED", val="p0_ES,p2_ES")
    assert (chosen.train, chosen.validation) == (("p0_ED", "p1_ED"), ("p0_ES", "p2_ES"))
    assert chosen.notes == (
        "leak: 1 patient has volumes for both training and validation, so scores flatter: "
        "'p0_ED', 'p0_ES'",
    )


def test_named_on_one_side_draws_the_patient_out_of_the_other() -> None:
    chosen = split_dataset(phases(3), val="p1_ES")
    assert chosen.train == ("p0_ED", "p0_ES", "p2_ED", "p2_ES")
    assert chosen.validation == ("p1_ES",)
    assert chosen.notes == ("left out, since other volumes of their patients validate: 'p1_ED'",)
    assert split_dataset(phases(3), volumes="p2_ED").validation == ("p1_ED", "p1_ES")


def test_unknown_patients_are_said() -> None:
    names = tuple(f"heart_{n:03d}" for n in range(5))
    assert split_dataset(dataset(*names)).notes == (BY_VOLUME,)
    assert split_dataset(dataset(*names), val="0").notes == ()
    assert split_dataset(dataset(*names)).said == ()
    assert split_dataset(dataset(*names, "x_ED", "x_ES")).notes == (
        "names of 5 of 7 volumes do not tell the patient: split by volume",
    )


def test_split_file(tmp_path: Path) -> None:
    path = write(tmp_path / "s.json", train=["p1_ES", "p0_ED"], val=["p1_ED"], test=["p0_ES"])
    chosen = split_dataset(phases(3), split=path)
    assert (chosen.train, chosen.validation, chosen.test) == (
        ("p0_ED", "p1_ES"),
        ("p1_ED",),
        ("p0_ES",),
    )
    assert chosen.said == (f"'{path}': 2 train, 1 validate, 1 held out for testing",)
    assert [note.split(",")[0] for note in chosen.notes] == [
        "leak: 1 patient has volumes for both training and validation",
        "leak: 1 patient has volumes for both training and testing",
    ]


def test_options_choose_among_a_split_file(tmp_path: Path) -> None:
    names = [f"p{n}_{phase}" for n in range(5) for phase in ("ED", "ES")]
    path = write(tmp_path / "s.json", train=names[:8], test=names[8:])
    chosen = split_dataset(phases(5), split=path)
    assert chosen == Chosen(
        tuple(names[:6]),
        tuple(names[6:8]),
        tuple(names[8:]),
        said=(
            f"'{path}': 6 train, 2 validate, 2 held out for testing",
            "split by patient: 3 train, 1 validate",
        ),
    )
    chosen = split_dataset(phases(5), split=path, volumes="1")
    assert (chosen.train, chosen.validation) == (tuple(names[:2]), tuple(names[6:8]))
    assert chosen.said[-1] == "counts go up to whole patients: --volumes 1 gives 2"
    write(path, train=names[:6], val=names[6:8], test=names[8:])
    chosen = split_dataset(phases(5), split=path, volumes="2")
    assert (chosen.train, chosen.validation) == (tuple(names[:2]), tuple(names[6:8]))
    chosen = split_dataset(phases(5), split=path, val="p0_ED")
    assert (chosen.train, chosen.validation) == (tuple(names[2:8]), ("p0_ED",))
    assert "left out, since other volumes of their patients validate: 'p0_ES'" in chosen.notes
    with pytest.raises(UsageError, match=r"--volumes names volumes that are not .* got 'p4_ED'"):
        split_dataset(phases(5), split=path, volumes="p4_ED")


def test_split_json_of_the_data(tmp_path: Path) -> None:
    names = [f"p{n}_{phase}" for n in range(3) for phase in ("ED", "ES")]
    write(tmp_path / "split.json", train=names[:2], validation=names[2:4], test=names[4:])
    found = phases(3, tmp_path)
    assert own_split(found) == (
        SplitFile(tuple(names[:2]), tuple(names[2:4]), tuple(names[4:])),
        "split.json of the data",
    )
    chosen = split_dataset(found)
    assert (chosen.train, chosen.validation) == (tuple(names[:2]), tuple(names[2:4]))
    assert chosen.said == ("split.json of the data: 2 train, 2 validate, 2 held out for testing",)
    assert chosen.notes == ()


def test_options_override_the_split_of_the_data(tmp_path: Path) -> None:
    write(tmp_path / "split.json", train=["p0_ED", "p0_ES"], test=["p2_ED", "p2_ES"])
    found = phases(3, tmp_path)
    chosen = split_dataset(found, val="2")
    assert (len(chosen.train), chosen.validation) == (4, ("p2_ED", "p2_ES"))
    assert chosen.notes == (
        "held out for testing by the split.json of the data, but in use here: 'p2_ED', 'p2_ES'",
    )
    assert split_dataset(found, volumes="2", val="0").notes == ()
    path = write(tmp_path / "mine.json", train=["p1_ED"], val=["p0_ED"])
    assert split_dataset(found, split=path).train == ("p1_ED",)


def test_split_json_that_is_none(tmp_path: Path) -> None:
    write(tmp_path / "split.json", folds=[[1, 2]])
    found = phases(3, tmp_path)
    with pytest.raises(
        UsageError, match=r"is no split; got keys 'folds'.*; correct it, or override it with --spl"
    ):
        split_dataset(found)
    assert len(split_dataset(found, val="2").train) == 4
    assert own_split(phases(3)) is None


@pytest.mark.data
def test_sunnybrook(shared_data: Path) -> None:
    found = find_dataset(data=shared_data / "sunnybrook_lv")
    chosen = split_dataset(found)
    assert (len(chosen.train), len(chosen.validation), len(chosen.test)) == (50, 10, 16)
    assert chosen.notes == ()
    by_count = split_dataset(found, volumes="7", val="3")
    assert (len(by_count.train), by_count.validation[0]) == (8, "SC-N-11_ED")
    assert len(by_count.validation) == 4
