"""Targets: budgets by device, model and precision, as data in a strict TOML file.

[[target]]
name = "ward"                      # what --target NAME selects
device = "AMD EPYC*"               # pattern on the GPU's or processor's name
model = "vit_b"                    # pattern on the encoder
precision = "fp32"                 # pattern on the realised precision
p50_ms = 8000                      # ms a slice
peak_mib = 2048

[[target.relative]]              # against a peer in the same run: holds on shared machines
peer = "eager"
measure = "latency"
at_most = 0.5                    # ours / the peer's
"""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from autosam_deploy.benchmarks.harness.record import BundleRecord, Judged, Machine, Row
from autosam_deploy.benchmarks.peers.table import ALL_PEERS
from autosam_deploy.errors import SpecError, UsageError
from autosam_deploy.strict import Strict, parse_spec

_PACKAGED = "targets.toml"
#: Field of a target -> what it is, and whether the found number must stay below the limit.
_ABSOLUTE: dict[str, tuple[str, bool]] = {
    "p50_ms": ("p50, ms a slice", True),
    "p99_ms": ("p99, ms a slice", True),
    "slices_per_second": ("slices a second", False),
    "end_to_end_ms": ("end to end, ms a slice", True),
    "start_to_labels_s": ("process start to first labels, s", True),
    "peak_mib": ("peak memory, MiB", True),
    "device_mib": ("device memory, MiB", True),
    "min_agreement": ("label agreement", False),
    "min_dice": ("smallest Dice against the truth", False),
    "max_dice_loss": ("Dice lost against drawn labels", True),
}


class Relative(Strict):
    """A budget in terms of a peer in the same run: ours / the peer's."""

    peer: str
    measure: Literal["latency", "memory"] = "latency"
    at_most: float = Field(gt=0)


class Target(Strict):
    """Budgets of the rows that match all patterns (shell style, `*` for any)."""

    name: str = Field(min_length=1)
    device: str = "*"
    model: str = "*"
    head: str = "*"
    backend: str = "*"
    precision: str = "*"
    batch: int | None = None
    p50_ms: float | None = Field(default=None, gt=0)
    p99_ms: float | None = Field(default=None, gt=0)
    slices_per_second: float | None = Field(default=None, gt=0)
    end_to_end_ms: float | None = Field(default=None, gt=0)
    start_to_labels_s: float | None = Field(default=None, gt=0)
    peak_mib: float | None = Field(default=None, gt=0)
    device_mib: float | None = Field(default=None, gt=0)
    min_agreement: float | None = Field(default=None, ge=0, le=1)
    min_dice: float | None = Field(default=None, ge=0, le=1)
    max_dice_loss: float | None = Field(default=None, ge=0, le=1)
    relative: Annotated[tuple[Relative, ...], Field(strict=False)] = ()


class TargetFile(Strict):
    """The whole file."""

    target: Annotated[tuple[Target, ...], Field(strict=False, min_length=1)]


def load_targets(choice: str) -> tuple[Target, ...]:
    """Return the targets that `--target` means.

    Args:
        choice: a .toml file, or a name in the packaged `targets.toml`.

    Raises:
        UsageError: no such file or name, not TOML, an unknown key or a value of the wrong kind.
    """
    path = Path(choice)
    if choice.endswith(".toml") or path.is_file():
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"target file '{choice}' cannot be read", got=str(error)) from error
        return parse_targets(text, name=choice)
    packaged = parse_targets(packaged_text(), name=_PACKAGED)
    found = tuple(one for one in packaged if one.name == choice)
    if not found:
        names = ", ".join(dict.fromkeys(one.name for one in packaged))
        raise UsageError("--target", got=repr(choice), expected=f"a .toml file, or one of {names}")
    return found


def packaged_text() -> str:
    """Return the text of the packaged targets."""
    return resources.files("autosam_deploy.benchmarks").joinpath(_PACKAGED).read_text("utf-8")


def parse_targets(text: str, *, name: str) -> tuple[Target, ...]:
    """Validate the text of a target file.

    Raises:
        UsageError: as `load_targets`.
    """
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"target file '{name}' is no TOML", got=str(error)) from error
    try:
        return parse_spec(TargetFile, value, what=f"target file '{name}'").target
    except SpecError as error:
        raise UsageError(str(error)) from error


def judge_targets(
    targets: tuple[Target, ...],
    rows: list[Row],
    bundles: list[BundleRecord],
    machine: Machine,
) -> tuple[list[Row], list[str]]:
    """Judge every row of a bundle by every target that matches it.

    Returns:
        The rows with what was judged, and the names of targets that no measured row matched.
    """
    models = {one.name: one for one in bundles}
    judged, used = [], set()
    for row in rows:
        found: list[Judged] = []
        if row.role == "bundle" and row.latency is not None:
            for target in targets:
                if matches(target, row, models[row.bundle], machine):
                    used.add(id(target))
                    found += judge_row(target, row, rows)
        judged.append(row.model_copy(update={"targets": found}))
    return judged, [one.name for one in targets if id(one) not in used]


def device_name(row: Row, machine: Machine) -> str:
    """Return the name of the GPU or processor that a row ran on."""
    if row.device.startswith("cuda") and machine.gpus:
        index = int(row.device.partition(":")[2] or 0)
        return machine.gpus[min(index, len(machine.gpus) - 1)].name
    return machine.processor


def matches(target: Target, row: Row, bundle: BundleRecord, machine: Machine) -> bool:
    """Tell whether a target is about a row."""
    pairs = (
        (device_name(row, machine), target.device),
        (bundle.encoder, target.model),
        (bundle.head, target.head),
        (row.backend, target.backend),
        (row.precision, target.precision),
    )
    fits = all(fnmatchcase(text.lower(), pattern.lower()) for text, pattern in pairs)
    return fits and target.batch in (None, row.batch)


def judge_row(target: Target, row: Row, rows: list[Row]) -> list[Judged]:
    """Judge one row by one target; what was not measured is not met."""
    found = []
    for name, (what, below) in _ABSOLUTE.items():
        limit = getattr(target, name)
        if limit is not None:
            found.append(_judged(target.name, what, limit, _measured(row, name), below=below))
    for relative in target.relative:
        what = f"{relative.measure}, times peer '{relative.peer}'"
        value, detail = _times_peer(row, rows, relative)
        one = _judged(target.name, what, relative.at_most, value, below=True)
        found.append(one.model_copy(update={"detail": detail or one.detail}))
    return found


def _judged(target: str, what: str, limit: float, found: float | None, *, below: bool) -> Judged:
    if found is None:
        return Judged(
            target=target,
            what=what,
            limit=limit,
            found=None,
            met=False,
            margin=None,
            detail="was not measured",
        )
    met = found <= limit if below else found >= limit
    margin = (limit - found if below else found - limit) / limit if limit else None
    return Judged(target=target, what=what, limit=limit, found=found, met=met, margin=margin)


def _measured(row: Row, name: str) -> float | None:
    if name in ("p50_ms", "p99_ms", "slices_per_second"):
        return None if row.latency is None else float(getattr(row.latency, name))
    if name == "end_to_end_ms":
        return None if row.end_to_end is None else row.end_to_end.p50_ms
    if name == "start_to_labels_s":
        return None if row.cold is None else row.cold.start_to_labels_s
    if name in ("peak_mib", "device_mib"):
        return None if row.memory is None else getattr(row.memory, name)
    if name == "min_agreement":
        return min((p.agreement for p in row.parity if p.agreement is not None), default=None)
    if name == "min_dice":
        return min((d for p in row.parity for d in p.dice if d is not None), default=None)
    losses = [
        p.ground_truth.loss
        for p in row.parity
        if p.ground_truth is not None and p.ground_truth.loss is not None
    ]
    return max(losses, default=None)


def _times_peer(row: Row, rows: list[Row], relative: Relative) -> tuple[float | None, str]:
    """Return a row's number over a peer's, both measured in turns."""
    peer = ALL_PEERS.get(relative.peer)
    twin = None if peer is None else peer.same_as
    peers = [
        one
        for one in rows
        if (one.backend == relative.peer or (one.backend == twin and one.precision == "fp32"))
        and one.key != row.key
        and (one.bundle, one.batch) == (row.bundle, row.batch)
    ]
    if not peers or peers[0].latency is None:
        return None, f"peer '{relative.peer}' was not measured (--peers)"
    if relative.measure == "memory":
        if row.memory is None or peers[0].memory is None:
            return None, "was not measured"
        return row.memory.peak_mib / peers[0].memory.peak_mib, ""
    return _latency_times(row, peers[0])


def _latency_times(row: Row, peer: Row) -> tuple[float | None, str]:
    from autosam_deploy.benchmarks.harness.facts import ratio_to

    found = ratio_to(peer, row)
    if found is None:
        return None, "the two were not measured in turns"
    return found.times, f"{found.interval[0]:.3g} to {found.interval[1]:.3g} in {found.turns} turns"
