"""The report as one page of HTML that needs nothing else: no script, no network, no other file."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from autosam_deploy.benchmarks.harness.record import Report
from autosam_deploy.benchmarks.report.blocks import Block, Bullets, Code, Grid, Picture, Text
from autosam_deploy.benchmarks.report.content import sections
from autosam_deploy.benchmarks.report.plots import PLOTS
from autosam_deploy.benchmarks.report.style import STYLE

#: Nothing may be fetched and nothing may run, whatever stands in a bundle's name.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_VERDICTS = {0: "passed", 2: "parity", 3: "missed", 4: "failed"}


def page(report: Report) -> str:
    """Return the page.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    title = f"autosam-bench: {', '.join(one.name for one in report.bundles)}"
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            *_head(report, title),
            *_body(report),
            "<footer>Research use only; not a medical device.</footer>",
            "</body></html>\n",
        )
    )


def _head(report: Report, title: str) -> Iterator[str]:
    mark = _VERDICTS.get(report.exit_code, "failed")
    machine = report.machine
    where = ", ".join([machine.processor, *(gpu.name for gpu in machine.gpus)])
    yield f"<header><h1>{escape(title)}</h1>"
    yield f"<p>{escape(where)} · {machine.threads} threads · {escape(report.created)}</p>"
    yield f'<p class="verdict {mark}">{escape(report.verdict)}'
    yield f"<span>exit code {report.exit_code}</span></p></header>"


def _body(report: Report) -> Iterator[str]:
    for section in sections(report):
        yield f"<section><h2>{escape(section.title)}</h2>"
        for block in section.blocks:
            yield _block(block, report)
        yield "</section>"


def _block(block: Block, report: Report) -> str:
    if isinstance(block, Text):
        return f'<p class="{block.kind}">{_inline(block.text)}</p>'
    if isinstance(block, Bullets):
        items = "".join(f"<li>{_inline(line)}</li>" for line in block.lines)
        return f'<ul class="{block.kind}">{items}</ul>'
    if isinstance(block, Code):
        return f"<pre>{escape(block.text)}</pre>"
    if isinstance(block, Picture):
        return _picture(block, report)
    return _grid(block)


def _inline(text: str) -> str:
    """Escape a sentence; pairs of backticks are code."""
    parts = escape(text).split("`")
    if len(parts) % 2 == 0:
        return "`".join(parts)
    return "".join(f"<code>{p}</code>" if n % 2 else p for n, p in enumerate(parts))


def _picture(block: Picture, report: Report) -> str:
    caption = escape(block.caption)
    if block.plot is not None:
        drawing = PLOTS[block.plot](report)
        inner = f'<div class="plot" role="img" aria-label="{caption}">{drawing}</div>'
    else:
        inner = f'<img src="data:image/png;base64,{block.png}" alt="{caption}">'
    return f"<figure>{inner}<figcaption>{caption}</figcaption></figure>"


def _grid(table: Grid) -> str:
    if not table.rows:
        return "<p>(none)</p>"
    kinds = ["word" if n in table.left else "number" for n in range(len(table.columns))]
    head = "".join(
        f'<th class="{kind}">{escape(name)}</th>'
        for kind, name in zip(kinds, table.columns, strict=True)
    )
    lines = []
    for number, cells in enumerate(table.rows):
        mark = table.marks[number] if table.marks else ""
        inner = "".join(
            f'<td class="{kind}">{_badge(cell, mark) if n == table.badge else escape(cell)}</td>'
            for n, (kind, cell) in enumerate(zip(kinds, cells, strict=True))
        )
        lines.append(f'<tr class="{mark}">{inner}</tr>' if mark else f"<tr>{inner}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _badge(text: str, mark: str) -> str:
    return f'<span class="badge {mark}">{escape(text)}</span>'
