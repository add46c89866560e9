"""What the harness' tests share: a tiny bundle, its standards, and runners that go wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosam_deploy.benchmarks.harness.collect import collect
from autosam_deploy.benchmarks.harness.judge import Standard, judge
from autosam_deploy.benchmarks.harness.plan import Options
from autosam_deploy.benchmarks.harness.record import Parity
from autosam_deploy.benchmarks.harness.runners import Outputs, Runner
from autosam_deploy.benchmarks.harness.standards import Standards
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.spec import HeadKind

#: Rows that take a second each.
QUICK = Options(
    backends=("onnxruntime",),
    threads=1,
    repeats=3,
    seconds=0.05,
    budget_s=2.0,
    warm_s=0.2,
    size=40,
    timeout_s=60.0,
    roofline_s=0.02,
)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> str:
    """Let child processes import `bench_fakes`; returns its name."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return "bench_fakes"


@pytest.fixture(scope="session")
def tiny_bundle(exported: Callable[[HeadKind], Path]) -> Path:
    """A bundle of three classes with fp32 and fp16 graphs; not to be changed."""
    return exported("autosam")


@pytest.fixture(scope="session")
def tiny_standards(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Standards:
    """Truth of the tiny bundle, computed once."""
    standards = Standards(Bundle.open(tiny_bundle), tmp_path_factory.mktemp("truth"), QUICK)
    standards.read()
    standards.compute()
    assert standards.problems == []
    assert standards.warnings == []
    return standards


def judge_runner(runner: Runner, standards: Standards, *, precision: str = "fp32") -> list[Parity]:
    """Judge a runner on all inputs, as a session does through a process."""
    inputs = {one.name: one.batches for one in standards.sets}
    collected = collect(runner, inputs)
    return [
        judge(
            collected.outputs[one.name],
            standards.standard(one, precision),
            names=standards.bundle.manifest.model.outputs,
            precision=precision,
            repeats=collected.repeats if number == 0 else None,
            colours=["#000000", "#ff0000", "#00ff00"],
        )
        for number, one in enumerate(standards.sets)
    ]


def kinds(found: Sequence[Parity]) -> set[str]:
    """Return every kind of failure."""
    return {failure for one in found for failure in one.failures}


@pytest.fixture(scope="session")
def judged(tiny_standards: Standards) -> Callable[..., list[Parity]]:
    """Factory: judged(runner) -> one verdict a set of inputs."""

    def run(runner: Runner, **options: Any) -> list[Parity]:
        return judge_runner(runner, tiny_standards, **options)

    return run


@pytest.fixture
def right(tiny_standards: Standards) -> Callable[[np.ndarray], Outputs]:
    """The right outputs for the slices of any set, and something for others, as a backend gives."""
    known: dict[bytes, np.ndarray] = {}
    for one in tiny_standards.sets:
        standard: Standard = tiny_standards.standard(one, "fp32")
        for batch, logits in zip(one.batches, standard.logits, strict=True):
            known[batch.tobytes()] = logits

    def outputs(slices: np.ndarray) -> Outputs:
        logits = known.get(slices.tobytes())
        if logits is None:
            mean = slices.mean() / 1000
            shape = (len(slices), 3, *slices.shape[2:])
            logits = np.random.default_rng(0).normal(mean, 1, shape).astype(np.float32)
        return {"labels": logits.argmax(axis=1).astype(np.uint8), "logits": logits.copy()}

    return outputs
