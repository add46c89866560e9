"""Write a report in the forms that were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autosam_deploy.benchmarks.harness.record import Report
from autosam_deploy.benchmarks.report.markdown import markdown
from autosam_deploy.errors import OutputError, UsageError
from autosam_deploy.extras import require
from autosam_deploy.files import atomic_file, write_json


@dataclass(frozen=True)
class Forms:
    """Where to write what; None leaves a form out."""

    json: Path | None = None
    html: Path | None = None
    markdown: Path | None = None

    def check(self) -> None:
        """Refuse, before anything is measured, what could not be written afterwards.

        Raises:
            OutputError: a folder.
            UsageError: one file for two forms.
            MissingExtraError: a page needs matplotlib.
        """
        given = [path for path in (self.json, self.html, self.markdown) if path is not None]
        for path in given:
            if path.is_dir():
                raise OutputError(f"'{path}' is a folder", expected="a file for the report")
        if len({path.resolve() for path in given}) < len(given):
            raise UsageError("two forms of the report name one file", got=str(given[0]))
        if self.html is not None:
            require("matplotlib.figure", extra="bench", feature="writing a page with plots")

    def write(self, report: Report) -> list[Path]:
        """Write the forms and return their files.

        Raises:
            OutputError: a file cannot be written.
        """
        written = []
        if self.json is not None:
            # First: all others can be made from it.
            write_json(self.json, report.model_dump(mode="json"))
            written.append(self.json)
        if self.markdown is not None:
            _write_text(self.markdown, markdown(report))
            written.append(self.markdown)
        if self.html is not None:
            from autosam_deploy.benchmarks.report.page import page

            _write_text(self.html, page(report))
            written.append(self.html)
        return written


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, "utf-8")
