"""What a training leaves under `runs/<head>/`: the head, where its encoder is, how it went."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from autosam_deploy.files import write_json
from autosam_deploy.models.checkpoints import HeadInfo, write_head
from autosam_deploy.training.fit import FitResult


def save_result(
    folder: Path,
    result: FitResult,
    info: HeadInfo,
    *,
    sam_checkpoint: Path,
    command: str | None = None,
) -> Path:
    """Write `head.safetensors`, `run.json` and `metrics.json`.

    Args:
        folder: `runs/<head>`.
        result: of `fit_head`.
        info: what the head's file says about itself.
        sam_checkpoint: file of the encoder's weights; `run.json` names it relative to `folder`, so
            that export finds it.
        command: the command line that made the head, for `run.json`.

    Returns:
        The head's file.

    Raises:
        OutputError: a file cannot be written.
    """
    head = folder / "head.safetensors"
    write_head(head, result.state, info)
    write_json(
        folder / "run.json",
        {"sam_checkpoint": os.path.relpath(sam_checkpoint, folder), "command": command},
    )
    write_json(
        folder / "metrics.json",
        {"best": asdict(result.best), "history": [asdict(epoch) for epoch in result.history]},
    )
    return head
