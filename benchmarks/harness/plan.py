"""What a run is going to measure: every row, decided before the first one starts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from autosam_deploy.benchmarks.harness.record import Role, Row
from autosam_deploy.benchmarks.harness.runners import ENGINE_LOADER
from autosam_deploy.benchmarks.machine import gpu_query
from autosam_deploy.benchmarks.peers.table import ALL_PEERS
from autosam_deploy.bundle.manifest import Precision
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import UsageError
from autosam_deploy.runtime.table import BACKENDS, options_for

PRECISIONS: tuple[str, ...] = get_args(Precision)


@dataclass(frozen=True)
class Options:
    """How to measure.

    deadline: of `time.monotonic`, after which no row is started; those that run come to their end.
    repeats, seconds: least of every row's runs; budget_s: when to stop short of them. warm_s: most
    time of warm-up. size: side of phantom slices in pixels. timeout_s: of one answer of a row.
    parity_slices: of a volume; None by the encoder. peers_always: at every batch size, not only the
    first. apart: no turns, one row after the other.
    roofline_s: of every dtype; 0 leaves it out. backend_options: by words, for each backend that
    has them.
    """

    backends: tuple[str, ...] = ("all",)
    precisions: tuple[str, ...] = ("auto",)
    batches: tuple[int, ...] = (1,)
    device: str = "auto"
    threads: int = 1
    volumes: Path | None = None
    labels: Path | None = None
    peers: tuple[str, ...] = ()
    peers_always: bool = False
    repeats: int = 10
    seconds: float = 3.0
    budget_s: float = 30.0
    warm_s: float = 5.0
    size: int = 256
    seed: int = 0
    timeout_s: float = 900.0
    parity_slices: int | None = None
    apart: bool = False
    roofline_s: float = 0.6
    backend_options: dict[str, str] = field(default_factory=dict)
    deadline: float | None = None

    @property
    def over(self) -> bool:
        """Whether the time of the run is used up."""
        return self.deadline is not None and time.monotonic() > self.deadline


@dataclass(frozen=True)
class RowPlan:
    """One row to be measured.

    label: of the bundle, unique in a run. asked: the backend by its name, and in this precision, so
    that its absence is an error. options: of the backend, by words; they are part of the key, so
    that a baseline with others is none for this row.
    """

    key: str
    label: str
    bundle: Bundle
    role: Role
    backend: str
    precision: str
    batch: int
    asked: bool
    loader: str
    what: str = ""
    needs_plain: bool = False
    options: dict[str, str] = field(default_factory=dict)

    def row(self) -> Row:
        """Return the row with nothing measured yet."""
        return Row(
            key=self.key,
            bundle=self.label,
            role=self.role,
            backend=self.backend,
            what=self.what,
            precision_asked=self.precision,
            batch=self.batch,
            asked=self.asked,
            options=self.options,
        )


@dataclass(frozen=True)
class Group:
    """Rows of one bundle at one batch size, which take turns."""

    label: str
    bundle: Bundle
    batch: int
    rows: tuple[RowPlan, ...]


def find_bundles(paths: Sequence[Path], runs: Path = Path("runs")) -> list[Path]:
    """Return the bundles that were named, or all under `runs/*/`.

    Raises:
        UsageError: none was named and none is there, or one was named twice.
    """
    found = list(paths) or sorted(path.parent for path in runs.glob("*/*.autosam/manifest.json"))
    if not found:
        raise UsageError(
            f"no bundle was named and there is none under '{runs}'",
            todo="make one with autosam-export",
        )
    places = [path.resolve() for path in found]
    if len(set(places)) < len(places):
        raise UsageError("a bundle is named twice", got=", ".join(map(str, found)))
    return found


def check_backends(names: Sequence[str]) -> None:
    """Refuse names that are no rows of the table.

    Raises:
        UsageError: naming the rows.
    """
    for name in names:
        if name != "all" and name not in BACKENDS:
            raise UsageError(
                "--backend", got=name, expected=f"all, or some of {', '.join(BACKENDS)}"
            )


def check_options(backends: Sequence[str], texts: Mapping[str, str]) -> None:
    """Refuse options that none of the backends has, and values that one does not take.

    Raises:
        UsageError: naming the option.
    """
    chosen = list(BACKENDS) if "all" in backends else list(backends)
    known = {name for backend in chosen for name in options_for(backend, texts)}
    if unknown := [name for name in texts if name not in known]:
        raise UsageError(
            "--option",
            got=unknown[0],
            expected=f"an option of {', '.join(chosen)}",
            todo="--option help lists them",
        )


def plan_groups(bundles: Sequence[Bundle], options: Options) -> list[Group]:
    """Return all rows, grouped by bundle and batch.

    Raises:
        UsageError: a name that is no backend or peer; two bundles of one name.
    """
    check_backends(options.backends)
    if unknown := [name for name in options.peers if name not in ALL_PEERS]:
        raise UsageError("--peer", got=unknown[0], expected=", ".join(ALL_PEERS))
    names = [bundle.manifest.name for bundle in bundles]
    labels = names if len(set(names)) == len(names) else [str(one.path) for one in bundles]
    groups = []
    for bundle, label in zip(bundles, labels, strict=True):
        for number, batch in enumerate(options.batches):
            rows = _bundle_rows(bundle, label, batch, options)
            if number == 0 or options.peers_always:
                rows += _peer_rows(bundle, label, batch, _others(rows, options))
            groups.append(Group(label, bundle, batch, tuple(rows)))
    return groups


def _bundle_rows(bundle: Bundle, label: str, batch: int, options: Options) -> list[RowPlan]:
    everything = "all" in options.backends
    chosen = list(BACKENDS) if everything else list(dict.fromkeys(options.backends))
    rows = []
    for backend in chosen:
        own = options_for(backend, options.backend_options)
        with_them = "".join(f"/{name}={text}" for name, text in sorted(own.items()))
        for precision in _precisions(bundle, options):
            rows.append(
                RowPlan(
                    key=f"{label}/{backend}/{precision}/b{batch}{with_them}",
                    label=label,
                    bundle=bundle,
                    role="bundle",
                    backend=backend,
                    precision=precision,
                    batch=batch,
                    asked=backend in options.backends and "all" not in options.precisions,
                    loader=ENGINE_LOADER,
                    what=f"the bundle on backend '{backend}'",
                    options=own,
                )
            )
    return rows


def _precisions(bundle: Bundle, options: Options) -> tuple[str, ...]:
    """Return the precisions to try; `all` is every one that the bundle holds in any form."""
    if "all" not in options.precisions:
        return tuple(dict.fromkeys(options.precisions))
    there = {artefact.precision for artefact in bundle.manifest.artefacts}
    return tuple(precision for precision in PRECISIONS if precision in there)


def _others(rows: Sequence[RowPlan], options: Options) -> Options:
    """Leave out peers that a row of the bundle is already, which holds in float32 alone."""
    there = {row.backend for row in rows if _is_float32(row, options)}
    return replace(
        options, peers=tuple(n for n in options.peers if ALL_PEERS[n].same_as not in there)
    )


def _is_float32(row: RowPlan, options: Options) -> bool:
    """Tell whether a row of backend `torch` is going to run in float32."""
    if row.precision != "auto":
        return row.precision == "fp32"
    half = row.bundle.find("onnx", "fp16") is not None
    return not half or options.device == "cpu" or not gpu_query("name")


def _peer_rows(bundle: Bundle, label: str, batch: int, options: Options) -> list[RowPlan]:
    return [
        RowPlan(
            key=f"{label}/peer:{name}/b{batch}",
            label=label,
            bundle=bundle,
            role="peer",
            backend=name,
            precision="auto",
            batch=batch,
            asked=False,
            loader=ALL_PEERS[name].loader,
            what=ALL_PEERS[name].what,
            needs_plain=ALL_PEERS[name].needs_plain,
        )
        for name in options.peers
    ]
