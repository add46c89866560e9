"""`autosam-bench bundles`: bundles of one model against each other, all rows in turns.

A bundle may write attention in several ways, and a backend has precisions and options. Which is
best on a machine is a matter of measuring them side by side: every row has a process of its own,
all take turns, and ratios to the first row of the same backend and precision are taken round by
round, so that a machine whose speed drifts slows all alike.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from autosam_deploy.benchmarks.harness.child import Child, ChildError
from autosam_deploy.benchmarks.harness.plan import check_backends, check_options
from autosam_deploy.benchmarks.harness.runners import ENGINE_LOADER, Loading
from autosam_deploy.benchmarks.machine import machine_record
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.cli.shell import AutosamCommand, backend_option, common_options, echo_json
from autosam_deploy.errors import UsageError
from autosam_deploy.files import write_json
from autosam_deploy.runtime.options import parse_pairs
from autosam_deploy.runtime.table import options_for
from autosam_deploy.volumes.phantom import make_phantom

_TIMEOUT = 3600.0
_PATH = click.Path(path_type=Path)
_EXAMPLE = """
\b
Example:
  autosam-export --untrained --encoder vit_b --head autosam --lowering explicit -o explicit.autosam
  autosam-export --untrained --encoder vit_b --head autosam --lowering masked -o masked.autosam
  autosam-bench bundles explicit.autosam masked.autosam --backend onnxruntime,openvino
"""


@dataclass
class _Row:
    """A bundle on a backend in a precision; `problem` says why it does not run."""

    bundle: Bundle
    backend: str
    precision: str
    options: dict[str, str] = field(default_factory=dict)
    child: Child | None = None
    load_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    labels: np.ndarray | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        words = (self.bundle.path.name, self.backend, self.precision, *self.in_words)
        return " ".join(words)

    @property
    def in_words(self) -> tuple[str, ...]:
        return tuple(f"{name}={text}" for name, text in self.options.items())

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Ask the row's process; a row that fails is out, and the others go on."""
        if self.child is None:
            return {}
        try:
            return self.child.ask(command, timeout=_TIMEOUT)
        except ChildError as error:
            self.problem = str(error)
            self.child.close()
            self.child = None
            return {}

    def run(self, *, counted: bool) -> None:
        """Run once."""
        answer = self.ask({"do": "burst", "seconds": 0.0, "most": 1})
        if answer:
            self.peak_mib = float(answer["peak_mib"])
            if counted:
                self.seconds.append(float(answer["seconds"][0]))


@click.command(
    "bundles",
    cls=AutosamCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXAMPLE,
)
@click.argument("bundles", type=_PATH, nargs=-1)
@click.option("--backend", default="onnxruntime", show_default=True, help="Backends by comma.")
@click.option("--precision", default="fp32", show_default=True, help="Precisions by comma.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Counted rounds, after one that is not.",
)
@click.option(
    "--size",
    type=click.IntRange(min=8),
    default=256,
    show_default=True,
    help="Side of the raw slice in pixels.",
)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@backend_option(" Each makes a row more, of the first bundle.")
@click.option("--out", type=_PATH, help="Write the result as JSON.")
@common_options
def main(bundles: tuple[Path, ...], **options: Any) -> None:
    """Time bundles of one model against each other: slices -> labels, with peak memory.

    The first bundle is what the others are compared with, on each backend and in each precision.
    Labels are compared with its first row.
    """
    if not bundles:
        raise UsageError("no bundles", todo="name two or more, see --help")
    check_backends(options["backend"].split(","))
    opened = [Bundle.open(path) for path in bundles]
    console = Console(stderr=True, quiet=options["quiet"] or options["as_json"])
    with tempfile.TemporaryDirectory(prefix="autosam-bundles-") as folder:
        result = compare_bundles(opened, Path(folder), options, console=console)
    if options["out"] is not None:
        write_json(options["out"], result)
    if options["as_json"]:
        echo_json(result)
    elif not options["quiet"]:
        show(Console(), result)


def compare_bundles(
    bundles: list[Bundle], folder: Path, options: dict[str, Any], *, console: Console
) -> dict[str, Any]:
    """Run every bundle on every backend in every precision, in turns.

    Args:
        bundles: of one model.
        folder: scratch.
        options: backend, precision, threads, rounds, size and batch as on the command line.
        console: for progress.

    Returns:
        The result as JSON values.
    """
    record = machine_record(threads=options["threads"])
    shape = (options["batch"], 1, options["size"], options["size"])
    image, _ = make_phantom(7, shape=(shape[0] + 4, *shape[2:]))
    slices = folder / "slices.npy"
    np.save(slices, image.array[2 : 2 + shape[0], None].astype(np.float32))
    rows = list(_rows(bundles, options))
    try:
        for number, row in enumerate(rows):
            console.print(f"loading {row.name} ...")
            _load(row, folder / str(number), slices, threads=options["threads"])
        for number in range(options["rounds"] + 1):
            for row in rows:
                row.run(counted=number > 0)
            console.print(f"round {number} of {options['rounds']}")
        for number, row in enumerate(rows):
            target = folder / f"labels-{number}.npy"
            row.ask({"do": "labels", "target": str(target)})
            if row.child is not None:
                row.labels = np.load(target)
    finally:
        for row in rows:
            if row.child is not None:
                row.child.close()
    return {
        "what": "raw slices -> labels, resizes and argmax included, reading and writing not",
        "command": "autosam-bench " + " ".join(sys.argv[1:]),
        "slices": list(shape),
        "rounds": options["rounds"],
        "machine": record,
        "rows": [_summary(row, rows) for row in rows],
    }


def _rows(bundles: list[Bundle], options: dict[str, Any]) -> Iterator[_Row]:
    """Return every bundle on every backend in every precision, and the first with each option."""
    texts = parse_pairs(options["backend_options"])
    backends = options["backend"].split(",")
    check_options(backends, texts)
    for backend in backends:
        own = options_for(backend, texts)
        for precision in options["precision"].split(","):
            for bundle in bundles:
                yield _Row(bundle, backend, precision)
            for name, text in own.items():
                yield _Row(bundles[0], backend, precision, {name: text})


def _load(row: _Row, folder: Path, slices: Path, *, threads: int) -> None:
    loading = Loading(
        bundle=row.bundle.path,
        backend=row.backend,
        precision=row.precision,  # type: ignore[arg-type]
        device="cpu",
        threads=threads,
        folder=folder,
        options=row.options,
    )
    job = {"loader": ENGINE_LOADER, "loading": loading.as_dict(), "batches": [str(slices)]}
    child = Child("autosam_deploy.benchmarks.harness.worker", job, folder, threads=threads)
    try:
        row.load_s = float(child.answer(timeout=_TIMEOUT)["load_s"])
        row.child = child
    except ChildError as error:
        row.problem = str(error)
        child.close()


def _summary(row: _Row, rows: list[_Row]) -> dict[str, Any]:
    anchor = next(
        one for one in rows if (one.backend, one.precision) == (row.backend, row.precision)
    )
    graph = row.bundle.find("onnx", "int8" if row.precision == "int8" else "fp32")
    found: dict[str, Any] = {
        "bundle": row.bundle.path.name,
        "lowering": None if graph is None else graph.lowering,
        "backend": row.backend,
        "precision": row.precision,
        "options": row.options,
    }
    if row.problem or not row.seconds:
        return {**found, "problem": row.problem or "it never ran"}
    ratios = [a / b for a, b in zip(row.seconds, anchor.seconds, strict=False)]
    first = rows[0].labels
    return {
        **found,
        "load_s": round(row.load_s, 2),
        "median_s": round(statistics.median(row.seconds), 4),
        "min_s": round(min(row.seconds), 4),
        "max_s": round(max(row.seconds), 4),
        "times_first": round(statistics.median(ratios), 3) if ratios else None,
        "times_first_range": [round(min(ratios), 3), round(max(ratios), 3)] if ratios else None,
        "peak_rss_mib": round(row.peak_mib),
        "labels_equal_first": None
        if first is None or row.labels is None
        else float((row.labels == first).mean()),
    }


def show(console: Console, result: dict[str, Any]) -> None:
    """Print the result as a table."""
    table = Table(title=f"slices {result['slices']}", title_justify="left")
    table.add_column("row", overflow="fold")
    for column in ("s", "x first", "min..max", "peak MiB", "labels equal"):
        table.add_column(column, justify="right", no_wrap=True)
    problems = []
    for row in result["rows"]:
        options = (f"{name}={text}" for name, text in row["options"].items())
        bundle = row["bundle"].removesuffix(".autosam")
        name = " ".join((bundle, row["backend"], row["precision"], *options))
        if "problem" in row:
            table.add_row(name, *["-"] * 5)
            problems.append(f"{name}: {row['problem']}")
            continue
        ratio, span, equal = row["times_first"], row["times_first_range"], row["labels_equal_first"]
        table.add_row(
            name,
            f"{row['median_s']:.3f}",
            "-" if ratio is None else f"{ratio:.2f}",
            "-" if span is None else f"{span[0]:.2f}..{span[1]:.2f}",
            f"{row['peak_rss_mib']}",
            "-" if equal is None else f"{equal:.3%}",
        )
    console.print(table)
    for text in problems:
        console.print(text, style="yellow", highlight=False, soft_wrap=True)
