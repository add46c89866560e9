"""`autosam-bench run`: is it the same model, and is it fast enough here?"""

from __future__ import annotations

import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from autosam_deploy.benchmarks.harness.baseline import MARGIN
from autosam_deploy.benchmarks.harness.plan import (
    PRECISIONS,
    Options,
    check_backends,
    check_options,
    find_bundles,
)
from autosam_deploy.benchmarks.peers.table import ALL_PEERS, PEERS
from autosam_deploy.benchmarks.report.write import Forms
from autosam_deploy.cli.shell import AutosamCommand, backend_option
from autosam_deploy.cores import usable_cores
from autosam_deploy.errors import UsageError
from autosam_deploy.extras import require
from autosam_deploy.runtime.options import parse_pairs

_PATH = click.Path(path_type=Path)
_EXAMPLES = """
\b
Examples:
  autosam-bench
      every bundle under runs/ on every backend that is there
  autosam-bench heart.autosam --backend onnxruntime --threads 4 --peers --target cpu
  autosam-bench heart.autosam --volumes imagesTs/ --labels labelsTs/ --html heart.html
  autosam-bench heart.autosam --json new.json --baseline old.json
\b
Exit codes:
  0 all is well   2 parity failed, or bad input   3 a target was missed, or slower than the
  baseline   4 a backend that was asked for is not there, or a row could not be measured
"""


@click.command(
    "run",
    cls=AutosamCommand,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("bundles", nargs=-1, type=_PATH)
@click.option(
    "--backend", default="all", show_default=True, help="all, or names by comma; a name must run."
)
@click.option(
    "--precision",
    default="auto",
    show_default=True,
    help="auto (the best for the device), all that a bundle holds, or names by comma.",
)
@click.option("--batch", default="1", show_default=True, help="Batch sizes by comma.")
@click.option("--device", default="auto", show_default=True, help="auto | cpu | cuda | cuda:N")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads a row [all cores].")
@backend_option(" Each backend that has it takes it.")
@click.option("--volumes", type=_PATH, help="Volumes to compare and to be timed on.")
@click.option("--labels", type=_PATH, help="Labels that people drew for them, by equal names.")
@click.option("--peers", is_flag=True, help="Measure all peers in the same run.")
@click.option("--peer", help=f"Some peers by comma: {', '.join(ALL_PEERS)}.")
@click.option("--target", help="Targets: a .toml file, or a name of those that come along.")
@click.option("--baseline", type=_PATH, help="An earlier --json of this machine.")
@click.option(
    "--margin",
    type=click.FloatRange(0, 10),
    default=MARGIN,
    show_default=True,
    help="Change from the baseline that matters.",
)
@click.option("--json", "json_file", type=_PATH, help="Write the report as JSON.")
@click.option("--html", type=_PATH, help="Write it as one page that needs no other file.")
@click.option("--markdown", type=_PATH, help="Write it as Markdown.")
@click.option("--journal", type=_PATH, help="Finished rows, at once [runs/bench/TIME.jsonl].")
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Least runs of a row.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.01),
    default=3.0,
    show_default=True,
    help="Least time of a row's runs.",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0.01),
    default=30.0,
    show_default=True,
    help="Most time of a row's runs, in seconds.",
)
@click.option(
    "--size",
    type=click.IntRange(min=8),
    default=256,
    show_default=True,
    help="Side of phantom slices in pixels.",
)
@click.option("--slices", type=click.IntRange(min=1), help="Slices compared of a volume [3; 1].")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=900.0,
    show_default=True,
    help="Seconds after which a row that does not answer is ended.",
)
@click.option(
    "--roofline",
    type=click.FloatRange(min=0),
    default=0.6,
    show_default=True,
    help="Seconds for the machine's own rate, a dtype; 0 leaves it out.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--apart", is_flag=True, help="One row after the other: less memory, no ratios.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.pass_context
def run(ctx: click.Context, /, bundles: tuple[Path, ...], **options: Any) -> None:
    """Compare bundles with the segmenter in plain PyTorch, and measure time and memory.

    Every backend, precision and batch size is a row, measured in a process of its own; rows take
    turns, so that a machine whose speed drifts slows them alike. Without bundles all under runs/
    are taken. This is what `autosam-bench` does when no other command is named.
    """
    from autosam_deploy.benchmarks.harness.run import Benchmark, Judgement
    from autosam_deploy.benchmarks.harness.targets import load_targets
    from autosam_deploy.benchmarks.report.live import Progress, show

    forms = Forms(options["json_file"], options["html"], options["markdown"])
    forms.check()
    chosen = parse_options(options)
    targets = load_targets(options["target"]) if options["target"] else ()
    judgement = Judgement(targets, options["target"], options["baseline"], options["margin"])
    paths = find_bundles(bundles)
    journal = options["journal"] or _journal(forms)
    console = Console(stderr=True, quiet=options["quiet"])
    try:
        with Progress(console) as progress:
            report = Benchmark(chosen, judgement, progress).run(
                paths, command=command_line(), journal=journal
            )
    except KeyboardInterrupt:
        if journal.is_file():
            click.echo(f"stopped; finished rows: autosam-bench report {journal}", err=True)
        raise
    written = forms.write(report)
    if forms.json is not None and options["journal"] is None:
        journal.unlink(missing_ok=True)
    else:
        written.append(journal)
    if options["quiet"] and report.exit_code:
        click.echo(f"error: {report.verdict}", err=True)
    if not options["quiet"]:
        show(Console(), report)
        console.print(
            "wrote " + ", ".join(map(str, written)), highlight=False, soft_wrap=True, style="dim"
        )
    ctx.exit(report.exit_code)


def parse_options(options: dict[str, Any]) -> Options:
    """Return how to measure.

    Raises:
        UsageError: a name or number that is none, or options that contradict each other.
        MissingExtraError: peers need torch.
    """
    backends = _names(options["backend"], "--backend")
    check_backends(backends)
    backend_options = parse_pairs(options["backend_options"])
    check_options(backends, backend_options)
    precisions = _names(options["precision"], "--precision")
    for name in precisions:
        if name not in ("auto", "all", *PRECISIONS):
            raise UsageError(
                "--precision", got=name, expected=f"auto, all or some of {', '.join(PRECISIONS)}"
            )
    if options["labels"] is not None and options["volumes"] is None:
        raise UsageError("--labels without --volumes", todo="give the volumes they were drawn on")
    if options["budget"] < options["seconds"]:
        raise UsageError(
            "--budget",
            got=f"{options['budget']:g}",
            expected=f"--seconds, {options['seconds']:g}, or more",
        )
    peers = tuple(PEERS) if options["peers"] else ()
    if options["peer"]:
        peers = tuple(dict.fromkeys((*peers, *_names(options["peer"], "--peer"))))
    if peers:
        for module in ("torch", "segment_anything", "safetensors"):
            require(module, extra="bench", feature="measuring peers")
    return Options(
        backends=backends,
        backend_options=backend_options,
        precisions=precisions,
        batches=_numbers(options["batch"], "--batch"),
        device=options["device"],
        threads=options["threads"] or usable_cores(),
        volumes=options["volumes"],
        labels=options["labels"],
        peers=peers,
        repeats=options["repeats"],
        seconds=options["seconds"],
        budget_s=options["budget"],
        size=options["size"],
        seed=options["seed"],
        timeout_s=options["timeout"],
        parity_slices=options["slices"],
        apart=options["apart"],
        roofline_s=options["roofline"],
    )


def _names(text: str, option: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise UsageError(option, got=repr(text), expected="names by comma")
    return names


def _numbers(text: str, option: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if any(not part.isdecimal() or int(part) < 1 for part in parts):
        raise UsageError(option, got=repr(text), expected="numbers of 1 or more by comma")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _journal(forms: Forms) -> Path:
    """Return where finished rows go: beside the report, or under runs/bench."""
    if forms.json is not None:
        return forms.json.with_suffix(".jsonl")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / "bench" / f"{stamp}.jsonl"


def command_line() -> str:
    """Return what was typed, for a report that says how to do it again."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
