"""Write weights as safetensors: heads, encoders, whole segmenters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from autosam_deploy.errors import OutputError
from autosam_deploy.files import atomic_file
from autosam_deploy.models.checkpoints.info import (
    HEAD_METADATA,
    RANDOM_METADATA,
    SEGMENTER_METADATA,
    HeadInfo,
)
from autosam_deploy.models.encoders import encoder_shapes, read_encoder
from autosam_deploy.models.heads import head_shapes
from autosam_deploy.models.states import check_state

_ENCODER = "image_encoder."


def write_head(path: str | os.PathLike[str], state: Mapping[str, Tensor], info: HeadInfo) -> None:
    """Write a head file, whole or not at all.

    Args:
        path: `head.safetensors` by custom.
        state: `mask_decoder.*` and, for the autosam head, `pe_layer.*`; stored as float32.
        info: what the file says about itself.

    Raises:
        CheckpointError: the weights are not those of `info.head`.
        OutputError: the file cannot be written.
    """
    check_state(state, head_shapes(info.head))
    _write(Path(path), state, {HEAD_METADATA: info.model_dump_json()})


def write_segmenter(
    path: str | os.PathLike[str], state: Mapping[str, Tensor], info: HeadInfo
) -> None:
    """Write the weights of a whole segmenter (a bundle's `weights.safetensors`).

    Args:
        path: the file.
        state: `image_encoder.*`, `mask_decoder.*` and, for the autosam head, `pe_layer.*`, the
            encoder's tables fitting `info.encoder.image_size`; stored as float32.
        info: what the file says about itself (`Assembled.info()`).

    Raises:
        CheckpointError: the weights are not those of `info`.
        OutputError: the file cannot be written.
    """
    encoder = {f"{_ENCODER}{name}": s for name, s in encoder_shapes(info.encoder).items()}
    check_state(state, {**encoder, **head_shapes(info.head)})
    _write(Path(path), state, {SEGMENTER_METADATA: info.model_dump_json()})


def write_encoder(
    path: str | os.PathLike[str], state: Mapping[str, Tensor], *, random_seed: int | None = None
) -> None:
    """Write encoder weights in SAM's layout (`image_encoder.*`).

    Args:
        path: the file.
        state: names without `image_encoder.`; stored as float32.
        random_seed: of random weights; the file then says that they are random, and whatever is
            measured with them can say so too.

    Raises:
        CheckpointError: the weights are not those of an image encoder.
        OutputError: the file cannot be written.
    """
    check_state(state, encoder_shapes(read_encoder(state)[0]))
    prefixed = {f"{_ENCODER}{name}": tensor for name, tensor in state.items()}
    metadata = {"format": "pt"} if random_seed is None else {RANDOM_METADATA: str(random_seed)}
    _write(Path(path), prefixed, metadata)


def _write(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    # One entry of metadata and no more: the library writes several in an order that changes from
    # run to run, and equal weights must make equal files.
    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in state.items()
    }
    with atomic_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            # The library hides the operating system's error (a full disk) in its own.
            raise OutputError(
                f"cannot write '{path}'",
                got=str(error),
                expected="a writable folder with free space",
                todo="free space or choose another output path; nothing was changed",
            ) from error
