"""Golden self-test: does this engine, here and now, give what the segmenter gave at export?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosam_deploy.bundle.manifest import FileRef, GoldenCase
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BundleError, SpecError
from autosam_deploy.parity import ParityRecord
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.strict import parse_spec


@dataclass(frozen=True)
class GoldenResult:
    """One golden case.

    agreement: share of equal labels (0..1). max_logit_difference: None for bundles without logits.
    largest_wrong_margin: by how much the segmenter preferred its label to the next, at the worst
    pixel that is labelled otherwise here; 0 if none is. Logits that differ by at most d everywhere
    cannot change a label whose margin is beyond 2 d, so this judges labels without counting ties.
    """

    name: str
    agreement: float
    max_logit_difference: float | None
    shape: tuple[int, ...]
    largest_wrong_margin: float

    @property
    def labels_equal(self) -> bool:
        """Whether every label is the segmenter's."""
        return self.agreement == 1.0


@dataclass(frozen=True)
class GoldenArrays:
    """The files of a golden case: slices (B, 1, H, W), labels (B, H, W), logits (B, K, H, W)."""

    slices: NDArray[np.float32]
    labels: NDArray[np.uint8]
    logits: NDArray[np.float32]


def read_golden(bundle: Bundle, case: GoldenCase) -> GoldenArrays:
    """Read a golden case.

    Raises:
        BundleError: a file is no array, or not of the dtype and shape that it must have.
    """
    slices = _read(bundle, case.slices, "float32")
    if slices.ndim != 4 or slices.shape[1] != 1:
        raise _wrong(case.slices, slices, "(B, 1, H, W)")
    count, _, height, width = slices.shape
    labels = _read(bundle, case.labels, "uint8")
    if labels.shape != (count, height, width):
        raise _wrong(case.labels, labels, str((count, height, width)))
    logits = _read(bundle, case.logits, "float32")
    wanted = (count, len(bundle.manifest.model.classes), height, width)
    if logits.shape != wanted:
        raise _wrong(case.logits, logits, str(wanted))
    return GoldenArrays(slices, labels, logits)


def read_parity(bundle: Bundle) -> ParityRecord:
    """Return what export, and engines on their GPUs, were compared with.

    Raises:
        BundleError: the file is no parity record.
    """
    path = bundle.file(bundle.manifest.parity)
    try:
        return parse_spec(ParityRecord, path.read_bytes(), what=f"'{path}'")
    except (SpecError, OSError) as error:
        raise BundleError(str(error), todo="export the bundle again") from error


def run_golden(engine: Engine) -> list[GoldenResult]:
    """Run the bundle's golden slices.

    Raises:
        BundleError: a golden file is not what the manifest says.
    """
    results = []
    for case in engine.manifest.golden:
        golden = read_golden(engine.bundle, case)
        outputs = engine.outputs(golden.slices)
        difference = None
        if "logits" in outputs:
            difference = float(np.abs(outputs["logits"] - golden.logits).max())
        found = outputs["labels"] if "labels" in outputs else outputs["logits"].argmax(axis=1)
        wrong = found != golden.labels
        second, first = np.partition(golden.logits, -2, axis=1)[:, -2:].swapaxes(0, 1)
        results.append(
            GoldenResult(
                name=case.name,
                agreement=1.0 - float(wrong.mean()),
                max_logit_difference=difference,
                shape=golden.slices.shape,
                largest_wrong_margin=float((first - second)[wrong].max(initial=0.0)),
            )
        )
    return results


def _read(bundle: Bundle, ref: FileRef, dtype: str) -> NDArray[Any]:
    try:
        # Mapped first: a header that claims terabytes then is an error and no allocation.
        array = np.array(np.load(bundle.file(ref), mmap_mode="r", allow_pickle=False))
    except (OSError, EOFError, ValueError) as error:
        raise BundleError(f"golden file '{ref.path}' cannot be read", got=str(error)) from error
    if str(array.dtype) != dtype:
        raise _wrong(ref, array, dtype)
    return array


def _wrong(ref: FileRef, array: NDArray[Any], expected: str) -> BundleError:
    return BundleError(
        f"golden file '{ref.path}'", got=f"{array.dtype} {array.shape}", expected=expected
    )
