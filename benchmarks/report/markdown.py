"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from autosam_deploy.benchmarks.harness.record import Report
from autosam_deploy.benchmarks.report.blocks import Block, Bullets, Code, Grid, Picture, Text
from autosam_deploy.benchmarks.report.content import sections


def markdown(report: Report) -> str:
    """Return the whole report; plots are in the page alone, and their numbers in tables."""
    parts = [f"# autosam-bench: {escape(report.verdict)}", f"Exit code {report.exit_code}."]
    for section in sections(report):
        parts.append(f"## {section.title}")
        for block in section.blocks:
            parts += _block(block)
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Text):
        yield f"> **{escape(block.text)}**" if block.kind == "warning" else escape(block.text)
    elif isinstance(block, Bullets):
        yield "\n".join(f"* {escape(line)}" for line in block.lines)
    elif isinstance(block, Code):
        yield f"    {block.text}"
    elif isinstance(block, Grid):
        yield grid(block)
    elif isinstance(block, Picture) and block.png is not None:
        yield f"* {escape(block.caption)}"


def grid(table: Grid) -> str:
    """Return a table; without rows it says so."""
    if not table.rows:
        return "(none)"
    rule = ["---" if n in table.left else "---:" for n in range(len(table.columns))]
    lines = [table.columns, rule, *table.rows]
    return "\n".join(
        f"| {' | '.join(cell if line is rule else escape(cell) for cell in line)} |"
        for line in lines
    )


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, with code spans kept."""
    one_line = " ".join(text.split())
    return one_line.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
