"""What a head file of ours says about itself, as JSON in the metadata of its safetensors file."""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import CheckpointError
from autosam_deploy.spec import ClassSpec, HeadSpec, ModelSpec, PreprocessSpec, WeightsInfo
from autosam_deploy.strict import Strict, parse_spec

#: Metadata keys: a head by itself, and a whole segmenter (encoder and head, flat names).
HEAD_METADATA = "autosam_head"
SEGMENTER_METADATA = "autosam_segmenter"
#: Metadata key of an encoder by itself whose weights are random; its value is their seed.
RANDOM_METADATA = "autosam_random_encoder"
_SCHEMA_VERSION = 2


class HeadInfo(Strict):
    """A trained head: what it is, what it labels, and the encoder it was trained on.

    `encoder.image_size` is the size it was trained at. `encoder_sha256` is `weights_sha256` of the
    encoder's weights as their own file holds them (names without `image_encoder.`, tables not
    resized); `encoder_weights` are the published ones that they are, if known. `untrained` marks
    random weights. `training` is free for the trainer's record.
    """

    schema_version: Literal[1, 2] = 2
    head: HeadSpec
    classes: Annotated[tuple[ClassSpec, ...], Field(strict=False)]
    preprocess: PreprocessSpec
    encoder: EncoderSpec
    encoder_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    encoder_weights: WeightsInfo | None = None
    untrained: bool = False
    training: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.model_spec()
        return self

    def model_spec(self) -> ModelSpec:
        """Return the segmenter that this head makes with its encoder."""
        return ModelSpec(
            encoder=self.encoder, head=self.head, classes=self.classes, preprocess=self.preprocess
        )


def parse_info(text: str) -> HeadInfo:
    """Read a `HeadInfo` from metadata.

    Raises:
        CheckpointError: written by a newer version.
        SpecError: not a valid `HeadInfo`.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError("its metadata is not JSON", got=str(error)) from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > _SCHEMA_VERSION:
        raise CheckpointError(
            "it was written by a newer autosam-deploy",
            got=f"schema version {version}",
            expected=f"{_SCHEMA_VERSION} or lower",
            todo="update autosam-deploy",
        )
    return parse_spec(HeadInfo, text, what="head metadata")
