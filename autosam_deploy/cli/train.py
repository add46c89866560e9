"""`autosam-train`: fit a head on a few labelled volumes."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autosam_deploy.cli.shell import AutosamCommand, common_options, echo_json
from autosam_deploy.encoders import ENCODERS
from autosam_deploy.errors import CheckpointError, OutputError, UsageError
from autosam_deploy.extras import require
from autosam_deploy.models.image_size import parse_image_size
from autosam_deploy.sizes import parse_bytes
from autosam_deploy.spec import HEAD_KINDS, PreprocessSpec
from autosam_deploy.strict import parse_spec

if TYPE_CHECKING:
    from autosam_deploy.cli.training import Screen
    from autosam_deploy.training.datasets.loading import LabelledSlices
    from autosam_deploy.training.fitting.recipe import FitConfig
    from autosam_deploy.training.run import TrainRequest

_EXAMPLES = """
\b
Examples:
  autosam-train --data heart/ --head autosam --sam-checkpoint litemedsam
      the pretrained LiteMedSAM of the extra 'weights': small enough for a CPU
  autosam-train --data Task04_Hippocampus/ --head autosam --sam-checkpoint sam_vit_b_01ec64.pth
      an nnU-Net or Decathlon folder; a fifth of its volumes choose the best epoch
  autosam-train --images images/ --labels labels/ --head cnn --sam-checkpoint medsam_vit_b.pth \\
      --volumes 4 --val case_07,case_08 --views 8
      four volumes, eight augmented copies of every slice
  autosam-train --data heart/ --head linear --random-encoder vit_tiny --epochs 20
      without SAM's weights, to try things out: the encoder is random and everything says so
  autosam-train --data heart/ --head autosam --sam-checkpoint sam_vit_b_01ec64.pth \\
      --start-from runs/autosam/head.safetensors --lr 1e-4 --epochs 10 -o runs/finer
      go on with a finished head, more gently
  autosam-train --data heart/ --head cnn --sam-checkpoint sam_vit_b_01ec64.pth --image-size 448
      a smaller input of the encoder: a sixth of the work, for slices of 256 pixels or so
  autosam-train --data heart/ --head autosam --sam-checkpoint sam_vit_b_01ec64.pth --resume
      go on where the same command was stopped
\b
Then:
  autosam-export --head autosam --fp16
"""
_PATH = click.Path(path_type=Path)
_RANDOM_SEED = 0


@click.command(
    cls=AutosamCommand,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--images", type=_PATH, help="Folder of volumes, DICOM series or PNG folders.")
@click.option("--labels", type=_PATH, help="Folder of their labels, with the same names.")
@click.option("--data", type=_PATH, help="Folder that holds both: nnU-Net, ACDC, M&Ms, BIDS, ...")
@click.option("--channel", type=int, help="Which channel, where cases have several.")
@click.option("--classes", help="Names by comma, a file with one a line, or a dataset.json.")
@click.option(
    "--axis",
    type=click.Choice(("auto", "i", "j", "k")),
    default="auto",
    show_default=True,
    help="Image axis to slice along; auto: the largest spacing, else k.",
)
@click.option(
    "--volumes",
    help="Volumes to learn from: a number (up to whole patients), names by comma, or a file.",
)
@click.option(
    "--val",
    help="Volumes that choose the best epoch, likewise [a fifth of the patients]; "
    "0: those of training.",
)
@click.option(
    "--split", type=_PATH, help="JSON file with lists train, val, test [split.json of --data]."
)
@click.option("--skip-empty", is_flag=True, help="Leave out volumes without foreground.")
@click.option("--head", type=click.Choice(HEAD_KINDS), default="autosam", show_default=True)
@click.option("--sam-checkpoint", type=_PATH, help="SAM's weights: a file, or litemedsam.")
@click.option(
    "--random-encoder",
    type=click.Choice(sorted(ENCODERS)),
    help="Random encoder weights instead, to try things out.",
)
@click.option("--encoder", type=click.Choice(sorted(ENCODERS)), help="Refuse any other encoder.")
@click.option("--image-size", help="Encoder input N or HxW in pixels [the checkpoint's].")
@click.option(
    "--intensity",
    default="slice-minmax",
    show_default=True,
    help="slice-minmax | slice-zscore | none | window:LEVEL,WIDTH",
)
@click.option("--views", type=int, help="Augmented copies of every slice [2; recipe reference: 0].")
@click.option("--views-seed", type=int, default=0, show_default=True)
@click.option("--view-recipe", type=_PATH, help="JSON file with fields of the view recipe.")
@click.option(
    "--recipe",
    type=click.Choice(("steady", "reference")),
    default="steady",
    show_default=True,
    help="steady: falling rate, averaged weights, views; reference: as AutoSAM's authors.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Of recipe steady, about [the head's].")
@click.option(
    "--epochs", type=int, help="Passes over the slices [reference: 120; steady: --steps]."
)
@click.option("--batch", type=int, help="Slices a step [4].")
@click.option("--lr", type=float, help="Learning rate of Adam [the recipe's].")
@click.option("--lr-factor", type=float, help="On a plateau; of recipe reference [0.1].")
@click.option("--lr-patience", type=int, help="Epochs of a plateau; of recipe reference [10].")
@click.option(
    "--patience",
    type=int,
    help="Stop after so many epochs without a higher validation Dice; 0: never [reference: 40].",
)
@click.option("--start-from", type=_PATH, help="A head's file whose weights are the start.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--time-limit", type=float, help="Begin no epoch after so many seconds.")
@click.option(
    "--cnn-channels",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Narrowest layer of a cnn head; the reference has 64, fewer are far faster.",
)
@click.option("--final-relu", is_flag=True, help="End a linear head in a ReLU, as the reference.")
@click.option("--device", default="auto", show_default=True, help="auto | cpu | cuda | cuda:N")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [all cores].")
@click.option(
    "--embed-with",
    type=click.Choice(("auto", "torch", "onnxruntime")),
    default="auto",
    show_default=True,
    help="What runs the encoder; auto: the fastest there is.",
)
@click.option("--cache", type=_PATH, help="Folder of embeddings [RUNS/cache].")
@click.option(
    "--cache-dtype",
    type=click.Choice(("float16", "float32")),
    default="float16",
    show_default=True,
)
@click.option("--cache-limit", default="20GB", show_default=True, help="Of the whole folder.")
@click.option("--runs", type=_PATH, default=Path("runs"), show_default=True)
@click.option("-o", "--output", type=_PATH, help="Folder of the result [RUNS/<head>].")
@click.option("--resume", is_flag=True, help="Go on with a fit that was stopped.")
@click.option("--overwrite", is_flag=True, help="Replace a head that is there.")
@click.option("-v", "--verbose", is_flag=True, help="Print every epoch, and what is read.")
@common_options
def main(**options: Any) -> None:
    """Fit a head on a few labelled volumes, on the frozen encoder's embeddings.

    The encoder sees every slice (and every augmented copy) once; its embeddings are kept and serve
    all heads and later runs. Writes head.safetensors, metrics.json, curves.png, run.json and
    train.log into runs/<head>/.
    """
    for module in ("torch", "segment_anything", "monai"):
        require(module, extra="train", feature="training a head")
    folder = options["output"] or options["runs"] / options["head"]
    _check_folder(folder, options)
    from autosam_deploy.cli.training import Screen

    quiet = options["quiet"] or options["as_json"]
    with Screen(folder, quiet=quiet, verbose=options["verbose"]) as screen:
        # Options are looked at before volumes are read: a typo costs no minute.
        request = _request(options, screen)
        data = _read_data(options, screen)
        slices = sum(len(volume.slices) for volume in data.train)
        config = _config(options, slices)
        request = replace(request, class_names=data.class_names, config=config)
        from autosam_deploy.training.run import train_head

        trained = train_head(
            data.train,
            data.validation,
            folder,
            request=request,
            watch=screen,
            resume=options["resume"],
        )
        screen.finish(trained, request.class_names, head=options["head"], runs=options["runs"])
    if options["as_json"]:
        metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
        echo_json({"head": str(trained.head), **metrics})


@dataclass(frozen=True)
class _Data:
    """Volumes to learn from, volumes to choose the epoch with, and the classes' names."""

    train: list[LabelledSlices]
    validation: list[LabelledSlices]
    class_names: tuple[str, ...]


def _check_folder(folder: Path, options: dict[str, Any]) -> None:
    """Refuse to replace what an earlier run left there, unless asked to."""
    from autosam_deploy.training.result import HEAD_FILE
    from autosam_deploy.training.run import JOURNAL_FILE

    if options["resume"] and options["overwrite"]:
        raise UsageError("--resume and --overwrite contradict each other", todo="drop one")
    if options["resume"]:
        return
    if not options["overwrite"] and (folder / HEAD_FILE).exists():
        raise OutputError(
            f"'{folder / HEAD_FILE}' is there already",
            todo="train into another folder with -o, or add --overwrite",
        )
    if not options["overwrite"] and (folder / JOURNAL_FILE).exists():
        raise OutputError(
            f"'{folder}' holds a training that was stopped",
            todo="go on with --resume, or start anew with --overwrite",
        )


def _read_data(options: dict[str, Any], screen: Screen) -> _Data:
    """Find, split and read the volumes."""
    from autosam_deploy.training.datasets.choosing import split_dataset
    from autosam_deploy.training.datasets.classes import class_names, given_names
    from autosam_deploy.training.datasets.loading import load_dataset
    from autosam_deploy.training.datasets.pairs import find_dataset

    dataset = find_dataset(
        options["images"], options["labels"], options["data"], channel=options["channel"]
    )
    screen.say(dataset.summary)
    chosen = split_dataset(
        dataset, split=options["split"], volumes=options["volumes"], val=options["val"]
    )
    for line in chosen.said:
        screen.say(line)
    for note in (*dataset.notes, *chosen.notes):
        screen.note(note)
    given = given_names(options["classes"], dataset)
    loaded = load_dataset(
        dataset.select([*chosen.train, *chosen.validation]),
        num_classes=None if given is None else len(given),
        axis=options["axis"],
        empty="skip" if options["skip_empty"] else "refuse",
        progress=screen.reading,
    )
    for note in loaded.notes:
        screen.note(note)
    by_name = {volume.name: volume for volume in loaded.volumes}
    data = _Data(
        [by_name[name] for name in chosen.train if name in by_name],
        [by_name[name] for name in chosen.validation if name in by_name],
        class_names(options["classes"], dataset, loaded.labels_present),
    )
    screen.data(data.train, data.validation, data.class_names)
    return data


def _request(options: dict[str, Any], screen: Screen) -> TrainRequest:
    """Put the options together as the library takes them; the data will name the classes."""
    from autosam_deploy.training.run import TrainRequest

    size: str | None = options["image_size"]
    return TrainRequest(
        kind=options["head"],
        class_names=(),
        sam_checkpoint=_encoder_file(options, screen),
        cache=options["cache"] or options["runs"] / "cache",
        config=_config(options, slices=1),
        preprocess=_preprocess(options),
        image_size=None if size is None else parse_image_size(size),
        views=_views(options),
        cache_limit=parse_bytes(options["cache_limit"]),
        cache_dtype=options["cache_dtype"],
        device=options["device"],
        runtime=None if options["embed_with"] == "auto" else options["embed_with"],
        threads=options["threads"],
        final_relu=options["final_relu"],
        cnn_channels=options["cnn_channels"],
        start_from=options["start_from"],
        command=shlex.join(["autosam-train", *sys.argv[1:]]),
    )


def _config(options: dict[str, Any], slices: int) -> FitConfig:
    """Return the recipe for so many training slices, with what the options change in it."""
    from autosam_deploy.training.fitting.recipe import FitConfig, steady

    if options["recipe"] == "reference":
        if options["steps"] is not None:
            raise UsageError("--steps", got="--recipe reference", expected="--epochs")
        config = FitConfig()
    else:
        if given := [one for one in ("lr_factor", "lr_patience") if options[one] is not None]:
            name = f"--{given[0].replace('_', '-')}"
            raise UsageError(name, got="--recipe steady", expected="--recipe reference")
        if options["steps"] is not None and options["epochs"] is not None:
            raise UsageError("--steps and --epochs contradict each other", todo="drop one")
        batch = options["batch"] or FitConfig.batch
        config = steady(options["head"], slices, steps=options["steps"], batch=batch)
        if options["epochs"] is not None:
            config = replace(config, passes=1)
    changes = {
        field: options[option]
        for option, field in (
            ("epochs", "epochs"),
            ("batch", "batch"),
            ("lr", "learning_rate"),
            ("lr_factor", "lr_factor"),
            ("lr_patience", "lr_patience"),
            ("patience", "patience"),
            ("seed", "seed"),
            ("time_limit", "time_limit_s"),
        )
        if options[option] is not None
    }
    return replace(config, **changes)


def _encoder_file(options: dict[str, Any], screen: Screen) -> Path:
    """Return the file of the encoder's weights; random ones are written where they are missing."""
    sam: Path | None = options["sam_checkpoint"]
    random: str | None = options["random_encoder"]
    if (sam is None) == (random is None):
        raise UsageError(
            "the encoder's weights",
            got="nothing" if sam is None else "--sam-checkpoint and --random-encoder",
            expected="one of --sam-checkpoint FILE and --random-encoder NAME",
            todo="SAM's weights are published by its authors; a random encoder is for trying out",
        )
    if random is not None:
        return _random_encoder(options["runs"], random, screen)
    if sam is not None and options["encoder"] is not None:
        from autosam_deploy.models.checkpoints import read_checkpoint

        held = read_checkpoint(sam).encoder
        if held is None or held.name != options["encoder"]:
            raise CheckpointError(
                f"'{sam}' holds another encoder",
                got="none" if held is None else held.name,
                expected=options["encoder"],
            )
    return Path(str(sam))


def _random_encoder(runs: Path, name: str, screen: Screen) -> Path:
    from autosam_deploy.models.checkpoints import write_encoder
    from autosam_deploy.models.encoders import seeded_encoder_state

    path = runs / "encoders" / f"{name}-random.safetensors"
    if not path.is_file():
        state = seeded_encoder_state(ENCODERS[name], _RANDOM_SEED)
        write_encoder(path, state, random_seed=_RANDOM_SEED)
    screen.note(f"the encoder is {name} with RANDOM weights ({path}): scores say nothing of SAM")
    return path


def _preprocess(options: dict[str, Any]) -> PreprocessSpec:
    kind, _, numbers = options["intensity"].partition(":")
    fields: dict[str, Any] = {"intensity": kind, "slice_axis": options["axis"]}
    if kind == "window":
        try:
            level, width = (float(part) for part in numbers.split(","))
        except ValueError as error:
            raise UsageError(
                "--intensity", got=options["intensity"], expected="window:LEVEL,WIDTH"
            ) from error
        fields |= {"window_level": level, "window_width": width}
    elif numbers:
        raise UsageError("--intensity", got=options["intensity"], expected=f"{kind} alone")
    return parse_spec(PreprocessSpec, fields, what="--intensity")


def _views(options: dict[str, Any]) -> Any:
    from autosam_deploy.training.embedding.versions import Views
    from autosam_deploy.training.embedding.views import ViewRecipe
    from autosam_deploy.training.fitting.recipe import STEADY_VIEWS

    steady = options["recipe"] == "steady"
    count = options["views"]
    if count is None:
        count = STEADY_VIEWS if steady else 0
    recipe = ViewRecipe.gentle() if steady else ViewRecipe()
    views = Views(count, recipe=recipe, seed=options["views_seed"])
    path: Path | None = options["view_recipe"]
    if path is not None:
        if not path.is_file():
            raise UsageError("--view-recipe", got=f"no file '{path}'", expected="a JSON file")
        text = path.read_text("utf-8")
        views = replace(views, recipe=parse_spec(ViewRecipe, text, what=f"'{path}'"))
    return views if views.count else None
