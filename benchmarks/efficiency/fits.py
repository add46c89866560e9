"""Fit one cell, label the test volumes with what it became, score them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autosam_deploy.benchmarks.baselines.unet import fit_unet, label_slices
from autosam_deploy.benchmarks.efficiency.material import Material
from autosam_deploy.benchmarks.efficiency.plan import Cell, uses_encoder
from autosam_deploy.metrics.summary import statistic
from autosam_deploy.metrics.surface import ClassScore
from autosam_deploy.models.heads import Head
from autosam_deploy.models.preprocess import to_slice_size
from autosam_deploy.spec import HeadKind
from autosam_deploy.training.datasets.loading import LabelledSlices
from autosam_deploy.training.fitting.fit import Report, fit_head
from autosam_deploy.training.fitting.recipe import Epoch
from autosam_deploy.training.fitting.scoring import VolumeScores, score_labels
from autosam_deploy.training.fitting.start import start_head
from autosam_deploy.training.fitting.step import label_versions

#: Weights that a pretrained encoder starts from.
Start = Mapping[str, Tensor]


@dataclass(frozen=True)
class Fitted:
    """A trained method: its epochs, the best of them, its trained weights, and how it labels.

    label: volume -> labels (N, H, W) uint8.
    """

    history: Sequence[Epoch]
    best: Epoch
    parameters: int
    label: Callable[[LabelledSlices], NDArray[np.uint8]]


def fit_cell(
    cell: Cell, material: Material, *, start: Start | None = None, report: Report | None = None
) -> dict[str, Any]:
    """Train one cell and score it on the test volumes.

    Args:
        cell: method, number of volumes, seed.
        material: with embeddings where the method is a head.
        start: encoder of a pretrained U-Net.
        report: called after every epoch.

    Returns:
        The cell's record as JSON values, None where there is no number.

    Raises:
        TrainingError: the loss is not finite, or the head died.
    """
    if uses_encoder(cell.method):
        fitted = _fit_head(cell.method, cell, material, report)
    else:
        fitted = _fit_unet(cell, material, start, report)
    clock = time.perf_counter()
    data = material.data
    scores = [
        score_labels(volume, fitted.label(volume), num_classes=len(data.class_names))
        for volume in data.of(data.roles.test)
    ]
    return {
        "steps": sum(epoch.steps for epoch in fitted.history),
        "epochs": len(fitted.history),
        "best_epoch": fitted.best.number,
        "validation_dice": fitted.best.dice,
        "parameters": fitted.parameters,
        "seconds": sum(epoch.seconds for epoch in fitted.history),
        "scoring_seconds": time.perf_counter() - clock,
        **summarise(scores, data.class_names),
        "scores": [score.as_dict(data.class_names) for score in scores],
    }


def _fit_head(kind: HeadKind, cell: Cell, material: Material, report: Report | None) -> Fitted:
    if material.sam is None:
        raise LookupError("a head needs an encoder")
    size = cell.encoder_size
    spec, config = material.model_spec(kind, size), material.fit_config(cell)
    learned = material.slices_of(material.draw(cell), size)
    judging = material.slices_of(material.data.roles.validation, size) or learned
    result = fit_head(
        start_head(spec.head, material.sam.checkpoint, seed=config.seed),
        learned,
        judging.plain,
        preprocess=spec.preprocess,
        image_size=size,
        config=config,
        report=report,
    )
    head = Head(spec.head)
    head.load_state_dict(result.state)

    def resize(low: Tensor, shape: tuple[int, int]) -> Tensor:
        return to_slice_size(low, spec.preprocess, size, shape)

    def label(volume: LabelledSlices) -> NDArray[np.uint8]:
        versions = material.embedded[size, volume.name].plain
        return np.stack([found for found, _ in label_versions(head, versions, resize)])

    trained = sum(w.numel() for name, w in head.named_parameters() if "iou" not in name)
    return Fitted(result.history, result.best, trained, label)


def _fit_unet(cell: Cell, material: Material, start: Start | None, report: Report | None) -> Fitted:
    data = material.data
    result = fit_unet(
        data.of(material.draw(cell)),
        data.of(data.roles.validation),
        num_classes=len(data.class_names),
        config=material.unet_config(cell),
        start=start,
        report=report,
    )
    trained = sum(weight.numel() for weight in result.network().parameters())
    return Fitted(
        result.history, result.best, trained, lambda volume: label_slices(result, volume.slices)
    )


def summarise(scores: Sequence[VolumeScores], class_names: Sequence[str]) -> dict[str, Any]:
    """Return a cell's scores: means over the test volumes of the mean over a volume's classes.

    A class that is in neither truth nor prediction of a volume is left out there. One that is in
    one of them only has Dice 0 and no distance, and is counted as missed or invented.
    """
    rows = [[volume.classes[number] for volume in scores] for number in range(len(class_names) - 1)]
    return {
        "dice": _mean(volume.dice for volume in scores),
        "hd95_mm": _mean(_mean_of(one.hd95_mm for one in volume.classes) for volume in scores),
        "assd_mm": _mean(_mean_of(one.assd_mm for one in volume.classes) for volume in scores),
        **_counts([one for row in rows for one in row]),
        "classes": {
            class_names[row[0].label]: {
                "dice": _mean(one.dice for one in row),
                "hd95_mm": _mean(one.hd95_mm for one in row),
                "assd_mm": _mean(one.assd_mm for one in row),
                **_counts(row),
            }
            for row in rows
        },
    }


def _counts(scores: Sequence[ClassScore]) -> dict[str, int]:
    return {
        "structures": sum(one.truth_ml > 0 for one in scores),
        "missed": sum(one.found == "missed" for one in scores),
        "invented": sum(one.found == "invented" for one in scores),
    }


def _mean_of(values: Iterable[float]) -> float:
    return statistic(values).mean


def _mean(values: Iterable[float]) -> float | None:
    """Return the mean of what is known as a JSON value."""
    mean = _mean_of(values)
    return None if math.isnan(mean) else mean
