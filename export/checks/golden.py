"""Verify a bundle: hashes and golden tensors on a backend of one's choice."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from autosam_deploy.bundle.manifest import Precision
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.export.checks.record import judged_by, record_run
from autosam_deploy.runtime.backend import BackendInfo
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.runtime.selftest import GoldenResult, read_parity, run_golden


@dataclass(frozen=True)
class Verification:
    """Result of `verify_bundle`; hashes are sound when it exists at all."""

    info: BackendInfo
    gate: float
    results: tuple[GoldenResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every golden case is within the gate of its precision."""
        return all(self.case_passed(result) for result in self.results)

    def case_passed(self, result: GoldenResult) -> bool:
        """Logits decide where there are any; labels alone may differ where logits nearly tie.

        Two logits that are each within the gate can swap places when they lie within twice of it.
        """
        if result.max_logit_difference is not None:
            return result.max_logit_difference <= self.gate
        return result.largest_wrong_margin <= 2 * self.gate

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "passed": self.passed,
            "engine": self.info.as_dict(),
            "gate": self.gate,
            "golden": [self._case_as_dict(result) for result in self.results],
        }

    def _case_as_dict(self, result: GoldenResult) -> dict[str, Any]:
        difference = result.max_logit_difference
        finite = difference is None or isfinite(difference)
        return {
            **vars(result),
            # JSON has no NaN.
            "max_logit_difference": difference if finite else None,
            "finite": finite,
            "passed": self.case_passed(result),
        }


def verify_bundle(
    path: Path,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    record: bool = False,
) -> Verification:
    """Check hashes, open the bundle and run its golden cases.

    Args:
        path: the bundle.
        backend: as for `Engine.open`.
        device: as for `Engine.open`.
        precision: as for `Engine.open`.
        record: write what an engine gave into the bundle's parity record.

    Raises:
        ExportError: export never judged the precision, or `record`, and no engine ran.
        BundleError: the bundle is not sound.
        BackendError: the backend, device or precision is not there.
    """
    bundle = Bundle.open(path, verify=True)
    known = read_parity(bundle)
    with Engine.open(bundle, backend=backend, device=device, precision=precision) as engine:
        gate = judged_by(known, engine.info.precision).gate
        results = tuple(run_golden(engine))
        if record:
            record_run(engine)
        return Verification(engine.info, gate, results)
