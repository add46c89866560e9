"""`autosam-demo`: the two ends of `make demo`, on a phantom, without any patient or download.

The steps between are the commands that users have: `autosam-export` and `autosam-predict`.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from autosam_deploy.cli.shell import AutosamGroup
from autosam_deploy.errors import UsageError
from autosam_deploy.extras import require
from autosam_deploy.spec import ENCODERS, HEAD_KINDS, HeadKind

if TYPE_CHECKING:
    from autosam_deploy.training.fit import Epoch

_ENCODER_SEED = 0


_EXAMPLES = """\b
Examples (what `make demo` runs):
  autosam-demo fit
  autosam-export --head autosam --fp16 --samples runs/demo/imagesTr
  autosam-predict runs/autosam/model.autosam -i runs/demo/imagesTs -o runs/demo/predicted --preview
  autosam-demo report --labels runs/demo/predicted
"""


@click.group(
    cls=AutosamGroup,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Make a labelled phantom set, fit a head on it, and report on its labels."""
    del debug


@main.command()
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--head", "kind", type=click.Choice(HEAD_KINDS), default="autosam", show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=24, show_default=True)
def fit(runs: Path, kind: HeadKind, epochs: int) -> None:
    """Write phantom volumes and a seeded encoder, and fit a head (one to two minutes)."""
    require("torch", extra="train", feature="fitting a head")
    from autosam_deploy.models.checkpoints import write_encoder
    from autosam_deploy.models.encoder import seeded_encoder_state
    from autosam_deploy.training.data import load_labelled
    from autosam_deploy.training.fit import FitConfig
    from autosam_deploy.training.run import train_head
    from autosam_deploy.volumes.phantom import PHANTOM_CLASSES, write_phantom_set

    console = Console()
    data = runs / "demo"
    console.print(f"writing 8 training and 2 held-out phantom volumes to {data}")
    write_phantom_set(data, train=8, test=2)

    def show(epoch: Epoch) -> None:
        if epoch.number % 4 == 0 or epoch.number == 1:
            console.print(
                f"  epoch {epoch.number:3d}   loss {epoch.loss:.3f}   validation Dice "
                f"{epoch.dice:.3f}   {epoch.seconds:.1f} s",
                highlight=False,
            )

    console.print(
        f"fitting a head '{kind}' for {epochs} epochs on a small encoder with random weights "
        f"(seed {_ENCODER_SEED})"
    )
    sam = data / "encoder.safetensors"
    write_encoder(sam, seeded_encoder_state(ENCODERS["vit_tiny"], _ENCODER_SEED))
    volumes = load_labelled(data / "imagesTr", data / "labelsTr", num_classes=len(PHANTOM_CLASSES))
    command = ["autosam-demo", "fit", "--runs", str(runs), "--head", kind, "--epochs", str(epochs)]
    columns = TextColumn("  embeddings of slices"), BarColumn(), MofNCompleteColumn()
    disable = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=disable) as bars:
        bar = bars.add_task("embeddings", total=None)

        def advance(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total, visible=done < total)

        head, best = train_head(
            volumes,
            runs / kind,
            kind=kind,
            class_names=PHANTOM_CLASSES,
            sam_checkpoint=sam,
            config=FitConfig(epochs=epochs),
            command=shlex.join(command),
            report=show,
            progress=advance,
        )
    console.print(f"wrote {head}: validation Dice {best.dice:.3f} in epoch {best.number}")


@main.command()
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--head", "kind", type=click.Choice(HEAD_KINDS), default="autosam", show_default=True)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder that autosam-predict wrote.",
)
def report(runs: Path, kind: HeadKind, labels: Path) -> None:
    """Compare labels with the truth of the held-out phantoms and say which files to look at."""
    from autosam_deploy.metrics import dice, mean_foreground
    from autosam_deploy.volumes.cases import find_cases
    from autosam_deploy.volumes.phantom import PHANTOM_CLASSES
    from autosam_deploy.volumes.read import read_labels

    truth = runs / "demo" / "labelsTs"
    if not truth.is_dir():
        raise UsageError(f"no phantom set under '{runs}'", todo="run autosam-demo fit first")
    table = Table(title="Dice on held-out phantoms", title_justify="left")
    for column in ("case", *PHANTOM_CLASSES[1:], "mean"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for case in find_cases(truth):
        found = read_labels(labels / case.path.name)
        scores = dice(found.array, read_labels(case.path).array, num_classes=len(PHANTOM_CLASSES))
        values = [*scores[1:], mean_foreground(scores)]
        table.add_row(case.name, *(f"{value:.3f}" for value in values))
    console = Console()
    console.print(table)
    console.print("files written:")
    for path in _written(runs / "demo", runs / kind, labels):
        console.print(f"  {_size(path):>9}  {path}", soft_wrap=True, highlight=False)
    for picture in sorted(labels.glob("*.png")):
        console.print(f"open this picture: {picture.resolve()}", soft_wrap=True)


def _written(*folders: Path) -> list[Path]:
    """Return what lies in the folders; a bundle or a set of volumes is one entry."""
    return [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]


def _size(path: Path) -> str:
    """Return the size of a file or of all files in a folder."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    total = sum(one.stat().st_size for one in files)
    return f"{total / 1e6:.1f} MB" if total >= 1e5 else f"{total / 1e3:.1f} kB"
