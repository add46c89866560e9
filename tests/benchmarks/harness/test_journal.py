from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from autosam_deploy.benchmarks.harness.journal import Header, Journal, read_journal
from autosam_deploy.benchmarks.harness.record import Report, Row
from autosam_deploy.errors import OutputError, UsageError

MakeRow = Callable[..., Row]


@pytest.fixture
def header(make_report: Callable[..., Report]) -> Header:
    report = make_report([])
    return Header(**{name: getattr(report, name) for name in Header.model_fields})


def test_rows_are_there_at_once(tmp_path: Path, header: Header, make_row: MakeRow) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    journal = Journal(path, header)
    journal.write(make_row(status="running"))
    journal.write(make_row("torch", status="running"))
    found = read_journal(path)
    assert [row.status for row in found.rows] == ["failed", "failed"]
    assert found.rows[0].reason == "the run ended before this row was finished"
    journal.write(make_row(status="passed"))
    found = read_journal(path)
    assert [row.status for row in found.rows] == ["passed", "failed"]
    assert (found.exit_code, found.verdict) == (4, "unfinished: 2 rows are there")
    assert "did not finish" in found.warnings[0]


def test_a_line_that_was_cut_is_left_out(tmp_path: Path, header: Header, make_row: MakeRow) -> None:
    path = tmp_path / "rows.jsonl"
    Journal(path, header).write(make_row())
    whole = path.read_text("utf-8")
    line = whole.splitlines()[1].replace("heart/", "other/")
    for end in (200, line.index("}") + 1, len(line)):
        path.write_text(whole + line[:end], "utf-8")
        assert len(read_journal(path).rows) == 1


def test_a_new_run_begins_a_new_file(tmp_path: Path, header: Header, make_row: MakeRow) -> None:
    path = tmp_path / "rows.jsonl"
    Journal(path, header).write(make_row())
    Journal(path, header)
    assert read_journal(path).rows == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("no json\n", "is not valid at 'value'"),
        ("half a line", "is empty"),
        (json.dumps({"report_version": 9}) + "\n", "'report_version'; got 9"),
    ],
)
def test_what_is_no_journal(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=message):
        read_journal(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_journal(tmp_path / "none.jsonl")


def test_a_damaged_row_in_the_middle_is_an_error(
    tmp_path: Path, header: Header, make_row: MakeRow
) -> None:
    path = tmp_path / "rows.jsonl"
    Journal(path, header)
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"key": 3}\n')
    Journal.write(_at(path), make_row())
    with pytest.raises(UsageError, match="line 2 of journal"):
        read_journal(path)


def _at(path: Path) -> Journal:
    journal = Journal.__new__(Journal)
    journal.path = path
    return journal


def test_a_place_that_cannot_be_written(tmp_path: Path, header: Header) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(OutputError, match="choose another --journal"):
        Journal(tmp_path / "file" / "rows.jsonl", header)
