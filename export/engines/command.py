"""`autosam-export engine`: add TensorRT engines to a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from autosam_deploy.cli.shell import AutosamCommand, common_options, echo_json
from autosam_deploy.errors import UsageError
from autosam_deploy.export.engines.request import (
    DEFAULT_BATCH,
    WORDS,
    EngineRequest,
    parse_capabilities,
    parse_family,
    parse_triple,
)
from autosam_deploy.sizes import parse_bytes

_F = TypeVar("_F", bound=Callable[..., Any])
_EXAMPLES = """
\b
Examples:
  autosam-export engine runs/autosam/model.autosam --engine rtx
      for GeForce and RTX cards sm86, sm89 and sm120; needs no GPU
  autosam-export engine heart.autosam --engine rtx --sm 89 --batch 1:8:16 --size 128:256:512
      one kind of GPU, batches of up to 16 slices of 128 to 512 pixels a side
  autosam-export engine heart.autosam --engine tensorrt
      for the data-centre GPU of this machine
"""


def engine_options(function: _F) -> _F:
    """Add the options that say which engines: family, GPUs, batch, size, workspace."""
    for option in (
        click.option("--workspace", help="Most scratch memory of a kernel, such as 2GiB."),
        click.option("--size", help="Slice sides MIN:OPT:MAX in pixels [16:the golden's:1024]."),
        click.option(
            "--batch",
            default=":".join(map(str, DEFAULT_BATCH)),
            show_default=True,
            help="Slices a run, MIN:OPT:MAX.",
        ),
        click.option("--sm", help="GPUs by comma, such as 86,89,120 [rtx: these three]."),
    ):
        function = option(function)
    return function


def refuse_lone_options(ctx: click.Context) -> None:
    """Refuse options of `engine_options` where no `--engine` says that there will be one.

    Raises:
        UsageError: naming the option.
    """
    if ctx.params["engine"] is not None:
        return
    for name in ("sm", "batch", "size", "workspace"):
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(
                f"--{name} without --engine",
                expected="--engine rtx or --engine tensorrt beside it",
                todo="add it, or leave the option out",
            )


def request_of(options: dict[str, Any], *, precision: Any = "auto") -> EngineRequest:
    """Read the options of `engine_options` and `--engine`.

    Raises:
        UsageError: naming the option that is wrong.
    """
    return EngineRequest(
        family=parse_family(options["engine"]).name,
        capabilities=parse_capabilities(options["sm"]),
        precision=precision,
        batch=parse_triple(options["batch"], "--batch"),
        size=None if options["size"] is None else parse_triple(options["size"], "--size"),
        workspace_bytes=None
        if options["workspace"] is None
        else parse_bytes(options["workspace"], "--workspace"),
    )


@click.command(
    "engine",
    cls=AutosamCommand,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--engine", default="rtx", show_default=True, help=f"{' | '.join(sorted(WORDS))}")
@click.option(
    "--precision",
    type=click.Choice(("auto", "fp16", "fp32")),
    default="auto",
    show_default=True,
    help="Graph to build from; auto: fp16 where the bundle has it. RTX builds fp32 only from a "
    "graph that was exported with --lowering explicit.",
)
@engine_options
@common_options
def engine_command(bundle: Path, **options: Any) -> None:
    """Build engines from a bundle's typed graph and add them to it.

    TensorRT-RTX builds on any machine, without a GPU; TensorRT builds on the GPU that the engine
    is for. Engines that are there already are kept; what was built is recorded as not yet run.
    """
    if not bundle.exists():
        raise UsageError(f"no bundle at '{bundle}'", todo="make one with autosam-export")
    request = request_of(options, precision=options["precision"])
    run_request(bundle, request, quiet=options["quiet"], as_json=options["as_json"])


def run_request(
    bundle: Path, request: EngineRequest, *, quiet: bool, as_json: bool
) -> list[dict[str, Any]]:
    """Build, with a progress display on stderr, and print the table or JSON.

    Returns:
        The engines as JSON values.
    """
    from autosam_deploy.bundle.reader import Bundle
    from autosam_deploy.export.engines.add import AddedEngine, add_engines
    from autosam_deploy.export.engines.show import describe, show_engines
    from autosam_deploy.runtime.selftest import read_parity

    console = Console(stderr=True, quiet=quiet or as_json)

    def say(added: AddedEngine) -> None:
        done = "was there" if added.built is None else "built"
        console.print(f"  {done}: {added.artefact.file.path}", highlight=False)

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        results = add_engines(bundle, request, progress=progress, added=say)
    record = read_parity(Bundle.open(bundle, verify=False))
    engines = [describe(added, record) for added in results]
    if as_json:
        echo_json({"bundle": str(bundle), "engines": engines})
    elif not quiet:
        show_engines(Console(), results)
    return engines
