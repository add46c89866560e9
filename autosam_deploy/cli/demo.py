"""`autosam-demo`: the two ends of `make demo`, on a phantom, without any patient or download.

The steps between are the commands that users have: train, export, predict, evaluate.
"""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from autosam_deploy.cli.shell import AutosamGroup
from autosam_deploy.errors import UsageError

_EXAMPLES = """\b
Examples (what `make demo` runs):
  autosam-demo data
  autosam-train --data runs/demo --head autosam --random-encoder vit_tiny --recipe reference \\
      --epochs 24
  autosam-export --head autosam --fp16 --samples runs/demo/imagesTr
  autosam-predict runs/autosam/model.autosam -i runs/demo/imagesTs -o runs/demo/predicted --preview
  autosam-evaluate runs/demo/predicted runs/demo/labelsTs --classes runs/demo/dataset.json
  autosam-demo files
"""
_RUNS = click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True
)


@click.group(
    cls=AutosamGroup,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Make a labelled phantom set to try the commands on, and list what they made of it."""
    del debug


@main.command()
@_RUNS
@click.option("--train", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--test", type=click.IntRange(min=1), default=2, show_default=True)
def data(runs: Path, train: int, test: int) -> None:
    """Write heart-like phantom volumes with labels, in nnU-Net's raw layout."""
    from autosam_deploy.volumes.phantom import write_phantom_set

    folder = runs / "demo"
    write_phantom_set(folder, train=train, test=test)
    Console().print(f"wrote {train} training and {test} held-out phantom volumes to {folder}")


@main.command()
@_RUNS
@click.option("--head", default="autosam", show_default=True)
def files(runs: Path, head: str) -> None:
    """Say which files there are, and which pictures to look at."""
    if not (runs / "demo" / "labelsTs").is_dir():
        raise UsageError(f"no phantom set under '{runs}'", todo="run autosam-demo data first")
    console = Console()
    console.print("files written:")
    for path in _written(runs / "demo", runs / head, runs / "demo" / "predicted"):
        console.print(f"  {_size(path):>9}  {path}", soft_wrap=True, highlight=False)
    for picture in sorted((runs / "demo" / "predicted").glob("*.png")):
        console.print(f"open this picture: {picture.resolve()}", soft_wrap=True)


def _written(*folders: Path) -> list[Path]:
    """Return what lies in the folders; a bundle or a set of volumes is one entry."""
    return [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]


def _size(path: Path) -> str:
    """Return the size of a file or of all files in a folder."""
    files_in = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    total = sum(one.stat().st_size for one in files_in)
    return f"{total / 1e6:.1f} MB" if total >= 1e5 else f"{total / 1e3:.1f} kB"
