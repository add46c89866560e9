"""How numbers and states are written, the same in every form of the report."""

from __future__ import annotations

from autosam_deploy.benchmarks.harness.record import Judged, Parity, Report, Row

NONE = "\N{EN DASH}"
_STATUS = {
    "passed": "passed",
    "parity": "parity failed",
    "missed": "target missed",
    "unavailable": "unavailable",
    "failed": "failed",
    "measured": "peer",
    "running": "running",
}


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with so many significant digits and no exponent where it can be read."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e6:
        return f"{value:.{digits - 1}e}"
    whole = len(str(int(abs(value))))
    if abs(value) >= 1:
        return f"{value:,.{max(0, digits - whole)}f}"
    return f"{value:.{digits}g}"


def share(value: float | None, digits: int = 2) -> str:
    """Write a share as percent; what is not everything is not rounded to 100 %."""
    if value is None:
        return NONE
    text = f"{value:.{digits}%}"
    if value < 1 and text.startswith("100"):
        text = f"{100 - 10**-digits:.{digits}f}%"
    return text.replace("%", " %")


def state(row: Row) -> str:
    """Say what became of a row in a few words."""
    text = _STATUS[row.status]
    if row.status == "parity":
        kinds = dict.fromkeys(kind for one in row.parity for kind in one.failures)
        return f"{text}: {', '.join(kinds) or 'nothing was compared'}"
    return text


def why(row: Row) -> str:
    """Say why a row did not pass, with the numbers; empty if it did."""
    if row.status in ("unavailable", "failed"):
        return row.reason
    if row.status == "parity":
        return "; ".join(f"on {one.inputs} inputs {one.detail}" for one in row.parity if one.detail)
    return "; ".join(margin(one) for one in row.targets if not one.met)


def margin(one: Judged) -> str:
    """Say by how much a target is met or missed."""
    if one.found is None:
        return f"{one.what}: {one.detail or 'was not measured'}"
    side = "inside" if one.met else "beyond"
    apart = "" if one.margin is None else f", {abs(one.margin):.0%} {side}"
    return f"{one.what}: {number(one.found)} (limit {number(one.limit)}{apart})"


def worst(row: Row) -> Parity | None:
    """Return the comparison that needed most of its gate."""
    if not row.parity:
        return None
    return max(row.parity, key=lambda one: (one.required_tolerance or 0.0) / (one.gate or 1.0))


def smallest_dice(row: Row) -> str:
    """Write the smallest Dice of any class on any inputs, against the truth."""
    found = [score for one in row.parity for score in one.dice if score is not None]
    if not found:
        return NONE
    text = f"{min(found):.4f}"
    return "0.9999" if text == "1.0000" and min(found) < 1 else text


def agreement(row: Row) -> tuple[str, str]:
    """Write the smallest agreement of labels, and the largest share of near-ties apart from it."""
    shares = [one.agreement for one in row.parity if one.agreement is not None]
    ties = [one.ties for one in row.parity if one.ties is not None]
    if not shares:
        return NONE, NONE
    return share(min(shares), 3), share(max(ties), 2)


def tolerance(row: Row) -> str:
    """Write the smallest tolerance that passes, and the gate that it is held to."""
    one = worst(row)
    if one is None or one.required_tolerance is None:
        return NONE
    if row.role == "peer":
        return number(one.required_tolerance, 2)
    return f"{number(one.required_tolerance, 2)} / {number(one.gate, 2)}"


def percentiles(row: Row) -> str:
    """Write p50 / p90 / p99 in ms a slice."""
    if row.latency is None:
        return NONE
    return " / ".join(
        number(value) for value in (row.latency.p50_ms, row.latency.p90_ms, row.latency.p99_ms)
    )


def interval(low: float, high: float) -> str:
    """Write an interval."""
    return f"{number(low)} to {number(high)}"


def targets(row: Row) -> str:
    """Say how many targets are met."""
    if not row.targets:
        return NONE
    return f"{sum(one.met for one in row.targets)} of {len(row.targets)}"


def device(row: Row) -> str:
    """Write device and provider; ONNX Runtime's providers without their long last name."""
    provider = row.provider.replace("ExecutionProvider", "")
    same = provider.lower() == row.device.partition(":")[0]
    return " ".join(part for part in (row.device, "" if same else provider) if part) or NONE


def anchors(report: Report) -> set[str]:
    """Return the keys of the rows that ratios are taken of."""
    return {row.ratio.anchor for row in report.rows if row.ratio is not None}


def times_anchor(row: Row, report: Report) -> str:
    """Write a row's time over the anchor's; the anchor itself is 1."""
    if row.ratio is not None:
        return f"{row.ratio.times:.2f}"
    return "1" if row.key in anchors(report) else NONE


def several_bundles(report: Report) -> bool:
    """Tell whether rows need the name of their bundle."""
    return len(report.bundles) > 1


def row_name(row: Row, report: Report) -> str:
    """Return a short name of a row: backend, precision, batch; the bundle where there are more."""
    precision = row.precision or row.precision_asked
    kind = f"peer {row.backend}" if row.role == "peer" else row.backend
    name = f"{kind} {precision}, batch {row.batch}"
    return f"{row.bundle}: {name}" if several_bundles(report) else name
