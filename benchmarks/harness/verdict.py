"""What a run comes to: the status of every row, one exit code, one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from autosam_deploy.benchmarks.harness.record import BundleRecord, Compared, Roofline, Row, Status

OK, PARITY, LATENCY, ENVIRONMENT = 0, 2, 3, 4


def with_bundle_problems(rows: list[Row], problems: dict[str, list[str]]) -> list[Row]:
    """Add what is wrong with a bundle itself to the golden comparison of each of its rows."""
    found = []
    for row in rows:
        texts = problems.get(row.bundle, [])
        if texts and row.role == "bundle" and row.parity:
            first = row.parity[0]
            detail = "; ".join([*texts, *([first.detail] if first.detail else [])])
            failed = first.model_copy(
                update={"failures": ["golden", *first.failures], "detail": detail}
            )
            row = row.model_copy(update={"parity": [failed, *row.parity[1:]]})
        found.append(row)
    return found


def with_rooflines(
    rows: list[Row], bundles: Sequence[BundleRecord], rooflines: Sequence[Roofline]
) -> list[Row]:
    """Add which share of the machine's own rate every row reaches."""
    rates = {(line.device, line.dtype): line.best for line in rooflines}
    work = {one.name: one.least_gflop for one in bundles}
    found = []
    for row in rows:
        # Where no unit computes in a row's precision its products are done in float32; integers
        # are not floats, and without a rate of their own nothing is known.
        instead = None if row.precision == "int8" else rates.get((row.device, "fp32"))
        rate = rates.get((row.device, row.precision), instead)
        if row.latency is not None and rate is not None:
            share = work[row.bundle] / (row.latency.p50_ms / 1e3) / rate
            update: dict[str, object] = {"roofline_share": share}
            if share > 1.05:
                text = "faster than the measured roofline: something disturbed its measurement"
                update["warnings"] = [*row.warnings, text]
            row = row.model_copy(update=update)
        found.append(row)
    return found


def with_status(rows: list[Row]) -> list[Row]:
    """Set the final status of every row of a bundle; peers are not judged."""
    return [row.model_copy(update={"status": _status(row)}) for row in rows]


def _status(row: Row) -> Status:
    if row.status in ("unavailable", "failed"):
        return row.status
    if row.role == "peer":
        return "measured"
    if not row.parity or any(one.failures for one in row.parity):
        # A comparison of nothing is no agreement.
        return "parity"
    if any(not one.met for one in row.targets):
        return "missed"
    return "passed"


def conclude(
    rows: Sequence[Row],
    *,
    asked: Sequence[str] = (),
    unmatched: Sequence[str] = (),
    compared: Compared | None = None,
) -> tuple[int, str]:
    """Return the exit code and the sentence that says why.

    Parity comes first: how fast a wrong answer is does not matter. Then what could not be measured
    at all, then what was too slow or too large.

    Args:
        rows: with their final status.
        asked: backends that were asked for by name.
        unmatched: targets that no measured row was about.
        compared: with a baseline.
    """
    ours = [row for row in rows if row.role == "bundle"]
    by_status: dict[str, list[str]] = {}
    for row in ours:
        by_status.setdefault(row.status, []).append(row.key)
    regressions = [c for c in compared.changes if c.verdict == "regression"] if compared else []
    absent = [row.key for row in ours if row.status == "unavailable" and row.asked]
    measured = [row for row in ours if row.status in ("passed", "parity", "missed")]
    engaged = {row.backend for row in measured}
    idle = [name for name in asked if name not in engaged and name != "all"]
    absent += [name for name in idle if not any(row.backend == name and row.asked for row in ours)]
    reasons: list[tuple[int, str]] = []
    if wrong := by_status.get("parity"):
        reasons.append((PARITY, f"parity failed: {', '.join(wrong)}"))
    if broken := by_status.get("failed"):
        reasons.append((ENVIRONMENT, f"could not be measured: {', '.join(broken)}"))
    if absent:
        reasons.append((ENVIRONMENT, f"asked for and not available: {', '.join(absent)}"))
    if not measured:
        reasons.append((ENVIRONMENT, "no row of a bundle was measured: nothing was shown"))
    if slow := by_status.get("missed"):
        reasons.append((LATENCY, f"target missed: {', '.join(slow)}"))
    if unmatched:
        names = ", ".join(dict.fromkeys(unmatched))
        reasons.append((LATENCY, f"targets that no row was about: {names}"))
    if regressions:
        names = ", ".join(f"{one.key} ({one.what} {one.change:+.0%})" for one in regressions)
        reasons.append((LATENCY, f"slower or larger than the baseline: {names}"))
    if not reasons:
        passed = len(by_status.get("passed", []))
        return OK, f"{passed} of {passed} measured rows passed"
    order = (PARITY, ENVIRONMENT, LATENCY)
    code = min((code for code, _ in reasons), key=order.index)
    return code, "; ".join(text for _, text in sorted(reasons, key=lambda r: order.index(r[0])))
