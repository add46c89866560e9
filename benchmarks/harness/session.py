"""Measure one group of rows: every row a process, and the processes take turns.

On a shared machine speed drifts by tens of percent within minutes. Rows that take turns drift
together, so that their ratios, taken turn by turn, hold where single times do not. When memory does
not hold all of them, they take turns in parts, and the anchor is in every part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autosam_deploy.benchmarks.harness.child import Child, ChildError
from autosam_deploy.benchmarks.harness.collect import load_collected
from autosam_deploy.benchmarks.harness.environment import joined, load_doubts
from autosam_deploy.benchmarks.harness.facts import activation_mib, ratio_to, size_mib
from autosam_deploy.benchmarks.harness.inputs import timing_batches, timing_volume
from autosam_deploy.benchmarks.harness.judge import judge
from autosam_deploy.benchmarks.harness.plan import Group, Options, RowPlan
from autosam_deploy.benchmarks.harness.record import Cold, EndToEnd, Latency, Memory, Row
from autosam_deploy.benchmarks.harness.runners import Loading
from autosam_deploy.benchmarks.harness.standards import Standards, file_lists, sets_for
from autosam_deploy.benchmarks.harness.times import doubts, summarise
from autosam_deploy.benchmarks.harness.worker import SLOW_S
from autosam_deploy.benchmarks.machine import available_bytes, gpu_free_mib, gpu_used_mib
from autosam_deploy.errors import AutosamError

_WORKER = "autosam_deploy.benchmarks.harness.worker"
#: Called with a row whenever it changed; `done` when nothing will be added to it.
Changed = Callable[[Row, bool], None]

#: Bursts that a row's least time is cut into, so that rows can take turns.
_BURSTS = 10
_MOST_RUNS = 20_000
_RESAMPLES_MEANWHILE = 20
_WARM_MOST = 40
#: A next row is started beside the others if this many times the largest so far are free.
_ROOM = 1.5
_SPARE_MIB = 512.0


@dataclass
class Live:
    """A row whose process is up."""

    plan: RowPlan
    row: Row
    child: Child
    turns: dict[int, list[float]] = field(default_factory=dict)
    device: list[float] = field(default_factory=list)
    watches: list[dict[str, float]] = field(default_factory=list)
    warm_runs: int = 0
    stable: bool = True
    spent: float = 0.0

    @property
    def runs(self) -> int:
        """Counted runs so far."""
        return sum(len(times) for times in self.turns.values())


class Session:
    """One group's measurements."""

    def __init__(
        self, group: Group, standards: Standards, options: Options, *, folder: Path, plain: Any
    ) -> None:
        """Take a group and what it is judged by.

        Args:
            group: the rows.
            standards: of the same bundle, prepared.
            options: how to measure.
            folder: for the files of this group's processes.
            plain: called for a plain export's path; raises ChildError where there is none.
        """
        self.group, self.standards, self.options = group, standards, options
        self.folder, self.plain = folder, plain
        self.anchor: Live | None = None
        self.turn = 0
        self.rows: dict[str, Row] = {}
        self._changed: Changed = lambda row, done: None

    def run(self, changed: Changed) -> list[Row]:
        """Measure all rows; what goes wrong with one is written into it and stops no other."""
        self._changed = changed
        files = self._batch_files()
        live: list[Live] = []
        try:
            for plan in self.group.rows:
                if live and (self.options.apart or not self._fits(live)):
                    self._take_turns(live)
                    live = self._finish(live, keep_anchor=not self.options.apart)
                if (one := self._start(plan, files)) is not None:
                    live.append(one)
                    if self.anchor is None and plan.role == "bundle":
                        self.anchor = one
            self._take_turns(live)
            self._finish(live, keep_anchor=False)
        finally:
            for one in live:
                one.child.close()
            if self.anchor is not None:
                self.anchor.child.close()
        return [self.rows[plan.key] for plan in self.group.rows]

    def _update(self, live: Live, *, done: bool = False, **fields: Any) -> None:
        live.row = live.row.model_copy(update=fields)
        self.rows[live.row.key] = live.row
        self._changed(live.row, done)

    def _batch_files(self) -> list[str]:
        batches = timing_batches(
            self.options.volumes,
            batch=self.group.batch,
            side=self.options.size,
            seed=self.options.seed,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        files = [self.folder / f"timed-{number}.npy" for number in range(len(batches))]
        for file, batch in zip(files, batches, strict=True):
            np.save(file, batch)
        return [str(file) for file in files]

    def _fits(self, live: Sequence[Live]) -> bool:
        """Tell whether one more process like the largest so far has room beside the others."""
        free = available_bytes()
        memories = [one.row.memory for one in live if one.row.memory is not None]
        host = max((one.peak_mib for one in memories), default=0.0)
        device = max((one.device_mib or 0.0 for one in memories), default=0.0)
        if free is not None and free / 2**20 < _ROOM * host + _SPARE_MIB:
            return False
        left = gpu_free_mib() if device else None
        return left is None or left > _ROOM * device + _SPARE_MIB

    def _start(self, plan: RowPlan, files: list[str]) -> Live | None:
        """Start a row's process, warm it up, and judge what it computes."""
        row = plan.row()
        if self.options.over:
            self._fail(row, ChildError("the time of this run is used up", kind="unavailable"))
            return None
        self.rows[row.key] = row
        self._changed(row, False)
        folder = self.folder / plan.key.replace("/", "_").replace(":", "_")
        device_before = gpu_used_mib()
        child: Child | None = None
        try:
            loading = Loading(
                bundle=plan.bundle.path,
                backend=plan.backend,
                precision=plan.precision,  # type: ignore[arg-type]
                device=self.options.device,
                threads=self.options.threads,
                folder=folder,
                plain=self.plain() if plan.needs_plain else None,
                options=plan.options,
            )
            job = {"loader": plan.loader, "loading": loading.as_dict(), "batches": files}
            child = Child(_WORKER, job, folder, threads=self.options.threads)
            live = Live(plan, row, child)
            self._warm(live, child.answer(timeout=self.options.timeout_s), device_before)
            self._judge(live, folder)
        except AutosamError as error:
            if child is not None:
                child.close()
            self._fail(row if child is None else self.rows[row.key], error)
            return None
        except BaseException:
            if child is not None:
                child.close()
            raise
        return live

    def _fail(self, row: Row, error: AutosamError) -> None:
        unavailable = isinstance(error, ChildError) and error.kind == "unavailable"
        row = row.model_copy(
            update={"status": "unavailable" if unavailable else "failed", "reason": str(error)}
        )
        self.rows[row.key] = row
        self._changed(row, True)

    def _warm(self, live: Live, opened: dict[str, Any], device_before: float | None) -> None:
        info = opened["info"]
        self._update(
            live,
            **{name: info[name] for name in ("device", "provider", "precision", "artefact")},
            threads=info["threads"],
            versions=dict(info["versions"]),
            notes=list(info["notes"]),
            reason=info["reason"],
            size_mib=size_mib(live.plan.bundle, info["artefact"]),
            cold=Cold(
                start_to_labels_s=opened["start_to_labels_s"],
                load_s=opened["load_s"],
                first_run_s=opened["first_run_s"],
            ),
        )
        warm = live.child.ask(
            {
                "do": "warm",
                "seconds": self.options.warm_s,
                "most": _WARM_MOST,
            },
            timeout=self.options.timeout_s,
        )
        # The first run after loading was one too.
        counted = warm["counted"]
        live.warm_runs, live.stable = 1 + warm["runs"] - len(counted), warm["stable"]
        if counted:
            live.turns[self.turn], live.spent = counted, sum(counted)
            self.turn += 1
        after = gpu_used_mib()
        on_device = info["device"] != "cpu" and after is not None and device_before is not None
        self._update(
            live,
            memory=Memory(
                loaded_mib=opened["loaded_mib"],
                peak_mib=warm["peak_mib"],
                device_mib=max(0.0, after - device_before)  # type: ignore[operator]
                if on_device
                else None,
                activation_mib=activation_mib(live.plan.bundle, info["artefact"]),
            ),
        )

    def _judge(self, live: Live, folder: Path) -> None:
        """Run the inputs of parity in the row's process and judge the outputs here."""
        judged = live.plan.role == "bundle"
        sets = sets_for(self.standards, judged=judged, precision=live.row.precision)
        target = folder / "outputs.npz"
        live.child.ask(
            {
                "do": "parity",
                "sets": file_lists(self.standards, sets),
                "target": str(target),
                "repeat": judged,
            },
            timeout=self.options.timeout_s,
        )
        collected = load_collected(target)
        target.unlink()
        model = self.group.bundle.manifest.model
        names: tuple[str, ...] = model.outputs
        if not judged:
            names = tuple(collected.outputs[sets[0].name][0])
        found = []
        for number, inputs in enumerate(sets):
            standard = self.standards.standard(inputs, live.row.precision, judged=judged)
            found.append(
                judge(
                    collected.outputs.get(inputs.name, []),
                    standard,
                    names=names,
                    precision=live.row.precision,
                    repeats=collected.repeats if number == 0 else None,
                    colours=[one.colour for one in model.classes],
                )
            )
        self._update(live, parity=found)

    def _take_turns(self, live: Sequence[Live]) -> None:
        """Run bursts in turns until every row has enough runs and time, or used up its budget."""
        least, options = self.options.seconds, self.options
        pending = {one.plan.key for one in live}
        spent = {one.plan.key: one.spent for one in live}
        if len(live) == 1 and live[0] is self.anchor and self.anchor.turns:
            return  # it was kept for company that did not come
        while pending:
            for one in list(live):
                alone = one is self.anchor and len(live) > 1
                if one.row.status == "failed" or not (one.plan.key in pending or alone):
                    continue
                try:
                    spent[one.plan.key] += self._burst(one)
                except AutosamError as error:
                    self._fail(one.row, error)
                    one.row = self.rows[one.plan.key]
                    pending.discard(one.plan.key)
                    continue
                enough = one.runs >= options.repeats and spent[one.plan.key] >= least
                if enough or spent[one.plan.key] >= options.budget_s or one.runs >= _MOST_RUNS:
                    pending.discard(one.plan.key)
            self.turn += 1
            if options.over:
                return

    def _burst(self, one: Live) -> float:
        answer = one.child.ask(
            {"do": "burst", "seconds": self.options.seconds / _BURSTS, "most": 1000},
            timeout=self.options.timeout_s,
        )
        one.turns[self.turn] = answer["seconds"]
        one.device += answer["device"]
        one.watches.append(answer["watch"])
        self._update(one, latency=self._summary(one, resamples=_RESAMPLES_MEANWHILE))
        return float(sum(answer["seconds"]))

    def _summary(self, one: Live, **options: int) -> Latency:
        return summarise(
            one.turns,
            batch=self.group.batch,
            warm_up_runs=one.warm_runs,
            device=one.device,
            seed=self.options.seed,
            **options,
        )

    def _finish(self, live: list[Live], *, keep_anchor: bool) -> list[Live]:
        """Measure volumes, end processes and close rows; returns the anchor if it is kept."""
        kept = []
        for one in live:
            if keep_anchor and one is self.anchor and one.row.status != "failed":
                kept.append(one)
                continue
            if one.row.status != "failed":
                self._volume(one)
                self._close(one)
            one.child.close()
        return kept

    def _volume(self, one: Live) -> None:
        latency, options = one.row.latency, self.options
        if latency is None or options.over:
            return
        if one.plan.role == "peer" and latency.p50_ms > 1e3 * SLOW_S:
            return  # reading and writing take a slow peer as long as they take any other row
        slices = max(2 if latency.p50_ms > 1e3 * SLOW_S else 8, self.group.batch)
        path, name = timing_volume(
            options.volumes, self.folder / "volume", slices=slices, side=options.size
        )
        target = self.folder / "volume" / "labels.nrrd"
        try:
            found = one.child.ask(
                {
                    "do": "volume",
                    "path": str(path),
                    "target": str(target),
                    "axis": self.group.bundle.manifest.model.preprocess.slice_axis,
                    "batch": self.group.batch,
                    "repeats": 5,
                    "seconds": min(options.seconds, options.budget_s / 4),
                },
                timeout=options.timeout_s,
            )
        except AutosamError as error:
            warning = f"no end-to-end time: {error}"
            self._update(one, warnings=[*one.row.warnings, warning])
            return
        scale = 1e3 / found["slices"]
        row = EndToEnd(
            volume=name,
            slices=found["slices"],
            repeats=found["repeats"],
            p50_ms=found["total"] * scale,
            stages_ms={stage: seconds * scale for stage, seconds in found["stages"].items()},
        )
        more = ["end to end: a single volume"] if found["repeats"] == 1 else []
        self._update(one, end_to_end=row, warnings=[*one.row.warnings, *more])

    def _close(self, one: Live) -> None:
        """Write what the whole of a row's turns says."""
        latency = self._summary(one) if one.turns else None
        self._update(one, latency=latency)
        warnings = list(one.row.warnings)
        if latency is not None:
            warnings += doubts(latency, stable=one.stable, wanted_runs=self.options.repeats)
        warnings += load_doubts(joined(one.watches))
        ratio = ratio_to(self.anchor.row if self.anchor else None, one.row)
        status = "measured" if one.plan.role == "peer" else one.row.status
        self._update(one, done=True, warnings=warnings, ratio=ratio, status=status)
