from __future__ import annotations

from pathlib import Path

import pytest

from autosam_deploy.benchmarks.efficiency.plan import Cell
from autosam_deploy.benchmarks.efficiency.store import Store
from autosam_deploy.errors import OutputError

CELL = Cell("cnn", 2, 0)
PRINT = {"steps": "4", "encoder": "a" * 64, "torch": "2.14"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "study")
    found.begin()
    return found


def test_a_cell_comes_back(store: Store) -> None:
    assert store.load(CELL, PRINT) is None
    record = {"dice": 0.1 + 0.2, "fingerprint": PRINT}
    store.save(CELL, record)
    assert store.load(CELL, PRINT) == record
    assert store.load(Cell("cnn", 2, 1), PRINT) is None


def test_a_cell_made_otherwise_is_refused_with_what_differs(store: Store) -> None:
    store.save(CELL, {"fingerprint": PRINT})
    with pytest.raises(OutputError, match="was made in another way") as caught:
        store.load(CELL, {**PRINT, "steps": "6", "encoder": "b" * 64, "views": "2"})
    assert str(caught.value) == (
        "the finished cell 'cnn, 2 volumes, seed 0' was made in another way; "
        f"got steps 4, encoder {'a' * 24}..., views none; "
        f"expected steps 6, encoder {'b' * 24}..., views 2; "
        "repeat the command as it was, start anew with --overwrite, or choose another folder "
        "with --out"
    )


def test_many_differences_are_counted(store: Store) -> None:
    store.save(CELL, {"fingerprint": {}})
    with pytest.raises(OutputError, match="expected a 0, b 1, c 2 and 2 more"):
        store.load(CELL, {name: str(n) for n, name in enumerate("abcde")})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"fingerprint"'])
def test_a_damaged_cell_is_named(store: Store, text: str) -> None:
    (store.folder / "cells" / f"{CELL.name}.json").write_text(text, "utf-8")
    with pytest.raises(OutputError, match=r"cnn-n002-s0\.json' cannot be read; .* delete it"):
        store.load(CELL, PRINT)


@pytest.mark.parametrize("option", ["resume", "overwrite", None])
def test_what_may_be_done_with_an_earlier_study(store: Store, option: str | None) -> None:
    store.save(CELL, {"fingerprint": PRINT})
    chosen = {"resume": option == "resume", "overwrite": option == "overwrite"}
    if option is None:
        with pytest.raises(OutputError, match="holds a study already; go on with --resume, start"):
            store.check(**chosen)
    else:
        store.check(**chosen)


def test_a_study_that_ended_before_its_first_cell_is_no_hindrance(store: Store) -> None:
    store.check(resume=False, overwrite=False)
    store.check(resume=True, overwrite=False)


def test_a_folder_with_something_else_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(OutputError, match="is there already; add --overwrite, or choose"):
        Store(tmp_path).check(resume=False, overwrite=False)
    with pytest.raises(OutputError, match=r"nothing to resume in .*; got no cells of a study"):
        Store(tmp_path).check(resume=True, overwrite=False)
    Store(tmp_path / "new").check(resume=False, overwrite=False)


def test_clearing_leaves_what_no_study_writes(store: Store) -> None:
    store.save(CELL, {"fingerprint": PRINT})
    made = {"computed": 1, "seconds": 2.5, "runtime": "torch"}
    store.add_embeddings((48, 48), made)
    for name in ("report.md", "dice.png", "notes.txt"):
        (store.folder / name).write_text("x", "utf-8")
    store.clear()
    assert [path.name for path in store.folder.iterdir()] == ["notes.txt"]


def test_cells_beside_those_of_the_plan_are_counted(store: Store) -> None:
    for seed in range(3):
        store.save(Cell("cnn", 2, seed), {"fingerprint": PRINT})
    assert store.others([CELL, Cell("linear", 2, 0)]) == 2


def test_embeddings_of_several_processes_add_up(store: Store) -> None:
    assert store.embeddings((48, 48)) is None
    made = {"embeddings": 50, "bytes": 900, "computed": 30, "seconds": 2.5, "runtime": "torch"}
    store.add_embeddings((48, 48), made)
    more = {**made, "embeddings": 60, "computed": 10, "seconds": 1.0, "runtime": None}
    store.add_embeddings((48, 48), more)
    found = store.embeddings((48, 48))
    assert store.embeddings((48, 64)) is None
    assert found is not None
    assert (found["embeddings"], found["computed"], found["seconds"]) == (60, 40, 3.5)
    assert found["runtime"] == "torch"
