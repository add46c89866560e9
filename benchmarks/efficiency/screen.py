"""What `autosam-bench label-efficiency` shows while it works."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

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
from rich.text import Text

from autosam_deploy.benchmarks.efficiency.plan import Cell, count_of
from autosam_deploy.benchmarks.efficiency.study import StudyWatch
from autosam_deploy.sizes import show_bytes

if TYPE_CHECKING:
    from autosam_deploy.benchmarks.baselines.contrastive import PretrainEpoch
    from autosam_deploy.training.embedding.cache import CachePlan, EmbeddingCache
    from autosam_deploy.training.fitting.recipe import Epoch

#: Cells take minutes: in the last half minute, from which rich estimates, hardly one has ended.
_WHOLE_STUDY_S = 30 * 24 * 3600.0


class Screen(StudyWatch):
    """A bar over the cells on a terminal, and a line for every finished cell anywhere."""

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        """Choose how much is said."""
        self.console = Console(stderr=True, quiet=quiet)
        self.verbose = verbose
        self.bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
            speed_estimate_period=_WHOLE_STUDY_S,
        )
        self.bar: TaskID | None = None
        self.other: TaskID | None = None
        self.clock = time.perf_counter()
        self.begun = False
        self.done = self.total = self.epochs = 0
        self.doing = ""

    def __enter__(self) -> Self:
        """Start the bars."""
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, and say how to go on with a study that did not end."""
        self.bars.stop()
        if error is not None and self.begun and self.done < self.total:
            self.note(
                f"stopped with {self.total - self.done} of {count_of(self.total, 'cell')} to go; "
                "the same command with --resume goes on"
            )

    def say(self, text: str, *, style: str = "") -> None:
        """Print a line."""
        self.console.print(Text(text, style), soft_wrap=True)

    def note(self, text: str) -> None:
        """Print something that the user should know."""
        self.say(f"note: {text}", style="yellow")

    def reading(self, done: int, total: int) -> None:
        """So many volumes are read."""
        self._advance("volumes", done, total)

    def embedding(self, plan: CachePlan, cache: EmbeddingCache, runtime: str) -> None:
        """Say how much the cache lacks and will take."""
        there = len(plan.keys) - len(plan.missing)
        text = f"embeddings: {len(plan.keys)} needed, {there} in the cache '{cache.folder}'"
        if plan.missing:
            text += (
                f", {len(plan.missing)} to compute ({show_bytes(plan.new_bytes)}) with {runtime}"
            )
        self.say(text)
        self.clock = time.perf_counter()

    def embedded(self, done: int, total: int) -> None:
        """Show how far the encoder is; off a terminal, once with an estimate and at the end."""
        first = self.other is None
        self._advance("embeddings", done, total)
        seconds = time.perf_counter() - self.clock
        if first and done < total and not self.console.is_terminal:
            self.say(f"  about {_duration(seconds / done * (total - done))} to go")
        if done == total:
            self.say(f"  embedded {total} slices in {_duration(seconds)}")

    def begin(self, total: int, kept: int) -> None:
        """Open the bar over the cells."""
        there = f", {kept} are there already" if kept else ""
        self.say(f"{count_of(total, 'cell')} to train{there}")
        self.total, self.begun, self.clock = total, True, time.perf_counter()
        self.bar = self.bars.add_task("cells", total=total)

    def cell(self, cell: Cell, epochs: int) -> None:
        """Name the cell on the bar."""
        self.doing, self.epochs = str(cell), epochs
        self._describe(self.doing)

    def epoch(self, epoch: Epoch) -> None:
        """Count the epoch on the bar, and print it with -v."""
        self._describe(f"{self.doing}, epoch {epoch.number}/{self.epochs}")
        if self.verbose:
            self.say(
                f"    epoch {epoch.number:3d}   loss {epoch.loss:.4f}   validation Dice "
                f"{epoch.dice:.4f}   {epoch.seconds:.1f} s"
            )

    def finished(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """Print the cell's line: where it is in the study, its Dice, its time, what is to come."""
        self.done += 1
        if self.bar is not None:
            self.bars.update(self.bar, completed=self.done)
        width = len(str(self.total))
        line = (
            f"[{self.done:{width}}/{self.total}] {cell.row:22} "
            f"{count_of(cell.volumes, 'volume'):>11}   seed {cell.seed}   "
        )
        if record["failed"] is not None:
            self.say(f"{line}FAILED: {record['failed']}", style="red")
            return
        dice = "  -  " if record["dice"] is None else f"{record['dice']:.3f}"
        line += f"Dice {dice}   {record['seconds']:7.1f} s"
        left = self.total - self.done
        if left and not self.console.is_terminal:
            seconds = (time.perf_counter() - self.clock) / self.done * left
            line += f"   about {_duration(seconds)} to go"
        self.say(line)

    def pretraining(self, seed: int, epochs: int) -> None:
        """Say that an encoder is pretrained."""
        self.doing, self.epochs = f"pretraining, seed {seed}", epochs
        self._describe(self.doing)
        self.say(f"pretraining the U-Net's encoder, seed {seed}: {count_of(epochs, 'epoch')}")

    def pretrain_epoch(self, epoch: PretrainEpoch) -> None:
        """Count the epoch on the bar; off a terminal, say once how long it will take."""
        self._describe(f"{self.doing}, epoch {epoch.number}/{self.epochs}")
        if epoch.number == 1 and self.epochs > 1 and not self.console.is_terminal:
            self.say(f"  about {_duration(epoch.seconds * (self.epochs - 1))} to go")
        if self.verbose:
            self.say(f"    epoch {epoch.number:3d}   loss {epoch.loss:.4f}   {epoch.seconds:.1f} s")

    def pretrained(self, seed: int, seconds: float) -> None:
        """Say how long it took."""
        self.say(f"  pretrained in {_duration(seconds)}")

    def _describe(self, text: str) -> None:
        if self.bar is not None:
            self.bars.update(self.bar, description=text)

    def _advance(self, what: str, done: int, total: int) -> None:
        """Move the bar of something that comes before the cells."""
        if self.other is None:
            self.other = self.bars.add_task(what, total=total)
        self.bars.update(self.other, completed=done)
        if done == total:
            self.bars.remove_task(self.other)
            self.other = None


def _duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
