"""One command for a GPU host: what this project is worth there, in less than eight minutes.

    python -m autosam_deploy.benchmarks.gpu --out gpu-results

It makes bundles of random weights (exported where there is time and `autosam-export`), runs every
backend, the peers and our fused segmenter in PyTorch on them, and writes JSON and Markdown. What is
not installed or does not fit the time is a row that says so. Without a GPU the exit code is 4.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
from rich.console import Console

from autosam_deploy.benchmarks.command import command_line
from autosam_deploy.benchmarks.harness.plan import Options
from autosam_deploy.benchmarks.harness.run import Benchmark, Judgement
from autosam_deploy.benchmarks.harness.verdict import ENVIRONMENT
from autosam_deploy.benchmarks.machine import gpu_query
from autosam_deploy.benchmarks.peers.table import FUSED, KERNELS
from autosam_deploy.benchmarks.report.live import Progress, show
from autosam_deploy.benchmarks.report.write import Forms
from autosam_deploy.cli.shell import AutosamCommand
from autosam_deploy.cores import usable_cores
from autosam_deploy.encoders import ENCODERS
from autosam_deploy.errors import AutosamError, MissingExtraError, UsageError
from autosam_deploy.extras import require
from autosam_deploy.spec import AutosamHead

#: Peers whose loading takes no plain export; compiling takes longest and comes last.
_PEERS = ("eager", *KERNELS, "autocast", *FUSED, "eager-tf32", "compile-autocast", "compile")
#: Of the whole time: for exporting, and what is kept to end what runs and to write the report.
_EXPORT_SHARE, _RESERVE_S = 0.3, 45.0
#: Encoders of which ONNX graphs are not exported here: their export takes minutes by itself.
_TOO_BIG = ("vit_l", "vit_h")


@click.command(cls=AutosamCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("gpu-results"),
    show_default=True,
    help="Folder for gpu.json, gpu.md and the bundles.",
)
@click.option("--models", default="vit_b,vit_h", show_default=True, help="Encoders by comma.")
@click.option("--batch", default="1,4,16,32", show_default=True, help="Batch sizes by comma.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=2),
    default=7.5,
    show_default=True,
    help="Time of the whole command.",
)
@click.option("--classes", type=click.IntRange(2, 255), default=4, show_default=True)
@click.option("--no-export", is_flag=True, help="Take bundles without ONNX graphs.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def main(
    ctx: click.Context,
    /,
    *,
    out: Path,
    models: str,
    batch: str,
    minutes: float,
    classes: int,
    no_export: bool,
    debug: bool,
) -> None:
    """Measure parity, latency and memory on this machine's GPU, with random weights."""
    del debug
    console = Console(stderr=True)
    names = [part.strip() for part in models.split(",")]
    if unknown := [name for name in names if name not in ENCODERS]:
        raise UsageError("--models", got=unknown[0], expected=", ".join(ENCODERS))
    batches = tuple(int(part) for part in batch.split(",") if part.strip().isdecimal())
    if not batches or min(batches) < 1:
        raise UsageError("--batch", got=repr(batch), expected="numbers of 1 or more by comma")
    if problem := missing_gpu():
        click.echo(f"error: {problem}", err=True)
        ctx.exit(ENVIRONMENT)
    started = time.monotonic()
    deadline = started + 60 * minutes - _RESERVE_S
    bundles = []
    for name in names:
        console.print(f"{name}: bundle of random weights ...", highlight=False)
        path = out / f"{name}.autosam"
        spare = started + 60 * minutes * _EXPORT_SHARE - time.monotonic()
        why = "--no-export" if no_export else export(path, name, classes, seconds=spare)
        if why is not None:
            console.print(f"{name}: no ONNX graphs ({why})", highlight=False, soft_wrap=True)
            write_weights(path, name, classes)
        bundles.append(path)
    options = Options(
        precisions=("all",),
        batches=batches,
        threads=usable_cores(),
        peers=_PEERS,
        peers_always=True,
        repeats=20,
        seconds=1.5,
        budget_s=8.0,
        warm_s=2.0,
        timeout_s=120.0,
        deadline=deadline,
    )
    with Progress(console) as progress:
        report = Benchmark(options, Judgement(), progress).run(
            bundles, command=command_line(), journal=out / "gpu.jsonl"
        )
    written = Forms(json=out / "gpu.json", markdown=out / "gpu.md").write(report)
    (out / "gpu.jsonl").unlink(missing_ok=True)
    show(Console(), report)
    for path in written:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    ctx.exit(report.exit_code)


def missing_gpu() -> str | None:
    """Say why nothing can be measured here; None where there is a GPU that torch can use."""
    if not gpu_query("name"):
        return "no NVIDIA GPU on this machine (nvidia-smi finds none); run this on a GPU host"
    try:
        for module in ("segment_anything", "safetensors"):
            require(module, extra="bench", feature="measuring a GPU")
        torch = require("torch", extra="bench", feature="measuring a GPU")
    except MissingExtraError as error:
        return str(error)
    if not torch.cuda.is_available():
        return "torch cannot use the GPU that nvidia-smi lists; install a CUDA build of torch"
    return None


def export(path: Path, encoder: str, classes: int, *, seconds: float) -> str | None:
    """Export a bundle of random weights; returns why it was not."""
    if encoder in _TOO_BIG:
        return "its export takes longer than this command"
    beside = Path(sys.executable).with_name("autosam-export")
    program = str(beside) if beside.is_file() else shutil.which("autosam-export")
    if program is None:
        return "there is no autosam-export"
    if seconds < 20:
        return "no time left"
    command = [program, "--untrained", "--encoder", encoder, "--head", "autosam", "--fp16"]
    command += ["--num-classes", str(classes), "-o", str(path)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return f"its export did not end in {seconds:.0f} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["its export failed"])[-1][:300]
    return None


def write_weights(path: Path, encoder: str, classes: int) -> None:
    """Write a bundle of weights alone, computed where there is a GPU on it."""
    from autosam_deploy.benchmarks.peers.pytorch import torch_device
    from autosam_deploy.benchmarks.random_bundle import write_random_bundle

    head = AutosamHead(num_classes=classes)
    try:
        write_random_bundle(path, ENCODERS[encoder], head, device=torch_device("auto"))
    except RuntimeError as error:
        raise AutosamError(f"no bundle of {encoder} could be made", got=str(error)) from error


if __name__ == "__main__":
    main()
