"""`autosam-bench label-efficiency`: how many labelled volumes does which method need?"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from autosam_deploy.benchmarks.efficiency.plan import (
    METHODS,
    RANDOM_ENCODER,
    Method,
    Plan,
    check_choice,
    uses_encoder,
)
from autosam_deploy.cli.shell import AutosamCommand, common_options, echo_json
from autosam_deploy.encoders import ENCODERS
from autosam_deploy.errors import UsageError
from autosam_deploy.extras import require
from autosam_deploy.models.image_size import ImageSize, parse_image_size
from autosam_deploy.sizes import parse_bytes
from autosam_deploy.spec import PreprocessSpec

if TYPE_CHECKING:
    from autosam_deploy.benchmarks.efficiency.material import StudyData
    from autosam_deploy.benchmarks.efficiency.roles import Roles
    from autosam_deploy.benchmarks.efficiency.sam import Sam
    from autosam_deploy.benchmarks.efficiency.screen import Screen
    from autosam_deploy.benchmarks.efficiency.study import Setting
    from autosam_deploy.training.datasets.pairs import Dataset

_EXAMPLES = """
\b
Examples:
  autosam-bench label-efficiency --data Task04_Hippocampus/ --sam-checkpoint sam_vit_b_01ec64.pth
      all methods on 1, 2, 4, ... volumes, 3 seeds; a fifth of the volumes tests
  autosam-bench label-efficiency --data heart/ --split split.json --random-encoder vit_tiny \\
      --methods cnn,unet --volumes 1,4 --seeds 2 --steps 100
      a quick look without SAM's weights: the encoder is random and everything says so
  autosam-bench label-efficiency --data heart/ --sam-checkpoint sam_vit_b_01ec64.pth \\
      --methods autosam,cnn --image-size 1024,448
      what does a smaller input of the encoder cost? heads learn at each size, on the same volumes
  autosam-bench label-efficiency --data heart/ --sam-checkpoint sam_vit_b_01ec64.pth --resume
      go on where the same command was stopped, or add seeds, methods, sizes or volumes to it
"""
_PATH = click.Path(path_type=Path)
_RANDOM_SEED = 0


@click.command(
    "label-efficiency",
    cls=AutosamCommand,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--images", type=_PATH, help="Folder of volumes, DICOM series or PNG folders.")
@click.option("--labels", type=_PATH, help="Folder of their labels, with the same names.")
@click.option("--data", type=_PATH, help="Folder that holds both, such as nnU-Net's raw layout.")
@click.option("--channel", type=int, help="Which channel, where cases have several.")
@click.option("--classes", help="Names by comma, a file with one a line, or a dataset.json.")
@click.option(
    "--axis",
    type=click.Choice(("auto", "i", "j", "k")),
    default="auto",
    show_default=True,
    help="Image axis to slice along; auto: the largest spacing, else k.",
)
@click.option("--split", type=_PATH, help="JSON file with lists of names: train, val, test.")
@click.option("--test", help="Volumes for scores: a number, names by comma, or a file [a fifth].")
@click.option(
    "--val", help="Volumes that choose epochs, likewise [4]; 0: those that are learned from."
)
@click.option("--sam-checkpoint", type=_PATH, help="SAM's weights: a file, or litemedsam.")
@click.option(
    "--random-encoder",
    type=click.Choice(sorted(ENCODERS)),
    help="Random encoder weights instead, to try things out.",
)
@click.option(
    "--image-size",
    help="Encoder inputs by comma, N or HxW in pixels; heads learn at each [the checkpoint's].",
)
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--volumes", help="Numbers of volumes to learn from [1,2,4,8,... up to the pool].")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--steps", type=int, default=400, show_default=True, help="At least, in whole epochs."
)
@click.option("--batch", type=int, default=4, show_default=True, help="Slices a step.")
@click.option("--lr", type=float, default=5e-4, show_default=True, help="Learning rate of Adam.")
@click.option(
    "--views", type=int, default=4, show_default=True, help="Augmented copies of every slice."
)
@click.option("--cnn-channels", type=int, default=64, show_default=True, help="Narrowest layer.")
@click.option("--unet-channels", help="Five numbers, top to bottom [32,64,128,256,256].")
@click.option(
    "--pretrain-epochs", type=int, default=100, show_default=True, help="Of unet-pretrained."
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Of the frozen encoder: auto | cpu | cuda | cuda:N. Training is on the CPU.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [all cores].")
@click.option("--cache", type=_PATH, help="Folder of embeddings [cache, beside OUT].")
@click.option("--cache-limit", default="20GB", show_default=True, help="Of the whole folder.")
@click.option(
    "-o",
    "--out",
    type=_PATH,
    default=Path("runs/label-efficiency"),
    show_default=True,
    help="Folder of the study.",
)
@click.option("--resume", is_flag=True, help="Keep finished cells and train the others.")
@click.option("--overwrite", is_flag=True, help="Replace a study that is there.")
@click.option("-v", "--verbose", is_flag=True, help="Print every epoch.")
@common_options
@click.pass_context
def label_efficiency(ctx: click.Context, /, **options: Any) -> None:
    """Compare methods by how many labelled volumes they need.

    Heads on the frozen encoder and U-Nets learn from 1, 2, 4, ... volumes, all from the same ones
    with the same number of steps; volumes that none of them saw give Dice, HD95 and ASSD. Writes
    label-efficiency.json, report.md and plots into OUT, and every finished cell at once, so that a
    study that was stopped can go on.

    Exit code: 0 all trained, 1 some cells failed (they are listed), 2 the study could not be run.
    """
    for module in ("torch", "segment_anything", "monai", "scipy", "matplotlib.figure"):
        require(module, extra="bench", feature="a study of label efficiency")
    import torch

    from autosam_deploy.benchmarks.efficiency.material import Material
    from autosam_deploy.benchmarks.efficiency.report import show
    from autosam_deploy.benchmarks.efficiency.result import failures
    from autosam_deploy.benchmarks.efficiency.screen import Screen
    from autosam_deploy.benchmarks.efficiency.store import Store
    from autosam_deploy.benchmarks.efficiency.study import run_study
    from autosam_deploy.cores import usable_cores

    if options["resume"] and options["overwrite"]:
        raise UsageError("--resume and --overwrite contradict each other", todo="drop one")
    # What the options alone tell is checked before any volume is read.
    methods = _methods(options["methods"])
    setting = _setting(options)
    Store(setting.folder).check(resume=setting.resume, overwrite=setting.overwrite)
    torch.set_num_threads(options["threads"] or usable_cores())
    quiet = options["quiet"] or options["as_json"]
    with Screen(quiet=quiet, verbose=options["verbose"]) as screen:
        dataset, roles = _roles(options)
        sam = _sam(options, methods, screen)
        plan = _plan(options, methods, roles, _image_sizes(options["image_size"], sam))
        material = Material(_read(options, dataset, roles, screen), plan, sam)
        result = run_study(material, setting, watch=screen)
    if options["as_json"]:
        echo_json(result)
    elif not quiet:
        console = Console()
        show(console, result)
        console.print(f"wrote {setting.folder}", markup=False, highlight=False, soft_wrap=True)
    if failures(result):
        ctx.exit(1)


def _methods(text: str) -> tuple[Method, ...]:
    wanted = tuple(name.strip() for name in text.split(","))
    check_choice("--methods", wanted, METHODS)
    return tuple(method for method in METHODS if method in wanted)


def _setting(options: dict[str, Any]) -> Setting:
    from autosam_deploy.benchmarks.efficiency.study import Setting
    from autosam_deploy.training.device import choose_device
    from autosam_deploy.training.embedding.prepare import Caching

    out: Path = options["out"]
    return Setting(
        folder=out,
        caching=Caching(
            options["cache"] or out.parent / "cache",
            limit_bytes=parse_bytes(options["cache_limit"]),
        ),
        device=choose_device(options["device"])[0],
        command=shlex.join(["autosam-bench", *sys.argv[1:]]),
        resume=options["resume"],
        overwrite=options["overwrite"],
    )


def _roles(options: dict[str, Any]) -> tuple[Dataset, Roles]:
    """Find the volumes and give them their roles; no voxel is read."""
    from autosam_deploy.benchmarks.efficiency.roles import choose_roles
    from autosam_deploy.training.datasets.pairs import find_dataset
    from autosam_deploy.training.datasets.splits import read_split

    dataset = find_dataset(
        options["images"], options["labels"], options["data"], channel=options["channel"]
    )
    split = None if options["split"] is None else read_split(options["split"], dataset.names)
    return dataset, choose_roles(
        dataset.names, split=split, val=options["val"], test=options["test"]
    )


def _plan(
    options: dict[str, Any],
    methods: tuple[Method, ...],
    roles: Roles,
    image_sizes: tuple[ImageSize, ...],
) -> Plan:
    volumes, channels = options["volumes"], options["unet_channels"]
    plan = Plan(
        methods=methods,
        volumes=roles.doublings() if volumes is None else _numbers(volumes, "--volumes"),
        seeds=options["seeds"],
        steps=options["steps"],
        batch=options["batch"],
        learning_rate=options["lr"],
        views=options["views"],
        cnn_channels=options["cnn_channels"],
        unet_channels=None if channels is None else _numbers(channels, "--unet-channels"),
        pretrain_epochs=options["pretrain_epochs"],
        image_sizes=image_sizes,
    )
    roles.draw(max(plan.volumes), seed=0)  # refuses what the pool does not hold
    return plan


def _image_sizes(text: str | None, sam: Sam | None) -> tuple[ImageSize, ...]:
    """Return the sizes that were asked for, else the encoder's own; none without an encoder."""
    if sam is None:
        return ()
    if text is None:
        return (sam.encoder.spec.image_size,)
    sizes = tuple(parse_image_size(part) for part in text.split(","))
    for size in sizes:
        sam.at(size)  # refuses what the encoder cannot take
    return sizes


def _numbers(text: str, option: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(option, got=repr(text), expected="numbers by comma, for example 1,2,4,8")
    return tuple(int(part) for part in parts)


def _sam(options: dict[str, Any], methods: tuple[Method, ...], screen: Screen) -> Sam | None:
    """Read the encoder, where a method needs one; random weights are written where missing."""
    sam: Path | None = options["sam_checkpoint"]
    random: str | None = options["random_encoder"]
    if not any(uses_encoder(method) for method in methods):
        if sam is not None or random is not None or options["image_size"] is not None:
            raise UsageError(
                "the encoder",
                got="options of it for methods that have none",
                expected="no --sam-checkpoint, --random-encoder, --image-size",
                todo="drop the option, or add a head to --methods",
            )
        return None
    if (sam is None) == (random is None):
        raise UsageError(
            "the encoder's weights",
            got="nothing" if sam is None else "--sam-checkpoint and --random-encoder",
            expected="one of --sam-checkpoint FILE and --random-encoder NAME",
            todo="SAM's weights are published by its authors; a random encoder is for trying out",
        )
    from autosam_deploy.benchmarks.efficiency.sam import Sam

    read = Sam.read(
        sam or _random_encoder(options["out"].parent, str(random)),
        preprocess=PreprocessSpec(slice_axis=options["axis"]),
    )
    if read.encoder.random:
        screen.note(RANDOM_ENCODER)
    return read


def _random_encoder(runs: Path, name: str) -> Path:
    """Return the file of an encoder's random weights, the one that `autosam-train` makes too."""
    from autosam_deploy.models.checkpoints import write_encoder
    from autosam_deploy.models.encoders import seeded_encoder_state

    path = runs / "encoders" / f"{name}-random.safetensors"
    if not path.is_file():
        state = seeded_encoder_state(ENCODERS[name], _RANDOM_SEED)
        write_encoder(path, state, random_seed=_RANDOM_SEED)
    return path


def _read(options: dict[str, Any], dataset: Dataset, roles: Roles, screen: Screen) -> StudyData:
    """Read the volumes of all roles."""
    from autosam_deploy.benchmarks.efficiency.material import StudyData
    from autosam_deploy.training.datasets.classes import class_names, given_names
    from autosam_deploy.training.datasets.loading import load_dataset

    given = given_names(options["classes"], dataset)
    loaded = load_dataset(
        dataset.select([*roles.pool, *roles.validation, *roles.test]),
        num_classes=None if given is None else len(given),
        axis=options["axis"],
        progress=screen.reading,
    )
    for note in loaded.notes:
        screen.note(note)
    names = class_names(options["classes"], dataset, loaded.labels_present)
    folder = (options["data"] or options["images"]).resolve()
    # A folder "images" is named after what it is a part of.
    name = folder.name if options["data"] is not None else f"{folder.parent.name}/{folder.name}"
    screen.say(
        f"{len(roles.pool)} volumes to draw from, {len(roles.validation)} choose epochs, "
        f"{len(roles.test)} test; classes {', '.join(names)}"
    )
    return StudyData(name, roles, names, {volume.name: volume for volume in loaded.volumes})
