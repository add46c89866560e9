"""`autosam-export`: make, inspect and verify bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.cli.shell import AutosamGroup, common_options, echo_json
from autosam_deploy.encoders import ENCODERS
from autosam_deploy.export.checks.command import verify_command
from autosam_deploy.export.engines.command import (
    engine_command,
    engine_options,
    refuse_lone_options,
    request_of,
    run_request,
)
from autosam_deploy.export.finding import BUNDLE_FOLDER
from autosam_deploy.export.int8.command import (
    int8_command,
    int8_options,
    read_request,
    run_int8,
)
from autosam_deploy.export.options import (
    GraphPrecision,
    assemble_from,
    parse_outputs,
    parse_precisions,
    parse_size,
)
from autosam_deploy.export.show import show_facts, show_result
from autosam_deploy.export.triton.command import triton_command
from autosam_deploy.extras import require
from autosam_deploy.models.image_size import show_image_size
from autosam_deploy.spec import HEAD_KINDS

if TYPE_CHECKING:
    from autosam_deploy.export.engines.request import EngineRequest
    from autosam_deploy.export.pipeline import Plan

_EXAMPLES = """
\b
Examples:
  autosam-export --head autosam --fp16
      export runs/autosam/head.safetensors to runs/autosam/model.autosam/
  autosam-export --checkpoint model.pth --sam-checkpoint sam_vit_b_01ec64.pth -o heart.autosam
      export a checkpoint of the reference implementation
  autosam-export --head autosam --fp16 --samples volumes/
      calibrate and compare on volumes of your own
  autosam-export --untrained --encoder vit_h --head cnn --fp16 -o vit_h.autosam
      random weights, to measure latency and memory; --image-size 448 for a smaller input
  autosam-export --head autosam --fp16 --engine rtx --sm 89
      and an engine for GeForce RTX 40 cards, built without a GPU
  autosam-export --head autosam --int8 --calibration volumes/
      and an int8 graph for CPUs, if its labels agree on these volumes
  autosam-export inspect sam_vit_b_01ec64.pth
  autosam-export engine runs/autosam/model.autosam --engine rtx
  autosam-export verify runs/autosam/model.autosam
"""
_LOWERINGS = ("auto", "explicit", "masked", "augmented")


@click.group(
    cls=AutosamGroup,
    invoke_without_command=True,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--head", type=click.Choice(HEAD_KINDS), help="Head to export.")
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder in which training left its results.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="A head's or a whole model's weights, instead of those under --runs.",
)
@click.option(
    "--sam-checkpoint",
    type=click.Path(path_type=Path),
    help="SAM's weights: a file (official, MedSAM, MobileSAM, Hugging Face), or litemedsam.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help=f"Bundle to write [runs/<head>/{BUNDLE_FOLDER}].",
)
@click.option("--fp16", is_flag=True, help="Write a half-precision graph too.")
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="Graphs to write: fp32, fp16, both by comma; or auto: fp16 if it keeps its gate.",
)
@click.option(
    "--lowering",
    type=click.Choice(_LOWERINGS),
    default="auto",
    show_default=True,
    help="How attention is written in the fp32 graph. auto: masked, the fastest on CPUs (ONNX "
    "Runtime 1.23 or newer); explicit below opset 23, or if an fp32 engine is built from it.",
)
@click.option("--opset", type=int, help="ONNX opset of the fp32 graph [23; 20 if explicit].")
@click.option(
    "--outputs", default="labels,logits", show_default=True, help="labels | labels,logits"
)
@click.option(
    "--image-size",
    help="Encoder input N or HxW in pixels: of --untrained, or of a head whose file does not say.",
)
@click.option(
    "--classes", help="Class names by comma, or a file with one a line; background first."
)
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Volumes to calibrate and compare on, instead of the phantom.",
)
@click.option("--untrained", is_flag=True, help="Random weights, for latency work.")
@click.option("--encoder", type=click.Choice(sorted(ENCODERS)), help="Encoder of --untrained.")
@click.option(
    "--num-classes", type=int, default=4, show_default=True, help="Classes of --untrained."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of --untrained.")
@click.option(
    "--allow-missing-pe",
    is_flag=True,
    help="Put a random positional matrix where the head has none: latency work only.",
)
@click.option("--slim", is_flag=True, help="Leave the PyTorch weights out of the bundle.")
@click.option("--intended-use", help="Sentence for the manifest.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("bundle", "triton")),
    default="bundle",
    show_default=True,
    help="triton: write a model repository of Triton Inference Server beside the bundle.",
)
@click.option("--int8", is_flag=True, help="Add an int8 graph too (see the command int8).")
@int8_options("--calibration-labels")
@click.option("--engine", help="Build engines too: rtx | tensorrt (see the command engine).")
@engine_options
@common_options
@click.pass_context
def main(ctx: click.Context, /, **options: Any) -> None:
    """Fuse a trained head with SAM's frozen encoder and export them as one bundle.

    Without a subcommand: export. The bundle holds ONNX graphs that take raw slices and return
    labels, golden slices, and the record of how each graph agrees with PyTorch. A graph that does
    not agree is not written: exit code 2.
    """
    if ctx.invoked_subcommand is None:
        refuse_lone_options(ctx)
        _export(options)


main.add_command(engine_command)
main.add_command(int8_command)
main.add_command(triton_command)
main.add_command(verify_command)


@main.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@common_options
def inspect_command(path: Path, *, debug: bool, quiet: bool, as_json: bool) -> None:
    """Say what a file is: a checkpoint of any known layout, a bundle or an ONNX graph."""
    del debug
    from autosam_deploy.export.inspect import inspect_path

    facts = inspect_path(path)
    if as_json:
        echo_json(facts)
    elif not quiet:
        show_facts(Console(), facts)


def _export(options: dict[str, Any]) -> None:
    """Run the export that the options ask for."""
    precisions, ladder = parse_precisions(options["precision"], fp16=options["fp16"])
    # Arguments are checked before anything is loaded, so that a typo costs no minute.
    parse_outputs(options["outputs"])
    parse_size(options["image_size"])
    require("torch", extra="export", feature="exporting a bundle")
    require("segment_anything", extra="export", feature="exporting a bundle")
    from autosam_deploy.export.engines.add import check_request
    from autosam_deploy.export.pipeline import export_bundle
    from autosam_deploy.export.samples import collect_samples
    from autosam_deploy.export.steps import Steps
    from autosam_deploy.export.triton.repository import write_repository

    request = None if options["engine"] is None else request_of(options)
    plan = _plan(options, request, precisions=precisions, ladder=ladder)
    if request is not None:
        check_request(request)
    integers = read_request(options) if options["int8"] else None
    quiet = options["quiet"] or options["as_json"]
    console = Console(stderr=True, quiet=quiet)
    steps = Steps(console)
    with steps.step("load weights"):
        assembled, output = assemble_from(options)
    console.print(
        f"{assembled.spec.head.kind} head, {len(assembled.spec.classes)} classes, on "
        f"{assembled.spec.encoder.name} at {show_image_size(assembled.spec.encoder.image_size)}"
        f" -> {output}"
    )
    samples = collect_samples(options["samples"], assembled.spec.encoder, assembled.spec.preprocess)
    result = export_bundle(assembled, samples, output, plan=plan, steps=steps)
    if not quiet:
        show_result(Console(), result)
    found = {
        "bundle": str(result.path),
        "parity": json.loads(result.record.model_dump_json()),
        "notes": result.notes,
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
    }
    if request is not None:
        found["engines"] = run_request(output, request, quiet=quiet, as_json=False)
    if integers is not None:
        found["int8"] = run_int8(output, integers, quiet=quiet, as_json=False)
    if options["form"] == "triton":
        repository = output.parent / "model_repository"
        written = write_repository(Bundle.open(output, verify=False), repository)
        found["triton"] = written.as_dict()
        console.print(f"wrote {written.model} version {written.version} for Triton")
    if options["as_json"]:
        echo_json(found)


def _plan(
    options: dict[str, Any],
    request: EngineRequest | None,
    *,
    precisions: tuple[GraphPrecision, ...],
    ladder: bool,
) -> Plan:
    from autosam_deploy.export.lowering import float_lowering
    from autosam_deploy.export.pipeline import Plan

    return Plan(
        precisions=precisions,
        ladder=ladder,
        lowering=float_lowering(
            options["lowering"],
            opset=options["opset"],
            engine=request is not None and (precisions == ("fp32",) or request.precision == "fp32"),
        ),
        opset=options["opset"],
        slim=options["slim"],
        intended_use=options["intended_use"],
    )
