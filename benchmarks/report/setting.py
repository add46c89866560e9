"""What was measured, on what machine, and how: the end of a report."""

from __future__ import annotations

from collections.abc import Iterator

from autosam_deploy.benchmarks.harness.record import Machine, Report
from autosam_deploy.benchmarks.report.blocks import Block, Bullets, Grid, Text


def bundle_blocks(report: Report) -> Iterator[Block]:
    """Return what was measured."""
    for one in report.bundles:
        size = "x".join(map(str, one.image_size))
        yield Bullets(
            [
                f"{one.name}: {one.encoder} at {size}, {one.head} head, "
                f"{len(one.classes)} classes ({', '.join(one.classes)})",
                f"{one.gflop:,.1f} GFLOP a slice as the reference computes, "
                f"{one.least_gflop:,.1f} at least (the roofline's measure)",
                f"manifest {one.manifest_sha256[:16]}, `{one.path}`",
                one.intended_use,
            ]
        )


def machine_blocks(report: Report) -> Iterator[Block]:
    """Return what it was measured on, and what that machine can do at all."""
    yield Bullets(machine_lines(report.machine))
    rows = [
        [
            line.device,
            line.dtype,
            f"{line.best:,.0f}",
            " ".join(f"{rate:,.0f}" for rate in line.gflops),
            line.by,
        ]
        for line in report.rooflines
    ]
    if rows:
        yield Grid(
            ("Device", "Matrix product in", "GFLOP/s", "before and after the rows", "measured by"),
            rows,
            frozenset({0, 1, 4}),
        )
    for one in report.bandwidths:
        yield Text(f"Copies on {one.device}: {max(one.gb_per_s):.1f} GB/s, read and written.")


def machine_lines(machine: Machine) -> list[str]:
    """Return the machine record as sentences."""
    clock = "" if machine.clock_mhz is None else f", {machine.clock_mhz:.0f} MHz"
    governor = "" if machine.governor is None else f", governor {machine.governor}"
    lines = [
        f"{machine.processor}{clock}{governor}, {machine.cores} logical processors, "
        f"{machine.usable_cores} usable cores, {machine.memory_gib} GiB",
        f"{machine.threads} threads a row; load before the run: {machine.load_before}",
        machine.system,
    ]
    if machine.features:
        lines.insert(1, f"instruction sets: {', '.join(machine.features)}")
    for gpu in machine.gpus:
        clock = "" if gpu.clock_mhz is None else f", {gpu.clock_mhz} MHz"
        power = "" if gpu.power_limit_w is None else f", power limit {gpu.power_limit_w:g} W"
        lines.append(f"{gpu.name}, {gpu.memory_mib:,} MiB, driver {gpu.driver}{clock}{power}")
    lines.append(", ".join(f"{name} {found}" for name, found in machine.versions.items()))
    return lines


def setting_lines(report: Report) -> list[str]:
    """Return how it was measured."""
    one = report.settings
    inputs, timed = "golden slices and seeded noise", "slices of the volumes"
    if one.volumes is None:
        timed = f"phantom slices of {'x'.join(map(str, one.size))}"
    else:
        inputs = f"golden slices, seeded noise and `{one.volumes}`"
    lines = [
        f"At least {one.repeats} runs and {one.seconds:g} s a row, at most {one.budget_s:g} s.",
        f"Timed on {timed}; agreement on {inputs}; seed {one.seed}.",
        f"Made {report.created} in {report.seconds:.0f} s.",
    ]
    if one.target is not None:
        lines.append(f"Targets: `{one.target}`.")
    return lines
