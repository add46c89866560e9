"""`autosam-bench training-cost`: what an epoch costs with the encoder in every step, and without.

The reference implementation runs its frozen encoder on every slice of every epoch. Here the
embeddings are made once. Both ways train the same heads on the same slices in one run, in turns,
so that a machine whose speed drifts slows both alike.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from autosam_deploy.benchmarks.machine import machine_record
from autosam_deploy.cli.shell import AutosamCommand, common_options, echo_json
from autosam_deploy.cores import usable_cores
from autosam_deploy.encoders import ENCODERS
from autosam_deploy.errors import UsageError
from autosam_deploy.extras import require
from autosam_deploy.files import write_json
from autosam_deploy.spec import HEAD_KINDS

if TYPE_CHECKING:
    from autosam_deploy.models.segmenter import Segmenter
    from autosam_deploy.training.datasets.loading import LabelledSlices
    from autosam_deploy.training.embedding.versions import EmbeddedSlices
    from autosam_deploy.training.fitting.step import Trainer

_EXAMPLE = """
\b
Example:
  autosam-bench training-cost --data Task04_Hippocampus/ --random-encoder vit_b --slices 8
"""
_PATH = click.Path(path_type=Path)


@click.command(
    "training-cost",
    cls=AutosamCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXAMPLE,
)
@click.option("--images", type=_PATH, help="Folder of volumes.")
@click.option("--labels", type=_PATH, help="Folder of their labels.")
@click.option("--data", type=_PATH, help="Folder that holds both.")
@click.option("--sam-checkpoint", type=_PATH, help="SAM's weights.")
@click.option("--random-encoder", type=click.Choice(sorted(ENCODERS)), help="Random weights.")
@click.option("--heads", default="linear,autosam,cnn", show_default=True)
@click.option("--slices", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=120, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads [all cores].")
@click.option("--out", type=_PATH, help="Write the result as JSON.")
@common_options
def main(**options: Any) -> None:
    """Time an epoch with the encoder in every step against one on kept embeddings.

    --slices is how many labelled slices an epoch has; --epochs is the length of a training for
    which totals are computed from the measured seconds, embedding included.
    """
    for module in ("torch", "segment_anything", "monai"):
        require(module, extra="train", feature="measuring the cost of training")
    heads = [name.strip() for name in options["heads"].split(",")]
    if unknown := [name for name in heads if name not in HEAD_KINDS]:
        raise UsageError("--heads", got=unknown[0], expected=", ".join(HEAD_KINDS))
    console = Console(stderr=True, quiet=options["quiet"] or options["as_json"])
    result = measure_cost(options, heads, console)
    if options["out"] is not None:
        write_json(options["out"], result)
    if options["as_json"]:
        echo_json(result)
    elif not options["quiet"]:
        show(Console(), result)


def measure_cost(options: dict[str, Any], heads: Sequence[str], console: Console) -> dict[str, Any]:
    """Run both ways for every head and return the result as JSON values."""
    import torch

    from autosam_deploy.models.segmenter import Segmenter
    from autosam_deploy.spec import ModelSpec, default_classes
    from autosam_deploy.training.embedding.prepare import Caching, prepare_embeddings
    from autosam_deploy.training.fitting.start import head_spec

    threads = options["threads"] or usable_cores()
    torch.set_num_threads(threads)
    record = machine_record(threads=threads)
    volume, classes = _slices(options)
    encoder = _encoder(options)
    console.print(f"embedding {len(volume.slices)} slices once ...")
    with tempfile.TemporaryDirectory(prefix="autosam-cost-") as folder:
        caching = Caching(Path(folder), limit_bytes=10**12)
        prepared = prepare_embeddings([volume], (), encoder, caching=caching)
        rows = []
        for kind in heads:
            spec = ModelSpec(
                encoder=encoder.spec,
                head=head_spec(kind, num_classes=classes, embed_dim=encoder.spec.out_chans),  # type: ignore[arg-type]
                classes=default_classes(classes),
                preprocess=encoder.preprocess,
            )
            segmenter = Segmenter(spec).eval().requires_grad_(False)
            segmenter.image_encoder.load_state_dict(dict(encoder.state))
            row = _compare(
                spec,
                segmenter,
                volume=volume,
                embedded=prepared.train,
                options=options,
                console=console,
            )
            rows.append(row)
    embedding = float(prepared.record["seconds"])
    for row in rows:
        total = embedding + options["epochs"] * row["ours_s"]
        row["training_ratio"] = round(options["epochs"] * row["reference_s"] / total, 1)
    return {
        "what": "seconds an epoch: encoder and head in every step, against the head on kept "
        "embeddings; reading volumes and validation not included",
        "command": "autosam-bench " + " ".join(sys.argv[1:]),
        "encoder": f"{encoder.spec.name} at {'x'.join(map(str, encoder.spec.image_size))}"
        f"{', random weights' if encoder.random else ''}",
        "classes": classes,
        "slices": len(volume.slices),
        "slice_size": list(volume.slices.shape[1:]),
        "batch": options["batch"],
        "rounds": options["rounds"],
        "epochs": options["epochs"],
        "embedding": dict(prepared.record),
        "machine": record,
        "heads": rows,
    }


def _slices(options: dict[str, Any]) -> tuple[LabelledSlices, int]:
    """Return the slices around the middle of the first volumes, as one volume of one size."""
    import numpy as np

    from autosam_deploy.training.datasets.loading import LabelledSlices, load_dataset
    from autosam_deploy.training.datasets.pairs import find_dataset

    dataset = find_dataset(options["images"], options["labels"], options["data"])
    loaded = load_dataset(dataset.select(dataset.names[:1]))
    volume, count = loaded.volumes[0], options["slices"]
    if count > len(volume.slices):
        raise UsageError(
            "--slices", got=str(count), expected=f"at most {len(volume.slices)}, one volume's"
        )
    start = (len(volume.slices) - count) // 2
    part = LabelledSlices(
        volume.name,
        np.ascontiguousarray(volume.slices[start : start + count]),
        np.ascontiguousarray(volume.labels[start : start + count]),
    )
    return part, max(loaded.labels_present) + 1


def _encoder(options: dict[str, Any]) -> Any:
    from autosam_deploy.models.checkpoints import read_checkpoint, write_encoder
    from autosam_deploy.models.encoders import seeded_encoder_state
    from autosam_deploy.training.embedding.encoding import frozen_encoder

    sam, random = options["sam_checkpoint"], options["random_encoder"]
    if (sam is None) == (random is None):
        raise UsageError("the encoder", expected="one of --sam-checkpoint and --random-encoder")
    if sam is not None:
        return frozen_encoder(read_checkpoint(sam))
    with tempfile.TemporaryDirectory(prefix="autosam-cost-") as folder:
        path = Path(folder) / "encoder.safetensors"
        write_encoder(path, seeded_encoder_state(ENCODERS[random], 0), random_seed=0)
        return frozen_encoder(read_checkpoint(path))


def _compare(
    spec: Any,
    segmenter: Segmenter,
    *,
    volume: LabelledSlices,
    embedded: EmbeddedSlices,
    options: dict[str, Any],
    console: Console,
) -> dict[str, Any]:
    """Time one head both ways, in turns, after a step of each that is not counted."""
    reference, ours = _trainer(spec, options), _trainer(spec, options)
    warm = type(embedded)(embedded.slices[: options["batch"]])
    ours.epoch(warm, 0)
    reference.epoch(warm, 0)
    times: dict[str, list[float]] = {"reference": [], "ours": []}
    for number in range(1, options["rounds"] + 1):
        start = time.perf_counter()
        _reference_epoch(reference, segmenter, volume, options["batch"], number)
        middle = time.perf_counter()
        ours.epoch(embedded, number)
        times["reference"].append(middle - start)
        times["ours"].append(time.perf_counter() - middle)
        console.print(
            f"{spec.head.kind}, round {number}: encoder in every step "
            f"{times['reference'][-1]:.1f} s, kept embeddings {times['ours'][-1]:.2f} s"
        )
    ratios = [a / b for a, b in zip(times["reference"], times["ours"], strict=True)]
    return {
        "head": spec.head.kind,
        "reference_s": round(statistics.median(times["reference"]), 3),
        "ours_s": round(statistics.median(times["ours"]), 4),
        "epoch_ratio": round(statistics.median(ratios), 1),
        "epoch_ratio_range": [round(min(ratios), 1), round(max(ratios), 1)],
    }


def _trainer(spec: Any, options: dict[str, Any]) -> Trainer:
    import torch

    from autosam_deploy.models.heads import Head
    from autosam_deploy.models.preprocess import to_slice_size
    from autosam_deploy.training.fitting.recipe import FitConfig
    from autosam_deploy.training.fitting.step import Trainer

    torch.manual_seed(0)
    return Trainer(
        Head(spec.head),
        FitConfig(batch=options["batch"]),
        resize=lambda low, size: to_slice_size(low, spec.preprocess, spec.encoder.image_size, size),
        device=torch.device("cpu"),
    )


def _reference_epoch(
    trainer: Trainer, segmenter: Segmenter, volume: LabelledSlices, batch: int, number: int
) -> None:
    """Train one epoch as the reference does: its encoder, as it is upstream, in every step."""
    import torch

    from autosam_deploy.training.embedding.versions import EmbeddedSlices, Version

    for first in range(0, len(volume.slices), batch):
        slices = torch.from_numpy(volume.slices[first : first + batch])[:, None]
        with torch.no_grad():
            embeddings = segmenter.embed(slices).numpy()
        part = tuple(
            (Version(one, volume.labels[first + index], f"slice {first + index}"),)
            for index, one in enumerate(embeddings)
        )
        trainer.epoch(EmbeddedSlices(part), number)


def show(console: Console, result: dict[str, Any]) -> None:
    """Print the result as a table."""
    table = Table(
        title=f"Seconds an epoch of {result['slices']} slices, {result['encoder']}",
        title_justify="left",
    )
    table.add_column("head")
    for column in (
        "encoder in every step",
        "kept embeddings",
        "epoch ratio",
        f"ratio over {result['epochs']} epochs, embedding included",
    ):
        table.add_column(column, justify="right")
    for row in result["heads"]:
        table.add_row(
            row["head"],
            f"{row['reference_s']:.1f}",
            f"{row['ours_s']:.2f}",
            f"{row['epoch_ratio']:.1f}",
            f"{row['training_ratio']:.1f}",
        )
    console.print(table)
    made = result["embedding"]
    console.print(
        f"embedding once: {made['seconds']:.1f} s with {made['runtime']} for "
        f"{made['embeddings']} slices"
    )
