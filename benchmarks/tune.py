"""Find the tiles of the attention kernels that are fastest on this machine's GPU.

    python -m autosam_deploy.benchmarks.tune --models vit_b,vit_h --minutes 3

Every candidate of `kernels/tiles.py` has to give the reference's result before its time counts. A
choice is made by what an encoder of each model spends in the kernel, all blocks together. Found
choices are merged into the file that the kernels read after the one in the package; processes that
run already keep what they have. Without a GPU the exit code is 4.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from autosam_deploy.benchmarks.gpu import missing_gpu
from autosam_deploy.benchmarks.harness.verdict import ENVIRONMENT
from autosam_deploy.cli.shell import AutosamCommand, common_options, echo_json
from autosam_deploy.encoders import ENCODERS, VitEncoder
from autosam_deploy.errors import OutOfMemoryError, UsageError
from autosam_deploy.files import write_json
from autosam_deploy.kernels.measured import user_file
from autosam_deploy.kernels.tiles import Kind, Measured, Tiles, candidates, load_tiles, tiles_for

if TYPE_CHECKING:
    import torch

    from autosam_deploy.benchmarks.tune_kernels import Problem, Timer

#: Another choice than the starting value has to be this much faster: medians differ by less from
#: run to run.
MARGIN = 0.02
#: Rows of a table beside the starting value's.
_SHOWN = 5
_DTYPES = ("fp16", "bf16")
#: The kernels are those of ViTs' attention.
_VITS = {name: one for name, one in ENCODERS.items() if isinstance(one, VitEncoder)}

#: Returns the seconds of tiles, or raises `RefusedError`.
Measure = Callable[[Tiles], float]


@dataclass(frozen=True)
class Choice:
    """What was found for one kernel and head width.

    Attributes:
        kind: which kernel.
        width: channels of a head.
        start: the starting value.
        best: what is chosen; None where nothing could be measured.
        seconds: tiles -> seconds of all problems together, fastest first.
        refused: tiles -> why they do not compile, do not fit, or do not run.
        wrong: tiles -> by how much their result is off.
        untried: candidates that the time did not suffice for.
    """

    kind: Kind
    width: int
    start: Tiles
    best: Tiles | None
    seconds: dict[Tiles, float]
    refused: dict[Tiles, str] = field(default_factory=dict)
    wrong: dict[Tiles, str] = field(default_factory=dict)
    untried: int = 0


def ordered(kind: Kind, width: int, start: Tiles) -> list[Tiles]:
    """Return the starting value and all candidates, those nearest to it first.

    So what the time does not suffice for is what differs most.
    """

    def apart(tiles: Tiles) -> int:
        sizes = (
            (tiles.block_m, start.block_m),
            (tiles.block_n, start.block_n),
            (tiles.num_warps, start.num_warps),
        )
        doublings = sum(abs(one.bit_length() - other.bit_length()) for one, other in sizes)
        return doublings + abs(tiles.num_stages - start.num_stages)

    return [start, *sorted((one for one in candidates(kind, width) if one != start), key=apart)]


def choose(
    kind: Kind,
    width: int,
    *,
    start: Tiles,
    measure: Measure,
    in_time: Callable[[], bool],
    step: Callable[[], None],
) -> Choice:
    """Measure candidates while there is time, and choose one.

    Args:
        kind: which kernel.
        width: channels of a head.
        start: the starting value, which is measured first and however little time there is.
        measure: checks and times tiles.
        in_time: whether another candidate may be begun.
        step: called after each candidate.
    """
    from autosam_deploy.benchmarks.tune_kernels import RefusedError

    seconds: dict[Tiles, float] = {}
    refused: dict[Tiles, str] = {}
    wrong: dict[Tiles, str] = {}
    every = ordered(kind, width, start)
    for tiles in every:
        if tiles != start and not in_time():
            break
        try:
            seconds[tiles] = measure(tiles)
        except RefusedError as error:
            (wrong if error.wrong else refused)[tiles] = str(error)
        step()
    ranked = dict(sorted(seconds.items(), key=lambda one: one[1]))
    best = next(iter(ranked), None)
    if best is not None and start in ranked and ranked[best] > (1 - MARGIN) * ranked[start]:
        best = start
    untried = len(every) - len(seconds) - len(refused) - len(wrong)
    return Choice(kind, width, start, best, ranked, refused, wrong, untried)


def measure_with(problems: Sequence[Problem], device: torch.device, timer: Timer) -> Measure:
    """Return what checks tiles on every problem and adds up blocks times seconds.

    Args:
        problems: of one kind and width.
        device: where they run.
        timer: times a turn.

    Raises:
        OutOfMemoryError: the device cannot hold the inputs.
    """
    import torch

    from autosam_deploy.benchmarks.tune_kernels import Work, refusals

    try:
        works = [Work(problem, device) for problem in problems]
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"the GPU cannot hold the inputs of '{problems[0].kind}'",
            got=str(error),
            todo="take a smaller --batch or fewer --models",
        ) from error

    def seconds_of(work: Work, tiles: Tiles) -> float:
        return work.problem.blocks * timer(lambda turn: work.launch(tiles, turn))

    def measure(tiles: Tiles) -> float:
        with refusals():
            for work in works:
                work.check(tiles)
            return sum(seconds_of(work, tiles) for work in works)

    return measure


def jobs_of(
    encoders: Sequence[VitEncoder], *, dtypes: Sequence[str], batch: int, device: torch.device
) -> dict[tuple[Kind, int], list[Problem]]:
    """Return the problems of every kind and head width that the encoders have.

    Encoders of one width share their tiles, as all dtypes do, so their problems stand together.
    """
    from autosam_deploy.benchmarks.tune_kernels import problem_of
    from autosam_deploy.kernels.relpos_plan import Plan

    jobs: dict[tuple[Kind, int], list[Problem]] = {}
    for encoder in encoders:
        windows = [encoder.window_of(block) for block in range(encoder.depth)]
        for window in sorted(set(windows), reverse=True):
            plan = Plan(*encoder.grid, window, encoder.num_heads, encoder.head_dim)
            blocks = windows.count(window)
            kinds: tuple[Kind, ...] = ("window" if window else "grid", "bias")
            for kind in kinds:
                jobs.setdefault((kind, encoder.head_dim), []).extend(
                    problem_of(kind, plan, dtype=one, batch=batch, blocks=blocks, device=device)
                    for one in dtypes
                )
    order = get_args(Kind)
    return dict(sorted(jobs.items(), key=lambda one: (one[0][1], order.index(one[0][0]))))


def shares(deadline: float, count: int, now: Callable[[], float]) -> Iterator[Callable[[], bool]]:
    """Yield for each of `count` jobs whether its share of the time until `deadline` lasts.

    What one job leaves is shared by the others.
    """

    def lasts_until(end: float) -> Callable[[], bool]:
        return lambda: now() < end

    for left in range(count, 0, -1):
        yield lasts_until(now() + (deadline - now()) / left)


def merged(measured: Measured, device: str, choices: Sequence[Choice]) -> dict[str, Any]:
    """Return the content of a file of tiles with the choices in place of former ones.

    Args:
        measured: what the file holds, as `load_tiles` returns.
        device: name of the GPU.
        choices: those without a best are left out.
    """
    found = dict(measured)
    found.update({(device, one.kind, one.width): one.best for one in choices if one.best})
    devices: dict[str, list[dict[str, Any]]] = {}
    for (name, kind, width), tiles in sorted(found.items(), key=lambda one: one[0]):
        devices.setdefault(name, []).append({"kind": kind, "width": width, **asdict(tiles)})
    return {"schema_version": 1, "devices": devices}


def record(device: str, choices: Sequence[Choice], *, batch: int) -> dict[str, Any]:
    """Return what was found as JSON values."""
    return {
        "device": device,
        "batch": batch,
        "seconds": "of the kernel in all blocks of the encoders, one batch, every dtype",
        "choices": [
            {
                "kind": one.kind,
                "width": one.width,
                "start": asdict(one.start),
                "best": None if one.best is None else asdict(one.best),
                "measured": [{**asdict(t), "seconds": s} for t, s in one.seconds.items()],
                "refused": [{**asdict(t), "why": why} for t, why in one.refused.items()],
                "wrong": [{**asdict(t), "why": why} for t, why in one.wrong.items()],
                "untried": one.untried,
            }
            for one in choices
        ],
    }


def show(console: Console, choice: Choice) -> None:
    """Print the fastest candidates beside the starting value, and how many are not among them."""
    table = Table(title=f"{choice.kind}, {choice.width} channels a head", title_justify="left")
    for name in ("queries", "keys", "warps", "stages", "ms", "of start", ""):
        table.add_column(name, justify="right")
    start = choice.seconds.get(choice.start)
    listed = [*list(choice.seconds)[:_SHOWN], choice.start]
    for tiles in (one for one in dict.fromkeys(listed) if one in choice.seconds):
        seconds = choice.seconds[tiles]
        marks = ["chosen"] * (tiles == choice.best) + ["start"] * (tiles == choice.start)
        table.add_row(
            *map(str, asdict(tiles).values()),
            f"{1000 * seconds:.3f}",
            f"{seconds / start:.2f}" if start else "",
            ", ".join(marks),
        )
    console.print(table)
    counts = (
        (len(choice.seconds), "measured"),
        (len(choice.refused), "do not compile or do not fit"),
        (len(choice.wrong), "give a wrong result"),
        (choice.untried, "left for want of time"),
    )
    console.print(", ".join(f"{count} {what}" for count, what in counts if count), highlight=False)
    for tiles, why in choice.wrong.items():
        console.print(f"{tiles}: {why}", style="red", highlight=False, soft_wrap=True)


def parse_words(option: str, text: str, known: Sequence[str]) -> list[str]:
    """Read words by comma.

    Raises:
        UsageError: none, or one that is not known.
    """
    words = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if unknown := [word for word in words if word not in known]:
        raise UsageError(option, got=repr(unknown[0]), expected=", ".join(known))
    return words


@click.command(cls=AutosamCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--models", default="vit_b,vit_h", show_default=True, help="Encoders by comma.")
@click.option("--dtypes", default="fp16", show_default=True, help="fp16, bf16 or both by comma.")
@click.option("--batch", type=click.IntRange(min=1), default=4, show_default=True)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.1),
    default=3,
    show_default=True,
    help="After which no further candidate is begun.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of tiles to merge into [the user's, which the kernels read].",
)
@common_options
@click.pass_context
def main(ctx: click.Context, /, **options: Any) -> None:
    """Time all tiles of the attention kernels on this GPU and keep the fastest that are right."""
    models = parse_words("--models", options["models"], tuple(_VITS))
    dtypes = parse_words("--dtypes", options["dtypes"], _DTYPES)
    if (out := options["out"] or user_file()) is None:
        raise UsageError("no folder of this user for measured tiles", todo="name a file with --out")
    if problem := missing_gpu():
        click.echo(f"error: {problem}", err=True)
        ctx.exit(ENVIRONMENT)
    # A file that cannot be merged into is an error before the work, not behind it.
    measured = load_tiles(out) if out.exists() else {}
    quiet = options["quiet"] or options["as_json"]
    name, choices = run(
        [_VITS[one] for one in models],
        dtypes=dtypes,
        batch=options["batch"],
        seconds=60 * options["minutes"],
        console=Console(stderr=True, quiet=quiet),
    )
    write_json(out, merged(measured, name, choices))
    if options["as_json"]:
        echo_json({**record(name, choices, batch=options["batch"]), "file": str(out)})
    elif not quiet:
        console = Console()
        for choice in choices:
            show(console, choice)
        console.print(f"wrote {out}", highlight=False, soft_wrap=True)
    if silent := [f"{one.kind} {one.width}" for one in choices if one.best is None]:
        click.echo(f"error: none of the tiles ran: {', '.join(silent)}", err=True)
        ctx.exit(ENVIRONMENT)


def run(
    encoders: Sequence[VitEncoder],
    *,
    dtypes: Sequence[str],
    batch: int,
    seconds: float,
    console: Console,
) -> tuple[str, list[Choice]]:
    """Choose for every kernel and width of the encoders on the current GPU.

    Returns:
        The GPU's name and the choices.

    Raises:
        DeviceUnavailableError: the GPU is too old.
        BackendError: Triton interprets kernels in this process.
        MissingExtraError: Triton is not installed.
    """
    import torch

    from autosam_deploy.benchmarks.tune_kernels import cuda_seconds
    from autosam_deploy.kernels.launch import capability

    device = torch.device("cuda", torch.cuda.current_device())
    jobs = jobs_of(encoders, dtypes=dtypes, batch=batch, device=device)
    starts = {key: tiles_for(capability(device), *key) for key in jobs}
    total = sum(len(ordered(*key, start)) for key, start in starts.items())
    turns = shares(time.monotonic() + seconds, len(jobs), time.monotonic)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    choices = []
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        for (key, problems), in_time in zip(jobs.items(), turns, strict=True):
            progress.update(task, description=f"{key[0]}, {key[1]} channels a head")
            choice = choose(
                *key,
                start=starts[key],
                measure=measure_with(problems, device, cuda_seconds),
                in_time=in_time,
                step=lambda: progress.advance(task),
            )
            progress.advance(task, choice.untried)
            choices.append(choice)
    return torch.cuda.get_device_name(device), choices


if __name__ == "__main__":
    sys.exit(main())
