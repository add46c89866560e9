"""`autosam-bench int8`: what integers in the encoder would cost in labels, and gain in time.

No bundle holds an int8 graph. This measures whether one should: the encoder's linear layers are
quantized after training (ONNX Runtime's static quantization: weights by channel, activations by
tensor, ranges from calibration slices), everything else stays as it is, and the result is compared
with the float32 graph on volumes that were not calibrated on. The gates are those under which it
would be worth shipping: `LABELS` and `DICE`, and less time than bf16.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from autosam_deploy.benchmarks.int8_graph import calibration_slices, quantize, slice_axis
from autosam_deploy.benchmarks.machine import machine_record
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.cli.shell import AutosamCommand, common_options, echo_json
from autosam_deploy.errors import AutosamError, BackendError, BundleError, UsageError
from autosam_deploy.extras import require
from autosam_deploy.files import write_json
from autosam_deploy.metrics.overlap import dice
from autosam_deploy.runtime.ov_model import Chain, Settings, import_openvino, read_graph
from autosam_deploy.runtime.providers import import_onnxruntime, open_session, run_session
from autosam_deploy.volumes.cases import find_cases
from autosam_deploy.volumes.read import read_labels, read_volume
from autosam_deploy.volumes.slices import slices_along

#: Labels that must equal the float32 graph's, and how much Dice may be lost, to be worth shipping.
LABELS, DICE = 0.995, 0.005
_PATH = click.Path(path_type=Path)
_EXAMPLE = """
\b
Example:
  autosam-bench int8 heart.autosam --calibration imagesTr/ --images imagesTs/ --labels labelsTs/
"""

Run = Callable[[NDArray[np.float32]], NDArray[np.uint8]]


@dataclass
class _Row:
    """One way to run the graph."""

    name: str
    run: Run
    seconds: list[float] = field(default_factory=list)
    #: Labels that equal the float32 graph's, of all pixels; and its Dice by class, cases averaged.
    equal: float = 1.0
    dice: list[float] = field(default_factory=list)


@click.command(
    "int8",
    cls=AutosamCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXAMPLE,
)
@click.argument("bundle", type=_PATH)
@click.option("--calibration", type=_PATH, required=True, help="Volumes that set the ranges.")
@click.option("--images", type=_PATH, required=True, help="Other volumes, to compare on.")
@click.option("--labels", type=_PATH, required=True, help="Their true labels.")
@click.option("--slices", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--out", type=_PATH, help="Write the result as JSON.")
@common_options
def main(**options: Any) -> None:
    """Quantize a bundle's encoder after training and compare it with the float32 graph.

    --slices is how many slices set the ranges, spread over the volumes of --calibration.
    """
    require("onnxruntime.quantization", extra="export", feature="quantizing a graph")
    console = Console(stderr=True, quiet=options["quiet"] or options["as_json"])
    with tempfile.TemporaryDirectory(prefix="autosam-int8-") as folder:
        result = study(Bundle.open(options["bundle"]), Path(folder), options, console=console)
    if options["out"] is not None:
        write_json(options["out"], result)
    if options["as_json"]:
        echo_json(result)
    elif not options["quiet"]:
        show(Console(), result)


def study(
    bundle: Bundle, folder: Path, options: dict[str, Any], *, console: Console
) -> dict[str, Any]:
    """Quantize, time and compare; returns the result as JSON values.

    Raises:
        BundleError: no float32 graph, or none whose linear layers are known.
        UsageError: volumes without labels, or the reverse.
    """
    artefact = bundle.find("onnx", "fp32")
    if artefact is None:
        raise BundleError("the bundle has no fp32 graph", todo="export with --precision fp32")
    cases = _cases(options["images"], options["labels"])
    record = machine_record(threads=options["threads"])
    calibration = calibration_slices(bundle, options["calibration"], options["slices"])
    plain, integers = bundle.file(artefact.file), folder / "int8.onnx"
    count = quantize(plain, integers, calibration, console=console)
    rows = list(_open(plain, integers, threads=options["threads"]))
    console.print(f"timing {len(rows)} ways in turns on one slice ...")
    for number in range(options["rounds"] + 1):
        for row in rows:
            start = time.perf_counter()
            row.run(calibration[0])
            if number:
                row.seconds.append(time.perf_counter() - start)
    console.print(f"labelling {len(cases)} volumes each ...")
    _compare(bundle, rows, cases)
    return {
        "what": "the encoder's linear layers in int8, against the float32 graph",
        "command": "autosam-bench int8 " + " ".join(sys.argv[2:]),
        "model": bundle.manifest.model.encoder.name,
        "intended_use": bundle.manifest.intended_use,
        "quantized_layers": count,
        "calibration_slices": len(calibration),
        "cases": len(cases),
        "machine": record,
        "gates": {"labels_equal": LABELS, "dice_loss": DICE},
        "rows": [_summary(row, rows[0]) for row in rows],
    }


def _open(plain: Path, integers: Path, *, threads: int) -> Iterator[_Row]:
    """Load both graphs on every runtime that is installed; the first row is the reference."""
    ort = import_onnxruntime()
    for name, graph in (("onnxruntime fp32", plain), ("onnxruntime int8", integers)):
        session = open_session(ort, graph, provider="cpu", index=0, threads=threads)
        yield _Row(name, lambda x, s=session: run_session(s, x, ("labels",))["labels"])  # type: ignore[misc]
    try:
        ov = import_openvino()
    except BackendError:
        return
    for name, graph, precision in (
        ("openvino fp32", plain, "fp32"),
        ("openvino bf16", plain, "bf16"),
        ("openvino int8+fp32", integers, "fp32"),
        ("openvino int8+bf16", integers, "bf16"),
    ):
        try:
            chain = Chain(ov, read_graph(ov, graph), precision, Settings(threads))
        except AutosamError:
            # A processor without bf16.
            continue
        yield _Row(name, lambda x, c=chain: np.array(c.run({"slices": x})["labels"]))  # type: ignore[misc]


def _cases(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    truths = {case.name: case.path for case in find_cases(labels)}
    pairs = [(case.path, truths[case.name]) for case in find_cases(images) if case.name in truths]
    if not pairs:
        raise UsageError("no image has labels", got=f"'{images}' and '{labels}'")
    return pairs


def _compare(bundle: Bundle, rows: Sequence[_Row], cases: Sequence[tuple[Path, Path]]) -> None:
    """Label all cases in every way, and fill in agreement with the first way and Dice."""
    classes = len(bundle.manifest.model.classes)
    equal, pixels = np.zeros(len(rows)), 0
    scores: list[list[NDArray[np.float64]]] = [[] for _ in rows]
    for image, labels in cases:
        volume = read_volume(image)
        axis = slice_axis(bundle, volume)
        slices = np.ascontiguousarray(slices_along(volume.array, axis), dtype=np.float32)[:, None]
        truth = slices_along(read_labels(labels).array, axis)
        found = [np.concatenate([row.run(one[None]) for one in slices]) for row in rows]
        pixels += truth.size
        for index, one in enumerate(found):
            equal[index] += (one == found[0]).sum()
            scores[index].append(dice(one, truth, num_classes=classes))
    for row, count, parts in zip(rows, equal, scores, strict=True):
        row.equal = float(count / pixels)
        row.dice = [float(value) for value in np.nanmean(parts, axis=0)]


def _summary(row: _Row, reference: _Row) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(row.seconds, reference.seconds, strict=True)]
    loss = max(a - b for a, b in zip(reference.dice[1:], row.dice[1:], strict=True))
    return {
        "name": row.name,
        "median_s": round(statistics.median(row.seconds), 4),
        "times_reference": round(statistics.median(ratios), 3),
        "times_reference_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "labels_equal": row.equal,
        "dice": [round(value, 5) for value in row.dice],
        "largest_dice_loss": round(loss, 5),
        "within_gates": row.equal >= LABELS and loss <= DICE,
    }


def show(console: Console, result: dict[str, Any]) -> None:
    """Print the result as a table."""
    title = f"{result['model']}, {result['quantized_layers']} layers, {result['cases']} volumes"
    table = Table(title=title, title_justify="left")
    for column in (
        "graph",
        "s a slice",
        "x fp32",
        "min..max",
        "labels equal",
        "Dice loss",
        "gates",
    ):
        table.add_column(column, justify="left" if column == "graph" else "right", no_wrap=True)
    for row in result["rows"]:
        low, high = row["times_reference_range"]
        table.add_row(
            row["name"],
            f"{row['median_s']:.3f}",
            f"{row['times_reference']:.2f}",
            f"{low:.2f}..{high:.2f}",
            f"{row['labels_equal']:.3%}",
            f"{row['largest_dice_loss']:.4f}",
            "within" if row["within_gates"] else "outside",
        )
    console.print(table)
