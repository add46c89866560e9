from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosam_deploy.benchmarks.harness import standards as module
from autosam_deploy.benchmarks.harness.child import ChildError
from autosam_deploy.benchmarks.harness.inputs import GOLDEN, NOISE
from autosam_deploy.benchmarks.harness.record import Parity
from autosam_deploy.benchmarks.harness.runners import Loading, load_engine
from autosam_deploy.benchmarks.harness.standards import (
    Standards,
    sets_for,
)
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BundleError
from autosam_deploy.parity import Reference
from autosam_deploy.runtime.selftest import read_parity

Judged = Callable[..., list[Parity]]


def recorded(standards: Standards, precision: str) -> Reference:
    """What export wrote down."""
    found = read_parity(standards.bundle).comparison_of(precision)
    assert found is not None
    return found.reference


@pytest.fixture
def slim(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    """The tiny bundle as `--slim` writes it: no weights."""
    folder = tmp_path / "slim.autosam"
    shutil.copytree(tiny_bundle, folder)
    (folder / "weights.safetensors").unlink()
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["artefacts"] = [one for one in manifest["artefacts"] if one["kind"] != "weights"]
    path.write_text(json.dumps(manifest), "utf-8")
    return Bundle.open(folder)


def test_a_slim_bundle_has_golden_tensors_alone(
    slim: Bundle, tmp_path: Path, tiny_standards: Standards
) -> None:
    standards = Standards(slim, tmp_path / "truth", tiny_standards.options)
    standards.read()
    standards.compute()
    assert [one.name for one in standards.sets] == [GOLDEN]
    assert "no weights (--slim)" in standards.warnings[0]
    for precision in ("fp32", "fp16"):
        found = standards.standard(standards.sets[0], precision)
        assert found.truth == "golden"
        assert found.same_dtype is None
        assert found.reference == recorded(standards, precision)
    with pytest.raises(BundleError, match="nothing to judge bf16 by on golden inputs"):
        standards.standard(standards.sets[0], "bf16")


def test_weights_that_cannot_be_run(
    tiny_bundle: Path, tmp_path: Path, tiny_standards: Standards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A truth that runs out of memory leaves the golden tensors, and says so."""

    def answer(self: Any, *, timeout: float) -> None:
        raise ChildError("the process was ended by SIGKILL")

    monkeypatch.setattr(module.Child, "answer", answer)
    standards = Standards(Bundle.open(tiny_bundle), tmp_path, tiny_standards.options)
    standards.read()
    standards.compute()
    assert [one.name for one in standards.sets] == [GOLDEN]
    assert standards.warnings == [
        "no truth from the weights (the process was ended by SIGKILL): parity is against golden "
        "tensors alone"
    ]
    assert standards.standard(standards.sets[0], "fp32").truth == "golden"


def test_truth_and_references(tiny_standards: Standards) -> None:
    golden, noise = tiny_standards.sets
    assert (golden.name, noise.name) == (GOLDEN, NOISE)
    first, second = (tiny_standards.standard(one, "fp32") for one in (golden, noise))
    # Golden: as export recorded it. Noise: measured now.
    assert first.reference == recorded(tiny_standards, "fp32")
    assert second.reference.method == "float64"
    assert 0 < second.reference.max_error < 1e-3
    assert second.reference.slices == 3
    assert [one.shape[2:] for one in second.logits] == [one.shape[2:] for one in noise.batches]
    for stored, now in zip(tiny_standards._golden, first.logits, strict=True):
        np.testing.assert_allclose(stored.logits, now, atol=1e-4)


def test_half_precision_is_judged_by_half_precision(
    tiny_bundle: Path, tiny_standards: Standards, judged: Judged
) -> None:
    """Three ways: against float32, against plain half, and plain half against float32."""
    runner = load_engine(Loading(tiny_bundle, "onnxruntime", "fp16", "cpu", 1))
    golden, noise = judged(runner, precision="fp16")
    single = judged(runner, precision="fp32")
    for one, strict in zip((golden, noise), single, strict=True):
        assert one.failures == []
        assert one.same_dtype is not None
        assert one.required_tolerance is not None
        assert strict.gate < one.required_tolerance <= one.gate
        assert one.same_dtype <= one.required_tolerance + one.reference_error + 1e-6
        assert "values" in strict.failures
    assert noise.reference == "rounded"


def test_peers_take_the_timed_slices(tiny_standards: Standards) -> None:
    assert [one.name for one in sets_for(tiny_standards, judged=True)] == [GOLDEN, NOISE]
    assert [one.name for one in sets_for(tiny_standards, judged=False)] == [GOLDEN]


def test_a_parity_record_that_is_none(
    tiny_bundle: Path, tmp_path: Path, tiny_standards: Standards
) -> None:
    from autosam_deploy.files import sha256_file

    folder = tmp_path / "b.autosam"
    shutil.copytree(tiny_bundle, folder)
    (folder / "parity.json").write_text("{}", "utf-8")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["parity"].update(sha256=sha256_file(folder / "parity.json"), bytes=2)
    path.write_text(json.dumps(manifest), "utf-8")
    standards = Standards(Bundle.open(folder), tmp_path / "t", tiny_standards.options)
    with pytest.raises(BundleError, match=r"parity.json' is not valid at 'verdict'.*export the"):
        standards.read()
