"""Which weights: what the training command left under `runs/`, or the files named by the user."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from autosam_deploy.errors import UsageError
from autosam_deploy.models.named import NAMED

HEAD_FILE = "head.safetensors"
RUN_FILE = "run.json"
BUNDLE_FOLDER = "model.autosam"


@dataclass(frozen=True)
class Found:
    """A head's file, the encoder's file if one is named beside it, and the bundle to write."""

    head: Path
    sam: Path | None
    output: Path


def find_head(runs: Path, kind: str | None) -> Found:
    """Find the head that training left under `runs/<head>/`.

    Args:
        runs: folder of runs.
        kind: the head asked for; None takes the only one there.

    Raises:
        UsageError: none, or several to choose from; or `run.json` names a file that is gone.
    """
    if kind is not None:
        candidates = [runs / kind / HEAD_FILE]
    else:
        candidates = sorted(runs.glob(f"*/{HEAD_FILE}"))
    present = [path for path in candidates if path.is_file()]
    if not present:
        where = runs / (kind or "<head>") / HEAD_FILE
        raise UsageError(
            f"no trained head at '{where}'",
            todo="train one, name a file with --checkpoint, or use --untrained for random weights",
        )
    if len(present) > 1:
        raise UsageError(
            f"several heads under '{runs}'",
            got=", ".join(path.parent.name for path in present),
            todo="choose one with --head",
        )
    head = present[0]
    return Found(head, _encoder_beside(head), head.parent / BUNDLE_FOLDER)


def _encoder_beside(head: Path) -> Path | None:
    """Return the encoder's file that the run of a head names."""
    run = head.parent / RUN_FILE
    if not run.is_file():
        return None
    try:
        named = json.loads(run.read_text("utf-8")).get("sam_checkpoint")
    except (json.JSONDecodeError, AttributeError, OSError) as error:
        raise UsageError(f"'{run}' cannot be read", got=str(error), todo="train again") from error
    if named is None:
        return None
    if named in NAMED:
        return Path(named)
    path = (run.parent / str(named)).resolve()
    if not path.is_file():
        raise UsageError(
            f"the encoder weights that '{run}' names are gone",
            got=f"no file '{named}'",
            todo="name them with --sam-checkpoint",
        )
    return path
