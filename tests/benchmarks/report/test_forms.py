"""Markdown, page and schema of a made-up report."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from autosam_deploy.benchmarks.harness.baseline import read_report
from autosam_deploy.benchmarks.harness.record import Report, Row
from autosam_deploy.benchmarks.report.live import Progress, show
from autosam_deploy.benchmarks.report.markdown import markdown
from autosam_deploy.benchmarks.report.page import page
from autosam_deploy.benchmarks.report.plots import PLOTS
from autosam_deploy.benchmarks.report.schema import PUBLISHED, report_schema
from autosam_deploy.benchmarks.report.write import Forms
from autosam_deploy.errors import OutputError, UsageError

ROOT = Path(__file__).parents[3]


class Reader(html.parser.HTMLParser):
    """Tags that were opened and closed, their attributes, and the text."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read_page(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


def test_published_schema_is_the_models() -> None:
    """After a change: python -m autosam_deploy.benchmarks.report.schema"""
    assert json.loads((ROOT / PUBLISHED).read_text("utf-8")) == report_schema()


def test_a_report_fits_the_schema(full_report: Report) -> None:
    value = full_report.model_dump(mode="json")
    jsonschema.Draft202012Validator.check_schema(report_schema())
    jsonschema.validate(value, report_schema())
    with pytest.raises(jsonschema.ValidationError, match="'surprise' was unexpected"):
        jsonschema.validate({**value, "surprise": 1}, report_schema())


def test_markdown_says_everything(full_report: Report) -> None:
    text = markdown(full_report)
    assert text.startswith("# autosam-bench: parity failed: heart/torch/b1\n\nExit code 2.")
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert titles == [
        *("Result", "Doubts", "Agreement", "Time", "Memory", "Targets"),
        *("Against the baseline", "Models", "Machine", "Command"),
    ]
    for part in (
        "parity failed: values, labels",
        "no &lt;b>GPU&lt;/b> \\| here",
        "4.1 / 2.3e-05",
        "+0.01000",
        "3.20 to 3.60",
        "regression",
        "AMD EPYC 9R14",
        "    autosam-bench heart.autosam",
        "times vary by 7%",
        "the processor's clock moved",
    ):
        assert part in text, part
    for line in text.splitlines():
        if line.startswith("| "):
            cells = line.replace("\\|", "").count("|")
            assert cells in (5, 6, 7, 8, 9, 10, 11, 12, 17, 18), line


def test_every_table_has_as_many_cells_as_columns(full_report: Report) -> None:
    for block in re.findall(r"(?:^\|.*\n)+", markdown(full_report), re.MULTILINE):
        widths = {line.replace("\\|", "").count("|") for line in block.splitlines()}
        assert len(widths) == 1


def test_page_is_whole_and_needs_nothing_else(full_report: Report) -> None:
    text = page(full_report)
    reader = read_page(text)
    assert "script" not in reader.seen
    assert reader.seen.count("svg") == 3
    assert reader.seen.count("img") == 1
    for link in reader.links:
        assert link.startswith(("data:image/png;base64,", "#")), link
    assert "url(http" not in text
    assert "Content-Security-Policy" in text
    # What stands in names and errors is text and nothing else.
    words = " ".join(reader.text)
    assert "no <b>GPU</b> | here" in words
    assert "phantom & <friends>" in words
    assert "parity failed: values, labels" in words
    assert 'class="badge missed"' in text


def test_page_and_plots_are_the_same_every_time(full_report: Report) -> None:
    assert page(full_report) == page(full_report)


def test_ids_of_plots_do_not_clash(full_report: Report) -> None:
    """Two SVGs on one page share a name space; only glyphs, which are equal, may be in both."""
    drawings = [draw(full_report) for draw in PLOTS.values()]
    clips = [set(re.findall(r'<clipPath id="([^"]+)"', one)) for one in drawings]
    assert all(clips)
    assert len(set.union(*clips)) == sum(len(one) for one in clips)


def test_plots_of_one_batch_size_and_of_rows_without_numbers(
    make_row: Callable[..., Row], make_report: Callable[..., Report]
) -> None:
    report = make_report([make_row(ms=1), make_row("torch", ms=400)])
    for draw in PLOTS.values():
        assert draw(report).startswith("<svg")
    nothing = make_report([make_row(latency=None, memory=None, status="unavailable")])
    assert "svg" not in read_page(page(nothing)).seen
    assert "nothing was compared" not in markdown(nothing)


def test_forms_are_written_and_read_back(tmp_path: Path, full_report: Report) -> None:
    forms = Forms(tmp_path / "a" / "r.json", tmp_path / "r.html", tmp_path / "r.md")
    forms.check()
    assert forms.write(full_report) == [forms.json, forms.markdown, forms.html]
    assert read_report(tmp_path / "a" / "r.json") == full_report
    assert (tmp_path / "r.html").read_text("utf-8") == page(full_report)


def test_forms_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder; expected a file for the report"):
        Forms(json=tmp_path).check()
    with pytest.raises(UsageError, match="two forms of the report name one file"):
        Forms(json=tmp_path / "r", markdown=tmp_path / "x" / ".." / "r").check()


@pytest.mark.parametrize("width", [80, 130, 240])
def test_terminal(full_report: Report, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    show(Console(width=width), full_report)
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines() if "─" in line) <= width
    for part in ("onnxruntime", "unavailable", "no <b>GPU</b> | here", "regression"):
        assert part in text
    assert text.rstrip().endswith("parity failed: heart/torch/b1")


def test_progress_without_a_terminal(
    make_row: Callable[..., Row], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(Console(width=100)) as progress:
        progress.say("heart: truth in plain PyTorch")
        progress.changed(make_row(), False)
        progress.changed(make_row(), True)
        progress.changed(
            make_row("x", status="failed", reason="gone", latency=None, memory=None), True
        )
    assert capsys.readouterr().out.splitlines() == [
        "heart: truth in plain PyTorch ...",
        "heart/onnxruntime/b1: running, 100 ms a slice in 2 runs, 200.0 MiB",
        "heart/x/b1: failed: gone",
    ]


def test_progress_on_a_terminal(full_report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=120, force_terminal=True)
    with Progress(console) as progress:
        for row in full_report.rows:
            progress.changed(row, True)
        progress.say("measuring")
        console.print(progress._render())
    text = capsys.readouterr().out
    assert "heart/openvino/b1" in text
    assert "measuring" in text


@pytest.mark.slow
def test_page_in_a_browser(tmp_path: Path, full_report: Report) -> None:
    """The page as a picture, and what the browser itself complains of."""
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome")
         if (found := shutil.which(name))), None,
    )  # fmt: skip
    if browser is None:
        pytest.skip("no chromium on this machine")
    (tmp_path / "r.html").write_text(page(full_report), "utf-8")
    shot = tmp_path / "r.png"
    done = run_browser(browser, tmp_path, f"--screenshot={shot}", "--window-size=1366,3200")
    assert "CONSOLE" not in done.stderr
    picture = np.asarray(Image.open(shot).convert("RGB"))
    assert picture.shape == (3200, 1366, 3)
    inked = (picture < 250).any(axis=2)
    # Something stands in every fifth of the page's length, and nothing is cut at its right side.
    assert all(part.mean() > 0.005 for part in np.array_split(inked[:2600], 5))
    assert inked[:, -8:].mean() == 0
    dumped = run_browser(browser, tmp_path, "--dump-dom")
    assert dumped.stdout.count("<svg") == 3
    assert read_page(page(full_report)).seen.count("tr") == dumped.stdout.count("<tr")
    printed = tmp_path / "r.pdf"
    run_browser(browser, tmp_path, f"--print-to-pdf={printed}", "--no-pdf-header-footer")
    assert printed.read_bytes().startswith(b"%PDF")


def run_browser(browser: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    fixed: tuple[Any, ...] = (
        browser,
        *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"),
    )
    return subprocess.run(
        [*fixed, *options, f"file://{folder / 'r.html'}"],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=120,
    )
