"""A weights file once it has been read and recognised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.models.checkpoints.info import HeadInfo
from autosam_deploy.models.hashing import weights_sha256
from autosam_deploy.spec import HeadSpec, WeightsInfo

Layout = Literal[
    "reference-full",
    "reference-decoder",
    "sam",
    "huggingface-sam",
    "autosam-head",
    "segmenter",
]
#: A line for people about each layout.
LAYOUTS: dict[Layout, str] = {
    "reference-full": "AutoSAM model: encoder and head",
    "reference-decoder": "AutoSAM head without its encoder",
    "sam": "SAM (or MedSAM, or its image encoder alone)",
    "huggingface-sam": "SAM from Hugging Face (SamModel)",
    "autosam-head": "head trained with autosam-deploy",
    "segmenter": "segmenter of an autosam-deploy bundle: encoder and head",
}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights as float32 on the CPU, under the names that our modules use.

    Attributes:
        path: the file.
        layout: what kind of file it is.
        wrapped: the outer key that the weights were under ("state_dict"), or None.
        encoder: the image encoder as the shapes tell, `image_size` from its positional table if it
            has one; for an autosam-head, which holds no encoder weights, the encoder that it was
            trained on.
        head: the head; None for SAM's files.
        encoder_state: encoder weights, names without `image_encoder.`; None if there are none.
        head_state: `mask_decoder.*` and `pe_layer.*`; None if there is no head.
        sam_decoder_state: `mask_decoder.*` of SAM's own decoder, for initialising heads.
        info: what a file of ours says about itself.
        missing: expected names that the file lacks.
        unexpected: names in the file that belong to nothing known.
        has_position: False where the head needs a positional matrix that the file lacks.
        weights: the published weights that the file is, or that a head of ours was trained on.
        random_encoder: the file says that its encoder weights are random (`write_encoder`).
    """

    path: Path
    layout: Layout
    wrapped: str | None = None
    encoder: EncoderSpec | None = None
    head: HeadSpec | None = None
    encoder_state: Mapping[str, Tensor] | None = None
    head_state: Mapping[str, Tensor] | None = None
    sam_decoder_state: Mapping[str, Tensor] | None = None
    info: HeadInfo | None = None
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    has_position: bool = True
    weights: WeightsInfo | None = None
    random_encoder: bool = False

    @cached_property
    def encoder_sha256(self) -> str | None:
        """Hash of the encoder weights in the file, or of those that a head was trained on.

        Seconds for a vit_h, hence on demand.
        """
        if self.info is not None:
            return self.info.encoder_sha256
        return None if self.encoder_state is None else weights_sha256(self.encoder_state)

    def summary(self) -> dict[str, Any]:
        """Return what the file is, as JSON values, without the weights."""
        info = self.info
        return {
            "file": str(self.path),
            "bytes": self.path.stat().st_size,
            "layout": self.layout,
            "description": LAYOUTS[self.layout],
            "wrapped": self.wrapped,
            "encoder": None if self.encoder is None else self.encoder.model_dump(mode="json"),
            "encoder_weights": self.encoder_state is not None,
            "encoder_sha256": self.encoder_sha256,
            "encoder_origin": None
            if self.weights is None
            else self.weights.model_dump(mode="json"),
            "random_encoder": self.random_encoder,
            "head": None if self.head is None else self.head.model_dump(mode="json"),
            "has_position": self.has_position,
            "sam_decoder": self.sam_decoder_state is not None,
            "classes": None if info is None else [c.model_dump(mode="json") for c in info.classes],
            "preprocess": None if info is None else info.preprocess.model_dump(mode="json"),
            "untrained": None if info is None else info.untrained,
            "training": None if info is None else info.training,
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
        }
