"""`autosam-bench report`: Markdown and a page of a report that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from autosam_deploy.benchmarks.harness.baseline import read_report
from autosam_deploy.benchmarks.harness.journal import read_journal
from autosam_deploy.benchmarks.report.live import show
from autosam_deploy.benchmarks.report.write import Forms
from autosam_deploy.cli.shell import AutosamCommand

_PATH = click.Path(path_type=Path)
_EXAMPLES = """
\b
Examples:
  autosam-bench report old.json --html old.html
  autosam-bench report runs/bench/20260101-120000.jsonl
      the rows that a stopped run left behind
"""


@click.command(
    "report",
    cls=AutosamCommand,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("file", type=_PATH)
@click.option("--json", "json_file", type=_PATH, help="Write it as JSON (of a .jsonl file).")
@click.option("--html", type=_PATH, help="Write one page that needs no other file.")
@click.option("--markdown", type=_PATH, help="Write it as Markdown.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def report(file: Path, **options: Any) -> None:
    """Show a report of `autosam-bench --json`, or what a stopped run left in its .jsonl file."""
    forms = Forms(options["json_file"], options["html"], options["markdown"])
    forms.check()
    found = read_journal(file) if file.suffix == ".jsonl" else read_report(file)
    written = forms.write(found)
    if not options["quiet"]:
        show(Console(), found)
        for path in written:
            Console(stderr=True).print(f"wrote {path}", highlight=False, soft_wrap=True)
