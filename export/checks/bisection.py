"""Bisect: at which block does a graph leave the segmenter?

The boundaries between the blocks of a bundle's graph are made outputs, the golden slices are run
through it on a backend, and every boundary is compared with PyTorch. Errors travel on, so the first
boundary that is off names the block that is at fault; what follows it is off in consequence.

Values that are outputs cannot be fused away. A fault of a runtime that fuses across a boundary is
therefore gone when one looks: then the golden slices fail and no boundary does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from rich.console import Console

from autosam_deploy.bundle.manifest import Artefact, Precision
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BackendUnavailableError, BundleError, ExportError
from autosam_deploy.export.checks.taps.graph import tapped_graph
from autosam_deploy.export.checks.taps.reference import Distance, Expectation, expect, plan_of
from autosam_deploy.export.checks.taps.runner import TapRunner
from autosam_deploy.export.checks.taps.table import RUNNERS
from autosam_deploy.export.steps import Steps
from autosam_deploy.fused.segmenter import FusedSegmenter, fuse
from autosam_deploy.fused.taps import boundaries
from autosam_deploy.runtime.backend import BackendInfo, ProviderName, Request
from autosam_deploy.runtime.pyt import TorchBackend
from autosam_deploy.runtime.selftest import GoldenArrays, read_golden
from autosam_deploy.runtime.table import DEFAULT

RunnerFactory = Callable[[Bundle, Request], TapRunner]


@dataclass(frozen=True)
class Tap:
    """One boundary on all golden slices.

    shape: of the first batch. max_abs, rel_l2, cosine: largest absolute difference, L2 norm of the
    difference by that of the truth, cosine of the angle between the two; None where the graph's
    values are not finite. tolerance, rel_tolerance: what passes for the first two.
    """

    name: str
    shape: tuple[int, ...]
    max_abs: float | None
    rel_l2: float | None
    cosine: float | None
    tolerance: float
    rel_tolerance: float
    finite: bool
    passed: bool

    @property
    def excess(self) -> float:
        """By what factor the worse of the two distances exceeds its tolerance (passed: <= 1)."""
        if self.max_abs is None or self.rel_l2 is None:
            return float("inf")
        return max(self.max_abs / self.tolerance, self.rel_l2 / self.rel_tolerance)


@dataclass(frozen=True)
class Bisection:
    """Result of `bisect_bundle`; taps in the order in which they are computed."""

    info: BackendInfo
    artefact: str
    taps: tuple[Tap, ...]
    notes: tuple[str, ...] = ()

    @property
    def first_bad(self) -> str | None:
        """The first boundary that is off; None where every one agrees."""
        return next((tap.name for tap in self.taps if not tap.passed), None)

    @property
    def passed(self) -> bool:
        """Whether every boundary agrees."""
        return self.first_bad is None

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "passed": self.passed,
            "first_bad": self.first_bad,
            "artefact": self.artefact,
            "engine": self.info.as_dict(),
            "taps": [asdict(tap) for tap in self.taps],
            "notes": list(self.notes),
        }


def bisect_bundle(
    bundle: Bundle,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    provider: ProviderName = "auto",
    threads: int | None = None,
    runners: Mapping[str, RunnerFactory] = RUNNERS,
    steps: Steps | None = None,
) -> Bisection:
    """Compare every boundary of a bundle's graph with PyTorch, on the golden slices.

    Args:
        bundle: an opened bundle with weights.
        backend: a key of `runners`; "auto" is the runtime's default.
        device: as for `Engine.open`.
        precision: as for `Engine.open`.
        provider: ONNX Runtime's execution provider.
        threads: of the CPU, for the backend and for PyTorch (its number for the whole process);
            None means every core that this process may use.
        runners: backend -> what runs its tapped graphs.
        steps: shows progress; None is silent.

    Raises:
        BundleError: the bundle has no weights, or its files are not what they should be.
        ExportError: its graph does not name the boundaries.
        BackendError: the backend, device or precision is not there, or the graph does not run.
        ParityError: PyTorch's own values are not finite.
        OutputError: no room for a temporary copy of the graph.
    """
    steps = steps or Steps(Console(quiet=True))
    name = DEFAULT if backend == "auto" else backend
    if name not in runners:
        raise BackendUnavailableError(
            "nothing looks between the blocks on this backend",
            got=repr(name),
            expected=" | ".join(("auto", *runners)),
        )
    request = Request(device=device, precision=precision, threads=threads, provider=provider)
    _require_weights(bundle)
    with steps.step(f"open on {name}"):
        runner = runners[name](bundle, request)
    golden = [read_golden(bundle, case) for case in bundle.manifest.golden]
    fused = _fused(bundle, runner.artefact, threads)
    with tapped_graph(bundle, runner.artefact, boundaries(fused)) as (graph, values):
        with steps.step("every block in PyTorch, and its own error"):
            plan = plan_of(runner.artefact, fused)
            expectation = expect(fused, plan, [case.slices for case in golden])
        del fused
        with steps.step(f"every block on {name}"), runner.opened(graph) as info:
            distances = _distances(runner, golden, expectation, values)
    taps = tuple(_tap(key, distances[key], expectation) for key in values)
    return Bisection(info, runner.artefact.file.path, taps, _notes(golden, expectation))


def _require_weights(bundle: Bundle) -> None:
    if bundle.find("weights", "fp32") is None:
        raise BundleError(
            f"'{bundle.path}' cannot be compared block by block",
            got="a bundle without weights (--slim)",
            expected="weights.safetensors",
            todo="export it again without --slim",
        )


def _fused(bundle: Bundle, artefact: Artefact, threads: int | None) -> FusedSegmenter:
    """Fuse the bundle's own weights as its graph was."""
    backend = TorchBackend(bundle, Request(device="cpu", threads=threads))
    fused = fuse(backend.segmenter, lowering=artefact.lowering or "explicit")
    backend.close()
    return fused


def _distances(
    runner: TapRunner,
    golden: list[GoldenArrays],
    expectation: Expectation,
    values: Mapping[str, str],
) -> dict[str, Distance]:
    distances = {name: Distance() for name in values}
    for case, truth in zip(golden, expectation.cases, strict=True):
        found = runner.run(case.slices, values)
        for name, distance in distances.items():
            if found[name].shape != truth[name].shape:
                raise ExportError(
                    f"value '{values[name]}' of the graph is not what the module returns",
                    got=f"shape {found[name].shape}",
                    expected=str(truth[name].shape),
                    todo="export the bundle again with this version",
                )
            distance.add(found[name], truth[name])
    return distances


def _tap(name: str, distance: Distance, expectation: Expectation) -> Tap:
    tolerance, rel_tolerance = expectation.tolerance[name], expectation.rel_tolerance[name]
    max_abs, rel_l2 = distance.max_abs, distance.rel_l2
    return Tap(
        name=name,
        shape=expectation.cases[0][name].shape,
        max_abs=max_abs,
        rel_l2=rel_l2,
        cosine=distance.cosine,
        tolerance=tolerance,
        rel_tolerance=rel_tolerance,
        finite=distance.finite,
        passed=(
            max_abs is not None
            and max_abs <= tolerance
            # Without a norm of the truth there is no relative one; the absolute one says it all.
            and (rel_l2 is None or rel_l2 <= rel_tolerance)
        ),
    )


def _notes(golden: list[GoldenArrays], expectation: Expectation) -> tuple[str, ...]:
    """Say it when the weights do not give the golden logits, whatever the graph does."""
    differences = [
        float(np.abs(truth["output"] - case.logits).max())
        for case, truth in zip(golden, expectation.cases, strict=True)
    ]
    largest = float(np.max(differences))
    # A golden file may hold NaN, which is above nothing.
    if largest <= expectation.tolerance["output"]:
        return ()
    return (
        f"the bundle's weights do not give its golden logits in PyTorch here (off by {largest:.2g}"
        "); the blocks are compared with the weights",
    )
