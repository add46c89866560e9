"""`autosam-export int8`: add an int8 graph to a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from autosam_deploy.cli.shell import AutosamCommand, common_options, echo_json
from autosam_deploy.errors import UsageError
from autosam_deploy.export.int8.request import Int8Request

_F = TypeVar("_F", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)
_EXAMPLES = """
\b
Examples:
  autosam-export int8 runs/autosam/model.autosam --calibration imagesTr/ --labels labelsTr/
      half of the volumes set the ranges, the other half judge
  autosam-predict runs/autosam/model.autosam -i imagesTs/ -o labels/ --precision int8
      run it; no backend chooses int8 unless it is asked for
"""


def int8_options(labels: str) -> Callable[[_F], _F]:
    """Add the options that say which volumes; `labels` is the name of the one for labels."""

    def add(function: _F) -> _F:
        for option in (
            click.option(
                labels, "truth", type=_PATH, help="Labels of these volumes, to measure Dice by."
            ),
            click.option(
                "--calibration",
                type=_PATH,
                help="Two volumes or more for int8: half set its ranges, half judge it.",
            ),
        ):
            function = option(function)
        return function

    return add


@click.command(
    "int8",
    cls=AutosamCommand,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("bundle", type=_PATH)
@int8_options("--labels")
@click.option(
    "--slices",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Slices that set the ranges.",
)
@click.option(
    "--judged",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Slices that judge.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [all cores].")
@common_options
def int8_command(bundle: Path, **options: Any) -> None:
    """Quantize the encoder's linear layers to int8, for CPUs, and add the graph to its bundle.

    It is added only if at least 99.5 % of all pixels keep the label that the float32 graph gives
    them and no class loses more than 0.005 of Dice, on volumes that set no ranges. Else the
    numbers are shown, the bundle stays as it is, and the exit code is 2. Bundles of random
    weights, which are for latency work, are not held to that.
    """
    if not bundle.exists():
        raise UsageError(f"no bundle at '{bundle}'", todo="make one with autosam-export")
    request = read_request(options)
    run_int8(bundle, request, quiet=options["quiet"], as_json=options["as_json"])


def read_request(options: dict[str, Any]) -> Int8Request:
    """Read the options of `int8_options` and those of the command.

    Raises:
        UsageError: no volumes were named, or there are none of that name.
    """
    images, labels = options["calibration"], options["truth"]
    if images is None:
        raise UsageError("--calibration is missing", todo="name a folder of volumes for int8")
    for name, folder in (("--calibration", images), ("labels", labels)):
        if folder is not None and not folder.exists():
            raise UsageError(f"{name}: no '{folder}'", todo="check the path")
    request = Int8Request(images=images, labels=labels)
    return replace(
        request,
        calibration=options.get("slices", request.calibration),
        judged=options.get("judged", request.judged),
        threads=options.get("threads"),
    )


def run_int8(bundle: Path, request: Int8Request, *, quiet: bool, as_json: bool) -> dict[str, Any]:
    """Add the graph, with progress on stderr, and print what it came to.

    Args:
        bundle: the bundle.
        request: slices.
        quiet: print nothing.
        as_json: print JSON.

    Returns:
        The result as JSON values.
    """
    from autosam_deploy.export.int8.add import add_int8

    console = Console(stderr=True, quiet=quiet or as_json)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        added = add_int8(bundle, request, progress=progress)
    judged, problems = added.judgement.quantized, added.judgement.problems
    found = {
        "bundle": str(bundle),
        "graph": added.artefact.file.path,
        "bytes": added.artefact.file.bytes,
        "layers": added.layers,
        "quantized": judged.model_dump(mode="json"),
    }
    if as_json:
        echo_json(found)
    elif not quiet:
        whose = "people's labels" if judged.truth == "labels" else "the float32 graph's labels"
        Console().print(
            f"added {added.artefact.file.path}: {added.layers} layers in int8, "
            f"{added.artefact.file.bytes / 1e6:.0f} MB ({added.plain_bytes / 1e6:.0f} MB in fp32)\n"
            f"  {judged.agreement:.3%} of labels as in fp32 (gate 99.5 %), "
            f"largest Dice loss {judged.dice_loss:.4f} by {whose} (gate 0.005), "
            f"{judged.slices} slices of {judged.cases} volumes",
            highlight=False,
            soft_wrap=True,
        )
        if problems:
            Console().print(
                "  random weights: for latency work, gates do not count", style="yellow"
            )
    return found
