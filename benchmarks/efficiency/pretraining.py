"""The pretrained encoders of a study: one a seed, kept in its folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from autosam_deploy.benchmarks.baselines.contrastive import PretrainEpoch, pretrain
from autosam_deploy.benchmarks.efficiency.fits import Start
from autosam_deploy.benchmarks.efficiency.material import Material
from autosam_deploy.benchmarks.efficiency.store import PRETRAINING, read_record
from autosam_deploy.errors import OutputError, TrainingError
from autosam_deploy.files import atomic_file, sha256_file, write_json


class Pretraining:
    """Encoders that learned from the slices of the whole pool, without any label."""

    def __init__(self, folder: Path, material: Material) -> None:
        """Name the folder of the study; nothing is computed yet."""
        self.folder = folder / PRETRAINING
        self.material = material
        self.records: dict[int, dict[str, Any]] = {}
        self.failures: dict[int, TrainingError] = {}

    def find(self, seed: int) -> dict[str, Any] | None:
        """Return the record of an encoder that is there already.

        Raises:
            OutputError: it was made in another way, or cannot be read.
        """
        record = read_record(
            self._path(seed, ".json"),
            self.material.pretraining_fingerprint(seed),
            what=f"the pretrained encoder of seed {seed}",
        )
        if record is not None:
            self.records[seed] = record
        return record

    def start(self, seed: int, *, report: Callable[[PretrainEpoch], None] | None = None) -> Start:
        """Return the encoder of a seed; the first call makes it, or fails for all later ones.

        Raises:
            UsageError: fewer than two slices in the pool.
            TrainingError: the loss is not finite.
            OutputError: it cannot be written, or is not what its record says.
        """
        if seed in self.failures:
            raise self.failures[seed]
        weights = self._path(seed, ".safetensors")
        if seed not in self.records and self.find(seed) is None:
            try:
                self.records[seed] = self._make(seed, weights, report)
            except TrainingError as error:
                self.failures[seed] = error
                raise
        record = self.records[seed]
        if not weights.is_file() or sha256_file(weights) != record["sha256"]:
            raise OutputError(
                f"'{weights}' is not the encoder that was pretrained",
                todo=f"delete '{self._path(seed, '.json')}', and it is made anew",
            )
        return load_file(weights)

    def _make(
        self, seed: int, weights: Path, report: Callable[[PretrainEpoch], None] | None
    ) -> dict[str, Any]:
        data, config = self.material.data, self.material.contrastive_config(seed)
        epochs: list[PretrainEpoch] = []

        def keep(epoch: PretrainEpoch) -> None:
            epochs.append(epoch)
            if report is not None:
                report(epoch)

        clock = time.perf_counter()
        volumes = data.of(data.roles.pool)
        state = pretrain([one.slices for one in volumes], config=config, report=keep)
        seconds = time.perf_counter() - clock
        with atomic_file(weights) as temporary:
            save_file(state, temporary)
        record = {
            "seed": seed,
            "volumes": len(volumes),
            "slices": sum(len(one.slices) for one in volumes),
            "epochs": len(epochs),
            "losses": [epoch.loss for epoch in epochs],
            "seconds": seconds,
            "sha256": sha256_file(weights),
            "fingerprint": self.material.pretraining_fingerprint(seed),
        }
        # After the weights: a record stands for an encoder that is whole.
        write_json(self._path(seed, ".json"), record)
        return record

    def _path(self, seed: int, suffix: str) -> Path:
        return self.folder / f"seed-{seed}{suffix}"
