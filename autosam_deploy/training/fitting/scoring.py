"""How good a trained head is on whole volumes: Dice, HD95 and ASSD of every class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autosam_deploy.metrics.surface import ClassScore, score_classes
from autosam_deploy.models.heads import Head
from autosam_deploy.models.preprocess import to_slice_size
from autosam_deploy.spec import ModelSpec
from autosam_deploy.training.datasets.loading import LabelledSlices
from autosam_deploy.training.embedding.versions import Version
from autosam_deploy.training.fitting.step import label_versions


@dataclass(frozen=True)
class VolumeScores:
    """Scores of one volume, a class each behind background.

    in_mm: False where the volume does not tell its spacing (PNG slices): distances are NaN then.
    """

    name: str
    classes: tuple[ClassScore, ...]
    in_mm: bool

    @property
    def dice(self) -> float:
        """Mean Dice over the classes that are there; NaN without any."""
        known = [score.dice for score in self.classes if not math.isnan(score.dice)]
        return float(np.mean(known)) if known else math.nan

    def as_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return JSON values, NaN as None."""
        rows = []
        for score in self.classes:
            fields = asdict(score)
            label = fields.pop("label")
            plain = {
                key: None if isinstance(value, float) and math.isnan(value) else value
                for key, value in fields.items()
            }
            rows.append({"class": class_names[label], **plain})
        return {"volume": self.name, "classes": rows}


def score_head(
    head: Head,
    volumes: Sequence[LabelledSlices],
    versions: Sequence[Version],
    *,
    spec: ModelSpec,
) -> tuple[VolumeScores, ...]:
    """Label whole volumes and score them (see `metrics.surface`).

    Args:
        head: trained; left in evaluation mode.
        volumes: labelled slices.
        versions: of every slice of all volumes, in their order, as it is.
        spec: the segmenter that the head belongs to.

    Raises:
        MissingExtraError: MONAI or SciPy is not installed.
    """

    def resize(low: Tensor, size: tuple[int, int]) -> Tensor:
        return to_slice_size(low, spec.preprocess, spec.encoder.image_size, size)

    labelled = label_versions(head, versions, resize)
    scores = []
    for volume in volumes:
        found = np.stack([next(labelled)[0] for _ in volume.slices])
        scores.append(score_labels(volume, found, num_classes=spec.head.num_classes))
    return tuple(scores)


def score_labels(
    volume: LabelledSlices, found: NDArray[np.uint8], *, num_classes: int
) -> VolumeScores:
    """Score the labels of one volume (see `metrics.surface`).

    Args:
        volume: with the truth; without spacing (PNG slices) there are no distances.
        found: labels (N, H, W).
        num_classes: K.

    Raises:
        MissingExtraError: MONAI or SciPy is not installed.
    """
    spacing = volume.spacing_mm
    classes = score_classes(
        found,
        volume.labels,
        # Slices come first as z does in a volume; a geometry's order is x, y, z.
        spacing=(spacing or (1.0, 1.0, 1.0))[::-1],
        labels=range(1, num_classes),
    )
    if spacing is None:
        classes = tuple(_without_mm(score) for score in classes)
    return VolumeScores(volume.name, classes, in_mm=spacing is not None)


def _without_mm(score: ClassScore) -> ClassScore:
    # Volumes in ml stay what tells missed from invented; without spacing they count voxels.
    return ClassScore(
        score.label, score.dice, math.nan, math.nan, score.truth_ml, score.prediction_ml
    )
