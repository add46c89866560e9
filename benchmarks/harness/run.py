"""A whole run: open bundles, measure the machine, measure the rows, judge, report."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from autosam_deploy.benchmarks.harness.baseline import (
    MARGIN,
    check_baseline,
    compare_reports,
    read_report,
)
from autosam_deploy.benchmarks.harness.child import Child, ChildError, export_plain_apart
from autosam_deploy.benchmarks.harness.environment import Heat, describe_machine
from autosam_deploy.benchmarks.harness.flops import model_flops
from autosam_deploy.benchmarks.harness.journal import Header, Journal
from autosam_deploy.benchmarks.harness.plan import Group, Options, plan_groups
from autosam_deploy.benchmarks.harness.record import (
    Bandwidth,
    BundleRecord,
    Machine,
    Report,
    Roofline,
    Row,
    Settings,
)
from autosam_deploy.benchmarks.harness.session import Session
from autosam_deploy.benchmarks.harness.standards import Standards
from autosam_deploy.benchmarks.harness.targets import Target, judge_targets
from autosam_deploy.benchmarks.harness.verdict import (
    conclude,
    with_bundle_problems,
    with_rooflines,
    with_status,
)
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import OutputError

_ROOFLINE = "autosam_deploy.benchmarks.harness.roofline"
_DTYPES = {"cpu": ("fp32", "bf16", "int8"), "cuda": ("fp32", "fp16", "bf16")}


class Listener(Protocol):
    """Who is told how a run goes."""

    def say(self, text: str) -> None:
        """Hear of a step."""

    def changed(self, row: Row, done: bool) -> None:
        """Hear of a row."""


@dataclass(frozen=True)
class Judgement:
    """What a run is held to beside parity."""

    targets: tuple[Target, ...] = ()
    target_name: str | None = None
    baseline: Path | None = None
    margin: float = MARGIN


class Benchmark:
    """One run."""

    def __init__(self, options: Options, judgement: Judgement, listener: Listener) -> None:
        """Take how to measure, what to hold it to and who is told."""
        self.options, self.judgement, self.listener = options, judgement, listener
        self.rates: dict[tuple[str, str], tuple[list[float], str]] = {}
        self.copies: dict[str, list[float]] = {}
        self.warnings: list[str] = []

    def run(self, paths: Sequence[Path], *, command: str, journal: Path) -> Report:
        """Measure bundles.

        Args:
            paths: of the bundles.
            command: for the report.
            journal: JSON lines, one a finished row, written as they come.

        Raises:
            BundleError: a bundle is not sound.
            UsageError: targets, baseline, volumes or labels that do not fit.
            OutputError: the disk is full.
        """
        started, options = time.perf_counter(), self.options
        bundles = [Bundle.open(path, verify=True) for path in paths]
        groups = plan_groups(bundles, options)
        machine = describe_machine(threads=options.threads)
        before = None
        if self.judgement.baseline is not None:
            before = read_report(self.judgement.baseline, what="baseline")
            check_baseline(before, machine, peers=bool(options.peers), file=self.judgement.baseline)
        records = list({g.label: describe_bundle(g.label, g.bundle) for g in groups}.values())
        header = Header(
            report_version=1,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
            settings=self._settings(),
            machine=machine,
            bundles=records,
        )
        try:
            rows, problems = self._measure(groups, Journal(journal, header), machine)
        except OSError as error:
            raise OutputError(
                "a file of the run cannot be written or read",
                got=str(error),
                todo=f"free space in '{tempfile.gettempdir()}' or set TMPDIR",
            ) from error
        rows = with_bundle_problems(rows, problems)
        lines = [
            Roofline(device=device, dtype=dtype, gflops=rates, by=by)
            for (device, dtype), (rates, by) in self.rates.items()
        ]
        rows = with_rooflines(rows, records, lines)
        rows, unmatched = judge_targets(self.judgement.targets, rows, records, machine)
        report = Report(
            **header.model_dump(),
            seconds=round(time.perf_counter() - started, 1),
            rooflines=lines,
            bandwidths=[Bandwidth(device=d, gb_per_s=v) for d, v in self.copies.items()],
            rows=with_status(rows),
            warnings=self.warnings,
            exit_code=0,
            verdict="",
        )
        if before is not None and self.judgement.baseline is not None:
            compared = compare_reports(
                before, report, file=self.judgement.baseline, margin=self.judgement.margin
            )
            report = report.model_copy(update={"baseline": compared})
        code, verdict = conclude(
            report.rows,
            asked=options.backends,
            unmatched=unmatched,
            compared=report.baseline,
        )
        return report.model_copy(update={"exit_code": code, "verdict": verdict})

    def _settings(self) -> Settings:
        options = self.options
        return Settings(
            repeats=options.repeats,
            seconds=options.seconds,
            budget_s=options.budget_s,
            size=[options.size, options.size],
            seed=options.seed,
            volumes=None if options.volumes is None else str(options.volumes),
            labels=None if options.labels is None else str(options.labels),
            peers=bool(options.peers),
            target=self.judgement.target_name,
        )

    def _measure(
        self, groups: Sequence[Group], journal: Journal, machine: Machine
    ) -> tuple[list[Row], dict[str, list[str]]]:
        heat = Heat()
        rows: list[Row] = []
        judged: set[str] = set()

        def changed(row: Row, done: bool) -> None:
            self.listener.changed(row, done)
            # What a row computed is worth keeping before its turns are over.
            if done or (row.parity and row.key not in judged):
                judged.add(row.key)
                journal.write(row)

        with tempfile.TemporaryDirectory(prefix="autosam-bench-") as name:
            folder = Path(name)
            standards: dict[str, Standards] = {}
            for number, group in enumerate(groups):
                if group.label not in standards:
                    one = Standards(group.bundle, folder / f"truth-{number}", self.options)
                    one.read()
                    standards[group.label] = one
            self._measure_machine(machine, folder / "roofline-before")
            for label, one in standards.items():
                self.listener.say(f"{label}: truth in plain PyTorch")
                one.compute()
            for number, group in enumerate(groups):
                session = Session(
                    without_absent(group, rows),
                    standards[group.label],
                    self._share(len(groups) - number),
                    folder=folder / f"group-{number}",
                    plain=PlainExport(group.bundle.path, folder / f"plain-{number}", self),
                )
                rows += session.run(changed)
            self._measure_machine(machine, folder / "roofline-after")
        for one in standards.values():
            self.warnings += one.warnings
        self.warnings += heat.doubts()
        return rows, {label: one.problems for label, one in standards.items()}

    def _share(self, left: int) -> Options:
        """Return the options of the next group: what is left of the time is shared evenly."""
        deadline, now = self.options.deadline, time.monotonic()
        if deadline is None:
            return self.options
        return replace(self.options, deadline=now + max(0.0, deadline - now) / left)

    def _measure_machine(self, machine: Machine, folder: Path) -> None:
        """Measure what every device's products and copies could reach, once more."""
        options = self.options
        if options.roofline_s == 0:
            return
        devices = ["cpu"]
        if machine.gpus and options.device != "cpu":
            devices.append("cuda:0" if options.device in ("auto", "cuda") else options.device)
        for device in devices:
            self.listener.say(f"{device}: rate of matrix products and copies")
            job = {
                "device": device,
                "threads": options.threads,
                "seconds": options.roofline_s,
                "dtypes": _DTYPES[device.partition(":")[0]],
            }
            child = Child(
                _ROOFLINE, job, folder / device.replace(":", "-"), threads=options.threads
            )
            try:
                found = child.answer(timeout=options.timeout_s)
            except ChildError as error:
                self.warnings.append(f"no roofline for {device}: {error}")
                continue
            finally:
                child.close()
            for dtype, one in found["rates"].items():
                rates, _ = self.rates.setdefault((device, dtype), ([], one["by"]))
                rates.append(one["gflops"])
            self.copies.setdefault(device, []).append(found["gb_per_s"])


def describe_bundle(label: str, bundle: Bundle) -> BundleRecord:
    """Return what a report says of a bundle, under the name that its rows have."""
    manifest = bundle.manifest
    model = manifest.model
    weights = bundle.find("weights", "fp32")
    return BundleRecord(
        name=label,
        path=str(bundle.path),
        manifest_sha256=bundle.manifest_sha256,
        encoder=model.encoder.name,
        image_size=list(model.encoder.image_size),
        head=model.head.kind,
        classes=[one.name for one in model.classes],
        colours=[one.colour for one in model.classes],
        trained=manifest.trained,
        intended_use=manifest.intended_use,
        gflop=model_flops(model) / 1e9,
        least_gflop=model_flops(model, padded=False) / 1e9,
        weights_mib=0.0 if weights is None else weights.file.bytes / 2**20,
    )


def without_absent(group: Group, rows: Sequence[Row]) -> Group:
    """Leave out what was not available at another batch size and nobody asked for by name."""
    absent = {
        (row.bundle, row.backend, row.precision_asked)
        for row in rows
        if row.status == "unavailable" and not row.asked
    }
    kept = (plan for plan in group.rows if (plan.label, plan.backend, plan.precision) not in absent)
    return replace(group, rows=tuple(kept))


class PlainExport:
    """A plain ONNX export of a bundle's segmenter: made when first asked for, apart from all."""

    def __init__(self, bundle: Path, folder: Path, benchmark: Benchmark) -> None:
        """Take the bundle and a folder for the graph."""
        self.bundle, self.folder, self.benchmark = bundle, folder, benchmark
        self._done: Path | None = None
        self._error: str | None = None

    def __call__(self) -> Path:
        """Return the graph.

        Raises:
            ChildError: it cannot be made; asked again, it says so again.
        """
        if self._error is not None:
            raise ChildError(self._error, kind="unavailable")
        if self._done is None:
            self.benchmark.listener.say(f"{self.bundle}: plain torch.onnx.export for a peer")
            self._done = self._export()
        return self._done

    def _export(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / "plain.onnx"
        try:
            export_plain_apart(self.bundle, target, timeout=self.benchmark.options.timeout_s)
        except ChildError as error:
            self._error = str(error)
            raise
        return target
