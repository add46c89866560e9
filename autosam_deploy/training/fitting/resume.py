"""A fit that survives its process: saved as it goes, and taken up again where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from autosam_deploy.errors import CheckpointError, UsageError
from autosam_deploy.files import atomic_file
from autosam_deploy.training.fitting.fit import Fit
from autosam_deploy.training.fitting.recipe import Epoch
from autosam_deploy.training.watch import Watch

#: Seconds between two saves: a cnn head with Adam's moments is 330 MB.
SAVE_EVERY_S = 30.0


class Journal:
    """The file that keeps a fit between processes.

    It is removed when the head is written; so a file that is there is of a fit that was stopped.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, str],
        *,
        every_s: float | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Name the file.

        Args:
            path: the file.
            identity: what must be equal for a fit to go on, by name: hashes of the data and the
                encoder, the head, the recipe.
            every_s: seconds between two saves; 0 saves after every epoch, None is `SAVE_EVERY_S`.
            watch: is told of saves and of going on.
        """
        self.path = path
        self.identity = dict(identity)
        self.every_s = SAVE_EVERY_S if every_s is None else every_s
        self.watch = watch or Watch()
        self._saved = time.perf_counter()

    def save(self, fit: Fit, ended: bool) -> None:
        """Save a fit unless the last save is fresh (`fit_head`'s save).

        Raises:
            OutputError: it cannot be written; the former save stays.
        """
        now = time.perf_counter()
        if not ended and now - self._saved < self.every_s:
            return
        self.write(fit)
        self._saved = time.perf_counter()
        self.watch.saved()

    def write(self, fit: Fit) -> None:
        """Save a fit now.

        Raises:
            OutputError: it cannot be written; the former save stays.
        """
        record = {
            "identity": self.identity,
            "history": [asdict(epoch) for epoch in fit.history],
            "best": None if fit.best is None else fit.best.number,
        }
        content = {"record": json.dumps(record), "best": fit.best_state, **fit.trainer.state()}
        with atomic_file(self.path) as temporary:
            try:
                torch.save(content, temporary)
            except RuntimeError as error:
                # torch's writer says "unexpected pos" where the disk is full.
                raise OSError("an incomplete file; is the disk full?") from error

    def load(self, fit: Fit) -> None:
        """Put a fit where the file left it (`fit_head`'s resume).

        Raises:
            CheckpointError: the file cannot be read.
            UsageError: it is of another fit.
        """
        content, record = self._read()
        different = [
            name
            for name in sorted({*self.identity, *record["identity"]})
            if self.identity.get(name) != record["identity"].get(name)
        ]
        if different:
            raise UsageError(
                f"'{self.path}' is of another training",
                got=f"another {', '.join(different)}",
                expected="the same data, encoder, head and recipe",
                todo="repeat the command that was stopped, or start anew with --overwrite",
            )
        fit.trainer.restore(content)
        fit.history = [Epoch(**one) for one in record["history"]]
        fit.best = fit.history[record["best"] - 1]
        fit.best_state = content["best"]
        self.watch.resumed(fit.history[-1])

    def discard(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            return content, json.loads(content["record"])
        except Exception as error:  # torch raises a dozen kinds on damaged files
            raise CheckpointError(
                f"'{self.path}' cannot be read",
                got=f"{type(error).__name__}: {error}"[:200],
                todo="start anew with --overwrite",
            ) from error
