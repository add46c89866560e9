"""What a training leaves under `runs/<head>/`: the head, where its encoder is, how it went."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autosam_deploy.extras import require
from autosam_deploy.files import atomic_file, write_json
from autosam_deploy.models.checkpoints import HeadInfo, write_head
from autosam_deploy.models.named import NAMED
from autosam_deploy.training.fitting.fit import FitResult
from autosam_deploy.training.fitting.recipe import Epoch

HEAD_FILE = "head.safetensors"
CURVES_FILE = "curves.png"


def save_result(
    folder: Path,
    result: FitResult,
    info: HeadInfo,
    *,
    sam_checkpoint: Path,
    record: Mapping[str, Any],
    command: str | None = None,
) -> Path:
    """Write `curves.png`, `metrics.json`, `run.json` and, last, `head.safetensors`.

    Args:
        folder: `runs/<head>`.
        result: of `fit_head`.
        info: what the head's file says about itself.
        sam_checkpoint: file of the encoder's weights; `run.json` names it relative to `folder`, or
            by the name of published weights, so that export finds it.
        record: what else belongs into `metrics.json`: data, scores, times.
        command: the command line that made the head, for `run.json`.

    Returns:
        The head's file.

    Raises:
        OutputError: a file cannot be written.
    """
    write_curves(folder / CURVES_FILE, result)
    write_json(
        folder / "metrics.json",
        {
            "best": asdict(result.best),
            "ended": result.ended,
            **record,
            "history": [asdict(epoch) for epoch in result.history],
        },
    )
    write_json(
        folder / "run.json",
        {
            "sam_checkpoint": (
                str(sam_checkpoint)
                if str(sam_checkpoint) in NAMED
                else os.path.relpath(sam_checkpoint, folder)
            ),
            "command": command,
        },
    )
    head = folder / HEAD_FILE
    write_head(head, result.state, info)
    return head


def write_curves(path: Path, result: FitResult) -> None:
    """Draw loss, validation Dice and learning rate over the epochs.

    Raises:
        OutputError: the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    figures = require("matplotlib.figure", extra="train", feature="drawing curves")
    history = result.history
    numbers = [epoch.number for epoch in history]
    figure = figures.Figure(figsize=(8, 5.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot(numbers, [epoch.loss for epoch in history], color="#d55e00", label="training loss")
    top.set_ylabel("cross-entropy + Dice loss", color="#d55e00")
    top.set_ylim(bottom=0)
    right = top.twinx()
    right.plot(numbers, [e.dice for e in history], color="#0072b2", label="validation Dice")
    right.set_ylabel("mean foreground Dice", color="#0072b2")
    right.set_ylim(0, 1)
    _mark_best(right, result.best)
    bottom.plot(numbers, [e.learning_rate for e in history], color="#555555", drawstyle="steps-mid")
    bottom.set_yscale("log")
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("epoch")
    for axes in (top, bottom):
        axes.grid(visible=True, alpha=0.25)
        axes.spines["top"].set_visible(False)
    right.spines["top"].set_visible(False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def _mark_best(axes: Any, best: Epoch) -> None:
    axes.plot([best.number], [best.dice], "o", color="#0072b2", markersize=6)
    axes.annotate(
        f"{best.dice:.3f} in epoch {best.number}",
        (best.number, best.dice),
        textcoords="offset points",
        xytext=(0, 8),
        ha="center",
        color="#0072b2",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )
