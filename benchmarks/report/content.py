"""The report's content, from its JSON alone: what is said, and in which order."""

from __future__ import annotations

from collections.abc import Iterator

from autosam_deploy.benchmarks.harness.inputs import NOISE
from autosam_deploy.benchmarks.harness.record import Report, Row
from autosam_deploy.benchmarks.report.blocks import (
    Block,
    Bullets,
    Code,
    Grid,
    Picture,
    Section,
    Text,
)
from autosam_deploy.benchmarks.report.cells import (
    NONE,
    agreement,
    device,
    interval,
    margin,
    number,
    percentiles,
    row_name,
    several_bundles,
    share,
    smallest_dice,
    state,
    targets,
    times_anchor,
    tolerance,
    why,
)
from autosam_deploy.benchmarks.report.setting import (
    bundle_blocks,
    machine_blocks,
    setting_lines,
)

#: Of the main table: title, and whether it holds words.
COLUMNS = (
    ("Backend", True),
    ("Device", True),
    ("Precision", True),
    ("Batch", False),
    ("Status", True),
    ("Dice vs torch", False),
    ("labels equal", False),
    ("near-ties", False),
    ("max Δlogit / gate", False),
    ("p50 / p90 / p99, ms a slice", False),
    ("slices/s", False),
    ("end to end, ms", False),
    ("of roofline", False),
    ("peak MiB", False),
    ("file MiB", False),
    ("times anchor", False),
    ("targets", False),
)
_STATUS_COLUMN = 4


def main_table(report: Report) -> Grid:
    """Return the table that answers both questions: the same model, and fast enough here?"""
    more = 1 if several_bundles(report) else 0
    names = [name for name, _ in COLUMNS]
    words = {place + more for place, (_, word) in enumerate(COLUMNS) if word}
    rows = []
    for row in report.rows:
        cells = row_cells(row, report)
        rows.append([row.bundle, *cells] if more else cells)
    table = Grid(
        columns=["Bundle", *names] if more else names,
        rows=rows,
        left=frozenset(words | {0}),
        marks=[row.status for row in report.rows],
        badge=_STATUS_COLUMN + more,
    )
    return table.without_empty(NONE)


def row_cells(row: Row, report: Report) -> list[str]:
    """Return one row's cells."""
    latency, end, memory = row.latency, row.end_to_end, row.memory
    return [
        f"peer {row.backend}" if row.role == "peer" else row.backend,
        device(row),
        row.precision or row.precision_asked,
        str(row.batch),
        state(row),
        smallest_dice(row),
        *agreement(row),
        tolerance(row),
        percentiles(row),
        NONE if latency is None else number(latency.slices_per_second),
        NONE if end is None else number(end.p50_ms),
        share(row.roofline_share, 0),
        NONE if memory is None else number(memory.peak_mib, 4),
        number(row.size_mib),
        times_anchor(row, report),
        targets(row),
    ]


def sections(report: Report) -> Iterator[Section]:
    """Return the whole report."""
    yield Section("Result", list(_result(report)))
    if warnings := list(_warnings(report)):
        yield Section("Doubts", [Bullets(warnings, "warning")])
    yield Section("Agreement", list(_agreement(report)))
    if any(row.latency is not None for row in report.rows):
        yield Section("Time", list(_time(report)))
        yield Section("Memory", list(_memory(report)))
    if any(row.targets for row in report.rows):
        yield Section("Targets", [_targets(report)])
    if report.baseline is not None:
        yield Section("Against the baseline", list(_baseline(report)))
    yield Section("Models", list(bundle_blocks(report)))
    yield Section("Machine", list(machine_blocks(report)))
    yield Section("Command", [Code(report.command), Bullets(setting_lines(report))])


def _result(report: Report) -> Iterator[Block]:
    yield main_table(report)
    if reasons := reasons_of(report):
        yield Bullets(reasons)
    untrained = [one.name for one in report.bundles if not one.trained]
    if untrained:
        yield Text(
            f"Random weights ({', '.join(untrained)}): speed and memory count, labels mean "
            "nothing.",
            "warning",
        )
    yield Text(
        "Dice, labels and Δlogit are the worst of all inputs, against the segmenter in plain "
        "PyTorch float32. Near-ties, pixels that rounding alone may decide, are counted apart. "
        "Times are on the host's clock, slices in, labels out, a slice each; p99 of fewer than 100 "
        "runs is the slowest of them. Peers run the same weights in the same run and are not "
        "judged; times anchor is a row's time over that of the first bundle row at its batch size, "
        "taken turn by turn."
    )


def reasons_of(report: Report) -> list[str]:
    """Say why rows did not pass, rows of one reason together."""
    found: dict[str, list[str]] = {}
    for row in report.rows:
        if text := why(row):
            found.setdefault(text, []).append(row_name(row, report))
    return [f"{'; '.join(names)}: {text}" for text, names in found.items()]


def _warnings(report: Report) -> Iterator[str]:
    yield from report.warnings
    for row in report.rows:
        with_them = [f"with {name}={text}" for name, text in row.options.items()]
        if texts := [*with_them, *row.warnings, *row.notes]:
            yield f"{row_name(row, report)}: {'; '.join(texts)}"


def _agreement(report: Report) -> Iterator[Block]:
    rows, marks = [], []
    for row in report.rows:
        for one in row.parity:
            rows.append(
                [
                    row_name(row, report),
                    f"{one.inputs} ({one.slices})",
                    one.truth,
                    number(one.required_tolerance, 2),
                    number(one.gate, 2),
                    number(one.reference_error, 2),
                    number(one.same_dtype, 2),
                    share(one.agreement, 3),
                    share(one.ties, 2),
                    " ".join(NONE if s is None else f"{s:.4f}" for s in one.dice) or NONE,
                    ", ".join(one.failures) or ("compared" if row.role == "peer" else "passed"),
                ]
            )
            judged = "parity" if one.failures else "passed"
            marks.append("measured" if row.role == "peer" else judged)
    yield Grid(
        (
            *("Row", "Inputs (slices)", "Truth", "Tolerance required", "Gate"),
            *("torch's own error", "vs torch, same dtype", "labels equal", "near-ties"),
            *("Dice by class", "Verdict"),
        ),
        rows,
        frozenset({0, 1, 2, 10}),
        marks,
        badge=10,
    ).without_empty(NONE)
    if drawn := _drawn(report):
        yield Text("Against labels drawn by people; loss is what the export costs in mean Dice:")
        yield drawn
    yield from _pictures(report)


def _pictures(report: Report) -> Iterator[Block]:
    """One a row: noise looks like nothing, so that it comes last."""
    for row in report.rows:
        found = [one for one in row.parity if one.heat_map is not None]
        found.sort(key=lambda one: one.inputs == NOISE)
        if found and found[0].heat_map is not None:
            drawn = found[0].heat_map
            caption = f"{row_name(row, report)}: {drawn.title} differ"
            yield Picture(caption, png=drawn.png)
    if any(one.heat_map is not None for row in report.rows for one in row.parity):
        yield Text(
            "Labels of the segmenter, labels of the row, and where they differ: red, or amber on a "
            "near-tie."
        )


def _drawn(report: Report) -> Grid | None:
    rows = []
    for row in report.rows:
        for one in row.parity:
            truth = one.ground_truth
            if truth is not None:
                rows.append(
                    [
                        row_name(row, report),
                        " ".join(NONE if s is None else f"{s:.4f}" for s in truth.truth_dice),
                        " ".join(NONE if s is None else f"{s:.4f}" for s in truth.row_dice),
                        NONE if truth.loss is None else f"{truth.loss:+.5f}",
                    ]
                )
    if not rows:
        return None
    return Grid(("Row", "torch, Dice by class", "row, Dice by class", "loss"), rows)


def _time(report: Report) -> Iterator[Block]:
    yield Picture("Time a slice: every run, median and quartiles", plot="latency")
    yield Picture("Slices a second", plot="throughput")
    rows = []
    for row in report.rows:
        one = row.latency
        if one is not None:
            rows.append(
                [
                    row_name(row, report),
                    number(one.p50_ms),
                    interval(*one.interval_ms),
                    f"{one.cv:.1%}".replace("%", " %"),
                    str(one.runs),
                    str(one.warm_up_runs),
                    number(one.device_ms),
                    NONE if row.ratio is None else f"{row.ratio.times:.2f}",
                    NONE if row.ratio is None else interval(*row.ratio.interval),
                    NONE if row.cold is None else number(row.cold.load_s),
                    NONE if row.cold is None else number(row.cold.start_to_labels_s),
                ]
            )
    yield Grid(
        (
            *("Row", "p50, ms a slice", "95 % interval", "CV", "runs", "warm-up runs"),
            *("device clock, ms", "times anchor", "95 % interval of it", "load, s"),
            "process start to first labels, s",
        ),
        rows,
    ).without_empty(NONE)
    ends = []
    for row in report.rows:
        if row.end_to_end is not None:
            stages = row.end_to_end.stages_ms
            ends.append(
                [
                    row_name(row, report),
                    row.end_to_end.volume,
                    number(row.end_to_end.p50_ms),
                    *(number(stages[stage]) for stage in ("load", "preprocess", "run", "write")),
                ]
            )
    if ends:
        yield Text("From a volume's file to a label file, ms a slice:")
        yield Grid(
            ("Row", "Volume", "all", "load", "preprocess", "run", "write"), ends, frozenset({0, 1})
        )


def _memory(report: Report) -> Iterator[Block]:
    yield Picture("Peak memory of a row's process", plot="memory")
    rows = []
    for row in report.rows:
        one = row.memory
        if one is not None:
            rows.append(
                [
                    row_name(row, report),
                    number(one.loaded_mib, 4),
                    number(one.peak_mib, 4),
                    number(one.device_mib, 4),
                    number(one.activation_mib, 4),
                    number(row.size_mib),
                ]
            )
    yield Grid(
        ("Row", "loaded, MiB", "peak, MiB", "device, MiB", "engine activations, MiB", "file, MiB"),
        rows,
    ).without_empty(NONE)


def _targets(report: Report) -> Block:
    rows, marks = [], []
    for row in report.rows:
        for one in row.targets:
            rows.append([row_name(row, report), one.target, margin(one), one.detail or NONE])
            marks.append("passed" if one.met else "missed")
    return Grid(("Row", "Target", "Found", "Remark"), rows, frozenset(range(4)), marks, badge=2)


def _baseline(report: Report) -> Iterator[Block]:
    found = report.baseline
    if found is None:
        return
    yield Text(f"{found.file}, of {found.created}; changes beyond {found.margin:.0%} count.")
    if found.refused is not None:
        yield Text(f"Absolute numbers were not compared: {found.refused}.", "warning")
    rows, marks = [], []
    for one in found.changes:
        rows.append(
            [
                one.key,
                one.what,
                number(one.before),
                number(one.now),
                f"{one.change:+.1%}",
                NONE if one.adjusted is None else f"{one.adjusted:+.1%}",
                f"{one.verdict}{f' ({one.detail})' if one.detail else ''}",
            ]
        )
        marks.append("missed" if one.verdict == "regression" else "passed")
    yield Grid(
        ("Row", "Number", "then", "now", "change", "adjusted for the machine", "Verdict"),
        rows,
        frozenset({0, 1, 6}),
        marks,
        badge=6,
    )
