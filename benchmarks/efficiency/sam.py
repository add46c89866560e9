"""The frozen encoder of a study, at every size that its heads are trained at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autosam_deploy.models.checkpoints import Checkpoint, read_checkpoint
from autosam_deploy.models.image_size import ImageSize
from autosam_deploy.spec import PreprocessSpec
from autosam_deploy.training.embedding.cache import CacheDtype, Space
from autosam_deploy.training.embedding.encoding import FrozenEncoder, frozen_encoder


@dataclass(frozen=True, eq=False)
class Sam:
    """The encoder at the size of its own tables, and the file that it comes from."""

    checkpoint: Checkpoint
    encoder: FrozenEncoder

    @classmethod
    def read(cls, path: Path, *, preprocess: PreprocessSpec) -> Sam:
        """Read a checkpoint's encoder (see `frozen_encoder`).

        Raises:
            CheckpointError: the file cannot be read, or holds no encoder.
        """
        checkpoint = read_checkpoint(path)
        return cls(checkpoint, frozen_encoder(checkpoint, preprocess=preprocess))

    def at(self, image_size: ImageSize) -> FrozenEncoder:
        """Return the encoder for an input size (height, width) in pixels.

        Raises:
            CheckpointError: its tables were interpolated for another size.
            SpecError: the encoder cannot take the size.
        """
        return frozen_encoder(
            self.checkpoint, preprocess=self.encoder.preprocess, image_size=image_size
        )

    def embedding_bytes(self, image_size: ImageSize, dtype: CacheDtype) -> int:
        """Return what the cache takes for one embedding (see `at` for errors)."""
        encoder = self.at(image_size)
        return Space(
            encoder=encoder.spec,
            encoder_sha256=encoder.sha256,
            preprocess=encoder.preprocess,
            dtype=dtype,
        ).file_bytes

    def as_dict(self) -> dict[str, Any]:
        """Return what it is as JSON values; `image_size` is that of its own tables."""
        return {
            "file": str(self.checkpoint.path),
            "name": self.encoder.spec.name,
            "image_size": list(self.encoder.spec.image_size),
            "sha256": self.encoder.sha256,
            "random": self.encoder.random,
        }
