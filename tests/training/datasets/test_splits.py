from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autosam_deploy.errors import UsageError
from autosam_deploy.training.datasets.splits import SplitFile, choose_split, read_split

TEN = tuple(f"v{n}" for n in range(10))


@pytest.mark.parametrize(
    ("volumes", "val", "train", "held_out"),
    [
        (None, None, "01234567", "89"),
        ("3", None, "012", "89"),
        ("9", None, "012345678", "9"),
        ("3", "1", "012", "9"),
        (None, "0", "0123456789", ""),
        (" 10 ", "0", "0123456789", ""),
        (None, "v3,v1", "02456789", "13"),
        ("2", "v1, v0", "23", "01"),
        ("v9,v2", None, "29", "78"),
        ("v9,v2", "3", "29", "678"),
        ("v0", "v9", "0", "9"),
    ],
)
def test_split(volumes: str | None, val: str | None, train: str, held_out: str) -> None:
    found = choose_split(tuple(reversed(TEN)), volumes=volumes, val=val)
    assert found == (tuple(f"v{n}" for n in train), tuple(f"v{n}" for n in held_out))


@pytest.mark.parametrize(("count", "validating"), [(1, 0), (2, 1), (4, 1), (9, 1), (32, 6)])
def test_a_fifth_validates(count: int, validating: int) -> None:
    names = [f"{n:02d}" for n in range(count)]
    train, held_out = choose_split(names, volumes=None, val=None)
    assert len(held_out) == validating
    assert [*train, *held_out] == names


def test_names_in_files(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfv4\r\n\r\n  v2 \r\n")
    (tmp_path / "val.txt").write_text("v0\n", "utf-8")
    found = choose_split(TEN, volumes=str(tmp_path / "train.txt"), val=str(tmp_path / "val.txt"))
    assert found == (("v2", "v4"), ("v0",))


@pytest.mark.parametrize(
    ("volumes", "val", "message"),
    [
        ("11", None, "--volumes; got 11; expected at most 10"),
        ("9", "2", "--volumes; got 9; expected at most 8 beside 2 for validation"),
        (None, "11", "--val; got 11; expected at most 10"),
        (None, "10", "volumes for training; got 0, with 10 of 10 for validation"),
        ("0", None, "--volumes; got 0; expected at least 1"),
        ("10", None, "no volume is left for validation; got 10 in all, 10 for .* say --val 0"),
        (",".join(TEN), None, "no volume is left for validation"),
        ("v1,v77,v78", None, "--volumes names volumes that .* got 'v77', 'v78'; expected names"),
        (None, "nobody", "--val names volumes that are not in the set; got 'nobody'"),
        ("v1,v2", "v2,v3", "for both training and validation; got 'v2'"),
        ("v1,v1", None, "--volumes names something twice; got 'v1'"),
        ("v1,,v2", None, "--volumes holds an empty name; got 'v1,,v2'"),
        ("-1", None, "--volumes names volumes that are not in the set; got '-1'"),
        (None, "", "--val holds an empty name"),
        (None, "none.txt", r"--val: no file 'none\.txt'; check the path"),
    ],
)
def test_splits_that_cannot_be(volumes: str | None, val: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_split(TEN, volumes=volumes, val=val)


def test_many_names_are_no_path() -> None:
    """A list of names may be longer than any path can be."""
    names = [f"patient_{n:04d}" for n in range(600)]
    train, _ = choose_split(names, volumes=",".join(names[:500]), val="1")
    assert len(train) == 500


def test_file_without_names(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n", "utf-8")
    with pytest.raises(UsageError, match="--val holds no name"):
        choose_split(TEN, volumes=None, val=str(tmp_path / "empty.txt"))
    (tmp_path / "image.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UsageError, match="is no text; expected UTF-8"):
        choose_split(TEN, volumes=None, val=str(tmp_path / "image.txt"))


@pytest.mark.parametrize("key", ["val", "validation"])
def test_split_file(tmp_path: Path, key: str) -> None:
    path = tmp_path / "split.json"
    content = {"classes": ["background"], "test": ["v5"], "train": ["v3", "v1"], key: ["v2"]}
    path.write_text(json.dumps(content), "utf-8")
    assert read_split(path) == SplitFile(("v3", "v1"), ("v2",), ("v5",))
    assert read_split(path, TEN) == SplitFile(("v3", "v1"), ("v2",), ("v5",))
    with pytest.raises(UsageError, match=r"split\.json' names volumes .* got 'v3'; expected"):
        read_split(path, ["v1", "v2", "v5"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"val": ["a"]}, "is no split; got keys 'val'; expected 'train', and perhaps 'val'"),
        ({}, "is no split; got no keys"),
        ([{"train": ["a"], "val": ["b"]}], "holds no JSON object; got a list of 1"),
        ({"train": "a", "val": ["b"]}, "no names under 'train'; got 'a'; expected a list"),
        ({"train": ["a"], "val": [1]}, r"no names under 'val'; got \[1\]"),
        ({"train": [], "val": ["b"]}, "no volume for training; expected at least 1"),
        ({"train": ["a", "b"], "val": ["b"]}, "names volumes twice; got 'b'"),
        ({"train": ["a", "b"], "test": ["a"]}, "names volumes twice; got 'a'"),
    ],
)
def test_split_files_that_are_none(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(UsageError, match=message):
        read_split(path)


def test_split_file_may_leave_validation_open(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text('{"train": ["a", "b"], "test": ["c"]}', "utf-8")
    assert read_split(path) == SplitFile(("a", "b"), (), ("c",))
