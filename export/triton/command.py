"""`autosam-export triton`: a bundle as a model of Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console

from autosam_deploy.bundle.manifest import Precision
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.cli.shell import AutosamCommand, common_options, echo_json
from autosam_deploy.export.show import show_facts
from autosam_deploy.export.triton.choose import Platform, Want
from autosam_deploy.export.triton.repository import (
    ExistingConfig,
    Options,
    Written,
    write_repository,
)

_EXAMPLES = """
\b
Examples:
  autosam-export triton heart.autosam --name heart
      the fp16 graph, or fp32 where there is none, for GPUs
  autosam-export triton heart.autosam --name heart --cpu
  autosam-export triton heart.autosam --name heart --platform tensorrt --sm 89
  tritonserver --model-repository=$PWD/model_repository
"""


@click.command("triton", cls=AutosamCommand, epilog=_EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("model_repository"),
    show_default=True,
    help="Model repository; a model that is there gets a further version.",
)
@click.option("--name", help="Name of the model [the bundle's].")
@click.option(
    "--platform",
    type=click.Choice(get_args(Platform)),
    default="onnxruntime",
    show_default=True,
    help="Serve a graph, or an engine that the bundle holds.",
)
@click.option(
    "--precision",
    type=click.Choice(("auto", *get_args(Precision))),
    default="auto",
    show_default=True,
    help="auto: fp16 on GPUs, fp32 on the CPU, else what is there.",
)
@click.option("--sm", type=int, help="Take the engine for this compute capability; 89 is sm89.")
@click.option("--engine-file", help="Take this engine: its path in the bundle.")
@click.option("--max-batch", type=int, help="Most slices at once [of engines: all; of graphs: 4].")
@click.option(
    "--queue-delay-us",
    type=int,
    default=1000,
    show_default=True,
    help="Microseconds that a request may wait for others of its size.",
)
@click.option(
    "--instances",
    type=int,
    default=1,
    show_default=True,
    help="Copies on every GPU, or on the CPU; each holds the weights.",
)
@click.option("--gpu/--cpu", default=True, show_default=True, help="Where to run.")
@click.option(
    "--warmup/--no-warmup",
    default=True,
    show_default=True,
    help="Run a golden slice, then a whole batch, before the model is ready.",
)
@click.option("--overwrite-version", type=int, help="Replace this version instead of adding one.")
@click.option(
    "--existing-config",
    type=click.Choice(get_args(ExistingConfig)),
    default="refuse",
    show_default=True,
    help="Where config.pbtxt, labels.txt or warm-up of the model differ.",
)
@common_options
def triton_command(bundle: Path, *, output: Path, gpu: bool, **given: Any) -> None:
    """Write a bundle into a model repository of Triton Inference Server.

    The server then takes raw slices and returns labels like any other host. A model that is in the
    repository already gets the next version.
    """
    want = Want(
        platform=given["platform"],
        device="gpu" if gpu else "cpu",
        precision=given["precision"],
        sm=given["sm"],
        engine_file=given["engine_file"],
    )
    options = Options(
        name=given["name"],
        max_batch=given["max_batch"],
        queue_delay_us=given["queue_delay_us"],
        instances=given["instances"],
        warmup=given["warmup"],
        overwrite_version=given["overwrite_version"],
        existing_config=given["existing_config"],
    )
    # What is taken is hashed while it is copied; the rest need not be read.
    written = write_repository(
        Bundle.open(bundle, verify=False), output, want=want, options=options
    )
    if given["as_json"]:
        echo_json(written.as_dict())
    elif not given["quiet"]:
        _show(Console(), written)


def _show(console: Console, written: Written) -> None:
    facts = written.as_dict()
    notes = facts.pop("notes")
    show_facts(console, facts)
    for note in notes:
        console.print(f"note: {note}", style="yellow")
    console.print(
        f"wrote version {written.version}; serve it with: "
        f"tritonserver --model-repository='{written.model.parent}'",
        highlight=False,
        soft_wrap=True,
    )
