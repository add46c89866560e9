"""`autosam-evaluate`: compare predicted labels with true ones."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource
from rich.console import Console

from autosam_deploy.bundle.manifest import Precision
from autosam_deploy.cli.shell import AutosamCommand, backend_option, common_options, echo_json
from autosam_deploy.errors import UsageError
from autosam_deploy.spec import ClassSpec, default_classes

if TYPE_CHECKING:
    from autosam_deploy.cli.evaluation import Evaluation
    from autosam_deploy.cli.pairing import Pairing
    from autosam_deploy.cli.scores import Scores

_EXAMPLES = """
\b
Examples:
  autosam-evaluate predicted/ labelsTs/
  autosam-evaluate predicted/ labelsTs/ --classes dataset.json --plot scores.png
  autosam-evaluate predicted.nii.gz true.nii.gz --csv scores.csv
  autosam-evaluate heart.autosam labelsTs/ --images imagesTs/ --out scores.json
      label the images with a bundle first, in memory
"""
#: Options that say how a bundle runs.
_ENGINE = ("backend", "device", "precision", "threads")
#: How a line beside the result is printed: as it is, paths with brackets included.
_ASIDE: dict[str, Any] = {"style": "dim", "highlight": False, "markup": False, "soft_wrap": True}


@click.command(
    cls=AutosamCommand,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("predictions", type=click.Path(path_type=Path))
@click.argument("labels", type=click.Path(path_type=Path))
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="PREDICTIONS is a bundle: label these volumes with it.",
)
@click.option(
    "--classes",
    help="Class names by comma, a file with one a line, or a dataset.json; background first "
    "[those of the bundle, else class_1, ...].",
)
@click.option("--csv", type=click.Path(path_type=Path), help="Write one row a case and class.")
@click.option("--out", type=click.Path(path_type=Path), help="Write what --json prints.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw box plots into this PNG file.")
@click.option("--allow-missing", is_flag=True, help="Leave out cases that do not pair up.")
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
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [all cores].")
@backend_option()
@click.option("-v", "--verbose", is_flag=True, help="Show one row a case too.")
@common_options
@click.pass_context
def main(ctx: click.Context, /, **options: Any) -> None:
    """Compare predicted labels with true ones: Dice, HD95 and ASSD in mm for every class.

    PREDICTIONS and LABELS are two folders of label volumes with equal names, or two files. With
    --images, PREDICTIONS is a bundle that labels those volumes.

    A class in neither prediction nor truth of a case has no scores there and is left out of means.
    A class in one of them only has Dice 0 and no distances: it is left out of the means of
    distances and counted beside them, as missed (in the truth only) or invented (in the prediction
    only). Means are taken over cases for each class, and over these means for the foreground.

    A bad file is reported and does not stop the others. Exit code: 0 all evaluated, 1 some cases of
    a folder failed, 2 nothing could be evaluated.
    """
    from autosam_deploy.cli.evaluation import Reader, evaluate
    from autosam_deploy.cli.pairing import check_outputs, pair_cases
    from autosam_deploy.cli.scores import Scores

    _check_options(ctx, options)
    images, truth = options["images"], options["labels"]
    classes = _classes(options["classes"])
    pairing = pair_cases(
        images or options["predictions"],
        truth,
        what="images" if images else "predictions",
        allow_missing=options["allow_missing"],
    )
    outputs = {f"--{name}": options[name] for name in ("csv", "out", "plot")}
    check_outputs(outputs, _inputs(options, pairing))
    _load_extras(options)
    console = Console(stderr=True, quiet=options["quiet"] or options["as_json"])
    bundle = None
    if images is None:
        found = evaluate(pairing.pairs, Reader(), classes=classes, console=console)
    else:
        found, bundle = _label_and_evaluate(options, pairing, classes, console)
    if found.scored and not found.classes:
        _show_failures(found)
        raise UsageError(
            "no label but background in any case", todo="name the classes with --classes"
        )
    scores = Scores(
        evaluation=found,
        pairing=pairing,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        predictions=str(options["predictions"]),
        labels=str(truth),
        bundle=bundle,
    )
    _give(scores, options, console)
    _show_failures(found)
    if found.failed:
        ctx.exit(1 if found.scored else 2)


def _show_failures(found: Evaluation) -> None:
    for case in found.failed:
        click.echo(f"error: {case.error}", err=True)


def _check_options(ctx: click.Context, options: dict[str, Any]) -> None:
    """Refuse options that say nothing without others, before anything is read."""
    source, plot = options["predictions"], options["plot"]
    if plot is not None and plot.suffix.lower() != ".png":
        raise UsageError("--plot", got=f"'{plot}'", expected="a name that ends in .png")
    _batch(options["batch"])
    if options["images"] is not None:
        return
    if (source / "manifest.json").is_file():
        raise UsageError(
            f"'{source}' is a bundle",
            expected="label files, or images for the bundle to label",
            todo="name the folder of images with --images",
        )
    for name in (*_ENGINE, "batch", "backend_options"):
        if ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, None):
            shown = "option" if name == "backend_options" else name
            raise UsageError(
                f"--{shown} is for a bundle", todo="drop it, or give a bundle and --images"
            )


def _classes(text: str | None) -> tuple[ClassSpec, ...] | None:
    """Return the classes that `--classes` names, as `autosam-train` takes them."""
    if text is None:
        return None
    from autosam_deploy.training.datasets.dataset_json import check_class_names, read_dataset_json
    from autosam_deploy.training.datasets.texts import is_file, names_from

    if text.lower().endswith(".json") and is_file(text):
        names = read_dataset_json(Path(text)).class_names
    else:
        names = names_from(text, "--classes")
        check_class_names(names, "--classes")
    return default_classes(len(names), names)


def _inputs(options: dict[str, Any], pairing: Pairing) -> Iterator[Path]:
    """Yield the files and folders that are read."""
    for pair in pairing.pairs:
        yield from (pair.source, pair.truth)
    if options["images"] is not None:
        yield options["predictions"]
    if options["classes"] is not None and "," not in options["classes"]:
        yield Path(options["classes"])


def _load_extras(options: dict[str, Any]) -> None:
    """Miss a package now rather than after an hour of labelling."""
    from autosam_deploy.metrics.surface import load_monai

    load_monai()
    if options["plot"] is not None:
        from autosam_deploy.cli.boxplot import load_matplotlib

        load_matplotlib()


def _label_and_evaluate(
    options: dict[str, Any],
    pairing: Pairing,
    classes: tuple[ClassSpec, ...] | None,
    console: Console,
) -> tuple[Evaluation, dict[str, Any]]:
    """Label the images with the bundle, one volume at a time, and score the labels."""
    from autosam_deploy.cli.evaluation import Labeller, evaluate
    from autosam_deploy.runtime.engine import Engine
    from autosam_deploy.runtime.options import parse_pairs

    path = options["predictions"]
    chosen = {name: options[name] for name in _ENGINE}
    with Engine.open(path, **chosen, options=parse_pairs(options["backend_options"])) as engine:
        own = engine.manifest.model.classes
        if classes is not None and len(classes) != len(own):
            raise UsageError(
                f"--classes does not match the bundle '{path}'",
                got=f"{len(classes)} names",
                expected=f"{len(own)} ({', '.join(one.name for one in own)})",
            )
        info = engine.info
        console.print(
            f"{path} on {info.backend} ({info.provider}), {info.device}, {info.precision}, "
            f"{info.threads} threads: {info.reason}",
            **_ASIDE,
        )
        labeller = Labeller(engine, _batch(options["batch"]))
        found = evaluate(pairing.pairs, labeller, classes=classes or own, console=console)
        return found, {
            "path": str(path),
            "name": engine.manifest.name,
            "manifest_sha256": engine.bundle.manifest_sha256,
            "intended_use": engine.manifest.intended_use,
            "images": str(options["images"]),
            # Asked again: the engine has learnt what fits into memory.
            "engine": engine.info.as_dict(),
        }


def _give(scores: Scores, options: dict[str, Any], console: Console) -> None:
    """Print the result and write it; a record is written even when no case could be scored."""
    from autosam_deploy.cli.boxplot import write_boxplot
    from autosam_deploy.cli.scores import show_scores, write_csv
    from autosam_deploy.files import write_json

    scored = bool(scores.evaluation.scored)
    if options["as_json"]:
        echo_json(scores.as_dict())
    elif scored and not options["quiet"]:
        show_scores(Console(), scores, verbose=options["verbose"])
    if options["out"] is not None:
        write_json(options["out"], scores.as_dict())
    if scored and options["csv"] is not None:
        write_csv(options["csv"], scores)
    if scored and options["plot"] is not None:
        write_boxplot(options["plot"], scores)
    for name in ("out", "csv", "plot"):
        if options[name] is not None and (scored or name == "out"):
            console.print(f"wrote {options[name]}", **_ASIDE)


def _batch(text: str) -> Any:
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError("--batch", got=repr(text), expected="1 or more, or auto")
    return int(text)
