"""`autosam-predict`: label volumes with a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console

from autosam_deploy.bundle.manifest import Precision
from autosam_deploy.cli.shell import AutosamCommand, backend_option, common_options, echo_json
from autosam_deploy.errors import UsageError

_EXAMPLES = """
\b
Examples:
  autosam-predict heart.autosam -i patient.nii.gz -o labels.nii.gz
  autosam-predict heart.autosam -i volumes/ -o labels/ --preview --report run.json
  autosam-predict heart.autosam -i dicom_series/ -o labels/ --format nii.gz
  autosam-predict heart.autosam -i volumes/ -o labels/ --option prepared=cache/
  autosam-predict -i volumes/ -o labels/ --continue
      the one bundle under runs/, skipping finished cases
"""


@click.command(
    cls=AutosamCommand,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "-i",
    "--input",
    "source",
    required=True,
    type=click.Path(path_type=Path),
    help="NIfTI, NRRD or MetaImage file, DICOM series folder, or a folder of these.",
)
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    help="Label file for one volume, or a folder.",
)
@click.option(
    "--format",
    "form",
    default="auto",
    show_default=True,
    type=click.Choice(("auto", "nii.gz", "nii", "nrrd", "mha")),
    help="Of labels in a folder; auto: as the input, nrrd for DICOM.",
)
@click.option(
    "--axis",
    type=click.Choice(("auto", "i", "j", "k")),
    help="Image axis to slice along [as the bundle says; auto: largest spacing, else k].",
)
@click.option("--batch", default="auto", show_default=True, help="Slices per run, or auto.")
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="auto | onnxruntime | openvino | tensorrt | torch",
)
@click.option("--device", default="auto", show_default=True, help="auto | cpu | cuda | cuda:N")
@click.option(
    "--precision",
    type=click.Choice(("auto", *get_args(Precision))),
    default="auto",
    show_default=True,
)
@click.option(
    "--provider",
    type=click.Choice(("auto", "cpu", "cuda", "tensorrt", "rtx")),
    default="auto",
    help="Execution provider of ONNX Runtime.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [all cores].")
@backend_option()
@click.option(
    "--skip-flat",
    is_flag=True,
    help="Make slices that hold one value background without running the model on them.",
)
@click.option("--preview", is_flag=True, help="Write a picture beside each label file.")
@click.option(
    "--preview-dir",
    "preview_folder",
    type=click.Path(path_type=Path),
    help="Write the pictures into this folder instead.",
)
@click.option("--report", type=click.Path(path_type=Path), help="Write what was done as JSON.")
@click.option(
    "--continue", "resume", is_flag=True, help="Skip cases whose labels exist and can be read."
)
@click.option("--overwrite", is_flag=True, help="Replace labels and pictures that exist.")
@click.option("--no-verify", is_flag=True, help="Do not hash the bundle before use.")
@click.option("-v", "--verbose", is_flag=True, help="Say what was done for each case.")
@common_options
@click.pass_context
def main(ctx: click.Context, /, **options: Any) -> None:
    """Label volumes: one file, one DICOM series, or a folder of either.

    Labels have the geometry of their volume. A file that cannot be read is reported and does not
    stop the others. Exit code: 0 all labelled, 1 some cases of a folder failed, 2 nothing could be
    done.
    """
    from autosam_deploy.cli.labelling import Job, label_cases
    from autosam_deploy.cli.planning import Wish, plan_cases
    from autosam_deploy.cli.report import show_cases
    from autosam_deploy.runtime.options import parse_pairs

    batch = _batch(options["batch"])
    bundle = options["bundle"] or find_bundle(Path("runs"))
    wishes = ("form", "resume", "overwrite", "preview", "preview_folder", "report")
    wish = Wish(**{name: options[name] for name in wishes})
    tasks = plan_cases(options["source"], options["target"], wish)
    quiet = options["quiet"] or options["as_json"]
    job = Job(
        bundle=bundle,
        axis=options["axis"],
        batch=batch,
        verify=not options["no_verify"],
        engine={
            **{
                name: options[name]
                for name in ("backend", "device", "precision", "provider", "threads")
            },
            "options": parse_pairs(options["backend_options"]),
        },
        skip_flat=options["skip_flat"],
        report=options["report"],
        verbose=options["verbose"],
    )
    run = label_cases(tasks, job, console=Console(stderr=True, quiet=quiet))
    if options["as_json"]:
        echo_json(run.as_dict())
    elif not options["quiet"]:
        show_cases(Console(), run)
    failed = [case for case in run.cases if case.status == "failed"]
    for case in failed:
        click.echo(f"error: {case.error}", err=True)
    if failed:
        ctx.exit(1 if options["source"].is_dir() and len(run.cases) > 1 else 2)


def find_bundle(runs: Path) -> Path:
    """Return the one bundle under `runs/*/`.

    Raises:
        UsageError: none or several.
    """
    found = sorted(path.parent for path in runs.glob("*/*.autosam/manifest.json"))
    if not found:
        raise UsageError(
            f"no bundle under '{runs}'", todo="name one, or make one with autosam-export"
        )
    if len(found) > 1:
        raise UsageError(
            f"several bundles under '{runs}'",
            got=", ".join(str(path) for path in found),
            todo="name one",
        )
    return found[0]


def _batch(text: str) -> Any:
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError("--batch", got=repr(text), expected="1 or more, or auto")
    return int(text)
