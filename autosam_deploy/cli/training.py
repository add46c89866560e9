"""What `autosam-train` shows while it works, and the log that stays behind."""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from autosam_deploy.errors import OutputError
from autosam_deploy.models.image_size import show_image_size
from autosam_deploy.sizes import show_bytes
from autosam_deploy.training.watch import Watch

if TYPE_CHECKING:
    from autosam_deploy.spec import HeadSpec
    from autosam_deploy.training.datasets.loading import LabelledSlices
    from autosam_deploy.training.embedding.cache import CachePlan, EmbeddingCache
    from autosam_deploy.training.fitting.recipe import Epoch
    from autosam_deploy.training.run import Trained

LOG_FILE = "train.log"


class Screen(Watch):
    """Progress bars on a terminal, plain lines elsewhere, and everything in the log as well."""

    def __init__(self, folder: Path, *, quiet: bool, verbose: bool) -> None:
        """Open the log; a resumed run goes on in it."""
        self.folder = folder
        self.console = Console(stderr=True, quiet=quiet)
        self.verbose = verbose
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        off = not self.console.is_terminal
        self.bars = Progress(*columns, console=self.console, transient=True, disable=off)
        self.bar: TaskID | None = None
        self.clock = time.perf_counter()
        self.best: Epoch | None = None
        self.is_saved = False
        self.log = logging.getLogger(__name__)

    def __enter__(self) -> Self:
        """Start."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.handler = logging.FileHandler(self.folder / LOG_FILE, encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"cannot write into '{self.folder}'",
                got=error.strerror or str(error),
                todo="choose another folder with -o",
            ) from error
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self.log.addHandler(self.handler)
        self.log.setLevel(logging.INFO)
        # Its lines are printed by this class; the handlers of the package would print them again.
        self.log.propagate = False
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, and leave the reason in the log."""
        self.bars.stop()
        if isinstance(error, KeyboardInterrupt) and self.is_saved:
            self.say("stopped; go on with --resume")
        if error is not None:
            self.log.info("stopped: %s: %s", type(error).__name__, error)
        self.log.removeHandler(self.handler)
        self.handler.close()

    def say(self, text: str, *, style: str | None = None) -> None:
        """Print a line and keep it."""
        self.log.info("%s", text.strip())
        self.console.print(Text(text, style or ""), soft_wrap=True)

    def note(self, text: str) -> None:
        """Print something that the user should know."""
        self.say(f"note: {text}", style="yellow")

    def reading(self, done: int, total: int) -> None:
        """So many volumes are read."""
        self._advance("volumes", done, total)

    def data(
        self,
        train: Sequence[LabelledSlices],
        validation: Sequence[LabelledSlices],
        class_names: Sequence[str],
    ) -> None:
        """Say what is learnt from."""
        self.say(
            f"{len(train)} volumes to learn from ({sum(len(v.slices) for v in train)} slices), "
            f"{len(validation)} to choose the epoch with "
            f"({sum(len(v.slices) for v in validation)} slices); "
            f"classes {', '.join(class_names)}"
        )
        if not validation:
            self.note("no volume validates: the epoch is chosen on the training volumes themselves")
        if self.verbose:
            for what, volumes in (("learn", train), ("validate", validation)):
                for one in volumes:
                    self.say(f"  {what}: {one.name} {'x'.join(map(str, one.slices.shape))}")

    def embedding(self, plan: CachePlan, cache: EmbeddingCache, runtime: str) -> None:
        """Say what embeds, how much the cache lacks and what it will take."""
        there, encoder = len(plan.keys) - len(plan.missing), cache.space.encoder
        self.say(f"encoder {encoder.name} at {show_image_size(encoder.image_size)}")
        text = f"embeddings: {len(plan.keys)} needed, {there} in the cache"
        if plan.missing:
            text += (
                f", {len(plan.missing)} to compute ({show_bytes(plan.new_bytes)} more, "
                f"{show_bytes(plan.total_bytes)} of at most {show_bytes(cache.limit_bytes)} "
                f"in '{cache.folder}') with {runtime}"
            )
        self.say(text)
        self.clock = time.perf_counter()

    def embedded(self, done: int, total: int) -> None:
        """Show how far the encoder is; off a terminal, once with an estimate and at the end."""
        first = self.bar is None
        self._advance("embeddings", done, total)
        seconds = time.perf_counter() - self.clock
        if first and done < total:
            rest = seconds / done * (total - done)
            self.say(f"  {seconds / done:.2f} s a slice: about {_duration(rest)} to go")
        if done == total:
            self.say(f"  embedded {total} slices in {_duration(seconds)}")

    def fitting(self, head: HeadSpec, slices: int, held_out: int, device: str) -> None:
        """Say what is fitted."""
        self.say(f"fitting a {head.kind} head on {slices} slices, {held_out} validate, on {device}")

    def resumed(self, epoch: Epoch) -> None:
        """Say where an earlier process was."""
        self.is_saved = True
        self.say(f"going on behind epoch {epoch.number}")

    def step(self, done: int, total: int) -> None:
        """Show how far the epoch is."""
        self._advance("slices of the epoch", done, total)

    def saved(self) -> None:
        """The fit was saved."""
        self.is_saved = True

    def epoch(self, epoch: Epoch) -> None:
        """Print an epoch: each on a terminal or with -v, else those that are the best so far."""
        better = self.best is None or epoch.dice > self.best.dice
        if better:
            self.best = epoch
        line = (
            f"  epoch {epoch.number:3d}   loss {epoch.loss:.4f}   validation Dice "
            f"{epoch.dice:.4f}{' *' if better else '  '}   lr {epoch.learning_rate:.1e}   "
            f"{epoch.seconds:.1f} s"
        )
        if self.verbose or self.console.is_terminal or epoch.number % 10 == 1:
            self.say(line)
        else:
            self.log.info("%s", line.strip())

    def finish(
        self, trained: Trained, class_names: Sequence[str], *, head: str, runs: Path
    ) -> None:
        """Print the scores on the validation volumes, what was written, and what to do next."""
        best = trained.best
        self.say(
            f"{trained.result.ended}; best epoch {best.number}: validation Dice {best.dice:.4f}"
        )
        table = _scores(trained, class_names)
        self.console.print(table)
        quiet = Console(width=100, record=True, file=io.StringIO())
        quiet.print(table)
        self.log.info("\n%s", quiet.export_text().rstrip())
        self.say(f"wrote {trained.head} (beside it: metrics.json, curves.png, run.json, train.log)")
        if trained.record["encoder"]["random"]:
            self.note("the encoder's weights are random: these scores say nothing of SAM")
        option = "" if str(runs) == "runs" else f" --runs {runs}"
        if trained.head.parent == runs / head:
            self.say(f"next: autosam-export --head {head} --fp16{option}")

    def _advance(self, what: str, done: int, total: int) -> None:
        if self.bar is None:
            self.bar = self.bars.add_task(what, total=total)
        self.bars.update(self.bar, description=what, completed=done, total=total)
        if done == total:
            self.bars.remove_task(self.bar)
            self.bar = None


def _scores(trained: Trained, class_names: Sequence[str]) -> Table:
    """Return the scores of every class, over the volumes that chose the epoch."""
    from autosam_deploy.metrics.summary import summarise_class, summarise_foreground

    scores = trained.scores
    where = "validation" if trained.record["data"]["validation"] else "training"
    table = Table(
        title=f"Scores on {len(scores)} {where} volumes",
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
    )
    table.add_column("class")
    for header in ("Dice", "sd", "HD95 mm", "ASSD mm", "missed", "invented"):
        table.add_column(header, justify="right")
    classes = [
        summarise_class([volume.classes[n] for volume in scores])
        for n in range(len(class_names) - 1)
    ]
    for one in classes:
        table.add_row(
            Text(class_names[one.label]),
            _number(one.dice.mean, 3),
            _number(one.dice.sd, 3),
            _number(one.hd95_mm.mean, 2),
            _number(one.assd_mm.mean, 2),
            str(one.missed),
            str(one.invented),
        )
    mean = summarise_foreground(classes)
    table.add_row(
        "mean",
        _number(mean.dice.mean, 3),
        "",
        _number(mean.hd95_mm.mean, 2),
        _number(mean.assd_mm.mean, 2),
        str(mean.missed),
        str(mean.invented),
        style="bold",
    )
    return table


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
