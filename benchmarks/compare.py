"""`autosam-compare`: a bundle against plain PyTorch and a plain ONNX export, in one run.

The peers take turns, each in a process of its own, so that a machine whose speed drifts slows all
of them alike. Ratios are taken round by round and their median is the result; absolute times hold
for that machine at that hour only.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from autosam_deploy.benchmarks.harness.child import Child, ChildError, export_plain_apart
from autosam_deploy.benchmarks.harness.runners import ENGINE_LOADER, Loading
from autosam_deploy.benchmarks.machine import machine_record
from autosam_deploy.benchmarks.peers.table import PEERS
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.cli.shell import AutosamCommand, common_options, echo_json
from autosam_deploy.errors import AutosamError, BundleError
from autosam_deploy.extras import require
from autosam_deploy.files import write_json
from autosam_deploy.volumes.phantom import make_phantom

OURS = "autosam-deploy"
#: Who is compared -> what it is, for the report, what loads it, and the backend it is loaded with.
COMPARED = {
    "torch": ("the segmenter in eager PyTorch, float32", ENGINE_LOADER, "torch"),
    "onnx-plain": (PEERS["onnx-plain"].what, PEERS["onnx-plain"].loader, "onnx-plain"),
    OURS: (
        "the bundle's float32 graph through the Engine, ONNX Runtime",
        ENGINE_LOADER,
        "onnxruntime",
    ),
}
#: Seconds for one answer: an hour is a peer that hangs.
_TIMEOUT = 3600.0
_EXAMPLE = """
\b
Example:
  autosam-export --untrained --encoder vit_b --head autosam -o vit_b.autosam
  autosam-compare vit_b.autosam --threads 2 --out docs/results/vit_b-cpu.json
"""


class PeerError(AutosamError):
    """A peer that could not be loaded or run."""


@dataclass
class _Peer:
    """One peer in a process of its own, run on demand."""

    name: str
    child: Child
    load_s: float
    seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0

    def run(self) -> float:
        answer = self.ask({"do": "burst", "seconds": 0.0, "most": 1})
        self.peak_mib = float(answer["peak_mib"])
        return float(answer["seconds"][0])

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.child.ask(command, timeout=_TIMEOUT)
        except ChildError as error:
            raise PeerError(f"peer '{self.name}' ended", got=str(error)) from error


def _start(name: str, loading: Loading, slices: Path) -> _Peer:
    _, loader, _ = COMPARED[name]
    job = {"loader": loader, "loading": loading.as_dict(), "batches": [str(slices)]}
    threads = loading.threads or 1
    child = Child(
        "autosam_deploy.benchmarks.harness.worker", job, loading.folder / name, threads=threads
    )
    try:
        opened = child.answer(timeout=_TIMEOUT)
    except ChildError as error:
        child.close()
        raise PeerError(f"peer '{name}' cannot be loaded", got=str(error)) from error
    return _Peer(name, child, float(opened["load_s"]))


@click.command(
    cls=AutosamCommand,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXAMPLE,
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Counted rounds, after one that is not.",
)
@click.option(
    "--size",
    type=click.IntRange(min=8),
    default=256,
    show_default=True,
    help="Side of the raw slice in pixels.",
)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the result as JSON.")
@common_options
def main(
    bundle: Path,
    *,
    threads: int,
    rounds: int,
    size: int,
    batch: int,
    out: Path | None,
    debug: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Time slices -> labels of a bundle against its peers, with peak memory of each."""
    del debug
    require("torch", extra="bench", feature="comparing with PyTorch")
    opened = Bundle.open(bundle)
    if opened.find("weights", "fp32") is None:
        raise BundleError("the bundle has no weights to compare with", todo="export without --slim")
    console = Console(stderr=True, quiet=quiet or as_json)
    with tempfile.TemporaryDirectory(prefix="autosam-compare-") as folder:
        result = compare_peers(
            opened,
            Path(folder),
            threads=threads,
            rounds=rounds,
            shape=(batch, 1, size, size),
            console=console,
        )
    if out is not None:
        write_json(out, result)
    if as_json:
        echo_json(result)
    elif not quiet:
        show(Console(), result)


def compare_peers(
    bundle: Bundle,
    folder: Path,
    *,
    threads: int,
    rounds: int,
    shape: tuple[int, int, int, int],
    console: Console,
) -> dict[str, Any]:
    """Run the peers in turn.

    Args:
        bundle: with weights.
        folder: for the plain export and the slices.
        threads: of every peer.
        rounds: counted rounds.
        shape: of the raw slices (B, 1, H, W).
        console: for progress.

    Returns:
        The result as JSON values.

    Raises:
        PeerError: a peer failed.
    """
    record = machine_record(threads=threads)
    slices = folder / "slices.npy"
    image, _ = make_phantom(7, shape=(shape[0] + 4, shape[2], shape[3]))
    np.save(slices, image.array[2 : 2 + shape[0], None].astype(np.float32))
    console.print("plain export of the segmenter ...")
    plain = folder / "plain.onnx"
    try:
        export_plain_apart(bundle.path, plain, timeout=_TIMEOUT)
    except ChildError as error:
        raise PeerError("there is no plain export to compare with", got=str(error)) from error
    workers: list[_Peer] = []
    labels: dict[str, np.ndarray] = {}
    try:
        for name, (_, _, backend) in COMPARED.items():
            console.print(f"loading {name} ...")
            loading = Loading(
                bundle=bundle.path,
                backend=backend,
                precision="fp32",
                device="cpu",
                threads=threads,
                folder=folder,
                plain=plain,
            )
            workers.append(_start(name, loading, slices))
        for number in range(rounds + 1):
            times = [worker.run() for worker in workers]
            listed = "   ".join(f"{w.name} {t:.2f} s" for w, t in zip(workers, times, strict=True))
            console.print(f"round {number}{' (not counted)' if not number else ''}: {listed}")
            if number:
                for worker, seconds in zip(workers, times, strict=True):
                    worker.seconds.append(seconds)
        for worker in workers:
            target = folder / f"labels-{worker.name}.npy"
            worker.ask({"do": "labels", "target": str(target)})
            labels[worker.name] = np.load(target)
    finally:
        for worker in workers:
            worker.child.close()
    return {
        "what": "raw slices -> labels, resizes and argmax included, reading and writing not",
        "command": "autosam-compare " + " ".join(sys.argv[1:]),
        "model": f"{bundle.manifest.model.encoder.name} at "
        f"{'x'.join(map(str, bundle.manifest.model.encoder.image_size))}, "
        f"{bundle.manifest.model.head.kind} head, {len(bundle.manifest.model.classes)} classes",
        "slices": list(shape),
        "rounds": rounds,
        "machine": record,
        "peers": [_summary(worker, workers, labels) for worker in workers],
    }


def _summary(worker: _Peer, workers: list[_Peer], labels: dict[str, np.ndarray]) -> dict[str, Any]:
    ours = next(other for other in workers if other.name == OURS)
    ratios = [a / b for a, b in zip(worker.seconds, ours.seconds, strict=True)]
    agreement = float((labels[worker.name] == labels["torch"]).mean())
    return {
        "name": worker.name,
        "is": COMPARED[worker.name][0],
        "load_s": round(worker.load_s, 2),
        "median_s": round(statistics.median(worker.seconds), 3),
        "min_s": round(min(worker.seconds), 3),
        "max_s": round(max(worker.seconds), 3),
        "times_ours": round(statistics.median(ratios), 2),
        "times_ours_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "peak_rss_mib": round(worker.peak_mib),
        "memory_times_ours": round(worker.peak_mib / ours.peak_mib, 2),
        "labels_equal_torch": agreement,
    }


def show(console: Console, result: dict[str, Any]) -> None:
    """Print the result as a table."""
    table = Table(title=f"{result['model']}, slices {result['slices']}", title_justify="left")
    for column in ("peer", "s (median)", "min..max", "x ours", "peak MiB", "labels = torch"):
        table.add_column(column, justify="left" if column == "peer" else "right")
    for peer in result["peers"]:
        table.add_row(
            peer["name"],
            f"{peer['median_s']:.2f}",
            f"{peer['min_s']:.2f}..{peer['max_s']:.2f}",
            f"{peer['times_ours']:.2f}",
            f"{peer['peak_rss_mib']}",
            f"{peer['labels_equal_torch']:.3%}",
        )
    console.print(table)
    machine = result["machine"]
    load = machine["load_before"]
    console.print(f"{machine['processor']}, {machine['threads']} threads, load before: {load}")
    spread = max(peer["max_s"] / peer["min_s"] for peer in result["peers"])
    if spread > 1.15:
        console.print(f"warning: times of one peer differ by {spread - 1:.0%}", style="yellow")
