"""Golden self-test: does this engine, here and now, give what the segmenter gave at export?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autosam_deploy.errors import BundleError
from autosam_deploy.runtime.engine import Engine


@dataclass(frozen=True)
class GoldenResult:
    """One golden case: share of equal labels (0..1), largest difference of logits if comparable."""

    name: str
    agreement: float
    max_logit_difference: float | None
    shape: tuple[int, ...]


def run_golden(engine: Engine) -> list[GoldenResult]:
    """Run the bundle's golden slices.

    Raises:
        BundleError: a golden file is not what the manifest says.
    """
    results = []
    for case in engine.manifest.golden:
        try:
            slices, labels, logits = (
                np.load(engine.bundle.file(ref), allow_pickle=False)
                for ref in (case.slices, case.labels, case.logits)
            )
        except (OSError, ValueError) as error:
            raise BundleError(
                f"golden case '{case.name}' cannot be read", got=str(error)
            ) from error
        outputs = engine.outputs(slices)
        found = outputs["labels"] if "labels" in outputs else outputs["logits"].argmax(axis=1)
        if labels.shape != found.shape:
            raise BundleError(
                f"golden case '{case.name}'",
                got=f"labels {labels.shape}",
                expected=str(found.shape),
            )
        difference = None
        if "logits" in outputs:
            difference = float(np.abs(outputs["logits"] - logits).max())
        results.append(
            GoldenResult(case.name, float((found == labels).mean()), difference, slices.shape)
        )
    return results
