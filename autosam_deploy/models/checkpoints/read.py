"""Recognise a weights file and put its weights under our names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import CheckpointError, SpecError
from autosam_deploy.models.checkpoints.checkpoint import Checkpoint, Layout
from autosam_deploy.models.checkpoints.files import RawFile, read_file
from autosam_deploy.models.checkpoints.huggingface import is_huggingface, to_sam_names
from autosam_deploy.models.checkpoints.infer import infer_head, is_sam_decoder
from autosam_deploy.models.checkpoints.info import (
    HEAD_METADATA,
    RANDOM_METADATA,
    SEGMENTER_METADATA,
    HeadInfo,
    parse_info,
)
from autosam_deploy.models.encoders import (
    encoder_shapes,
    kind_of,
    read_encoder,
    shapes_of_any_length,
)
from autosam_deploy.models.heads import POSITION_KEY, head_shapes
from autosam_deploy.models.named import find_weights, known_weights
from autosam_deploy.models.states import check_shapes, listing
from autosam_deploy.spec import AutosamHead

_ENCODER, _DECODER, _POSITION = "image_encoder.", "mask_decoder.", "pe_layer."
#: Parts of SAM that a segmenter has no use for.
_UNUSED = ("prompt_encoder.", "pixel_mean", "pixel_std")
#: Files that hold one module's own state dict show it by these names.
_BARE_DECODER = ("iou_token.weight", "input_block.0.weight", "output_upscaling.0.weight")


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a weights file of any known layout.

    Nothing in the file is ever run: pickles load with `weights_only=True`, and one that refers to
    anything but weights is refused.

    Args:
        path: .pth, .pt, .pth.tar or .safetensors, told apart by content; or the name of published
            weights (`models.named`).

    Raises:
        CheckpointError: the file cannot be read, or is none of the known layouts, or its shapes
            contradict each other.
        MissingExtraError: a name whose file is not installed.
    """
    path = find_weights(Path(path))
    try:
        return _recognise(path, read_file(path))
    except (CheckpointError, SpecError) as error:
        raise CheckpointError(f"checkpoint '{path}' cannot be used: {error}") from error


def _recognise(path: Path, raw: RawFile) -> Checkpoint:
    for key, layout in _OURS.items():
        if key in raw.metadata:
            return _read_ours(path, raw, layout=layout, info=parse_info(raw.metadata[key]))
    state = raw.state
    huggingface = is_huggingface(state)
    if huggingface:
        state = to_sam_names(state)
    elif kind_of(state) is not None:
        state = {f"{_ENCODER}{name}": tensor for name, tensor in state.items()}
    elif any(name in state for name in _BARE_DECODER):
        state = {f"{_DECODER}{name}": tensor for name, tensor in state.items()}
    parts = _Parts(state)
    if not parts.encoder and not parts.decoder:
        raise CheckpointError(
            "its weights are of no known layout",
            got=f"names such as {listing(sorted(state))}",
            expected="an AutoSAM model or head, or SAM's weights",
        )
    fields: dict[str, Any] = {
        "path": path,
        "wrapped": raw.wrapped,
        "weights": known_weights(path),
        "random_encoder": RANDOM_METADATA in raw.metadata,
    }
    if is_sam_decoder(parts.decoder) or not parts.decoder:
        layout = "huggingface-sam" if huggingface else "sam"
        return _read_sam(parts, fields, layout=layout, strangers=raw.strangers)
    return _read_reference(parts, fields, strangers=raw.strangers)


class _Parts:
    """Weights sorted by the part of the model that they belong to."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.encoder: dict[str, Tensor] = {}
        self.decoder: dict[str, Tensor] = {}
        self.position: dict[str, Tensor] = {}
        self.unused: list[str] = []
        self.unknown: list[str] = []
        for name, tensor in state.items():
            if name.startswith(_ENCODER):
                self.encoder[name[len(_ENCODER) :]] = tensor
            elif name.startswith(_DECODER):
                self.decoder[name] = tensor
            elif name.startswith(_POSITION):
                self.position[name] = tensor
            elif name.startswith(_UNUSED):
                self.unused.append(name)
            else:
                self.unknown.append(name)


_OURS: dict[str, Layout] = {HEAD_METADATA: "autosam-head", SEGMENTER_METADATA: "segmenter"}


def _read_ours(path: Path, raw: RawFile, *, layout: Layout, info: HeadInfo) -> Checkpoint:
    parts = _Parts(raw.state)
    shapes = head_shapes(info.head)
    if layout == "segmenter":
        shapes.update(_encoder_names(info.encoder))
    missing, unexpected = _compare(raw.state, shapes)
    return Checkpoint(
        path=path,
        layout=layout,
        encoder=info.encoder,
        head=info.head,
        encoder_state=parts.encoder or None,
        head_state={**parts.decoder, **parts.position},
        info=info,
        weights=info.encoder_weights,
        missing=missing,
        unexpected=unexpected,
        has_position=POSITION_KEY not in missing,
    )


def _read_sam(
    parts: _Parts, fields: dict[str, Any], *, layout: Layout, strangers: tuple[str, ...]
) -> Checkpoint:
    encoder, weights, missing, unexpected = _read_encoder(parts)
    return Checkpoint(
        **fields,
        layout=layout,
        encoder=encoder,
        encoder_state=weights,
        sam_decoder_state=parts.decoder or None,
        missing=missing,
        unexpected=(*unexpected, *sorted([*parts.unknown, *parts.position]), *strangers),
    )


def _read_reference(
    parts: _Parts, fields: dict[str, Any], *, strangers: tuple[str, ...]
) -> Checkpoint:
    head = infer_head(parts.decoder)
    shapes, state = head_shapes(head), {**parts.decoder, **parts.position}
    missing, unexpected = _compare(state, shapes)
    encoder, weights, *odd = _read_encoder(parts)
    return Checkpoint(
        **fields,
        layout="reference-full" if parts.encoder else "reference-decoder",
        encoder=encoder,
        head=head,
        encoder_state=weights,
        head_state=state,
        missing=(*missing, *odd[0]),
        unexpected=(
            *unexpected,
            *odd[1],
            *sorted([*parts.unknown, *parts.unused]),
            *strangers,
        ),
        has_position=not isinstance(head, AutosamHead) or POSITION_KEY in state,
    )


def _encoder_names(encoder: EncoderSpec) -> dict[str, torch.Size]:
    return {f"{_ENCODER}{name}": shape for name, shape in encoder_shapes(encoder).items()}


def _read_encoder(
    parts: _Parts,
) -> tuple[EncoderSpec | None, dict[str, Tensor] | None, tuple[str, ...], tuple[str, ...]]:
    """Return encoder, weights, missing and unexpected names; nothing where there is none."""
    if not parts.encoder:
        return None, None, (), ()
    encoder, weights = read_encoder(parts.encoder)
    held = {f"{_ENCODER}{name}": tensor for name, tensor in weights.items()}
    exempt = frozenset(f"{_ENCODER}{name}" for name in shapes_of_any_length(encoder))
    return encoder, weights, *_compare(held, _encoder_names(encoder), resizable=exempt)


def _compare(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    *,
    resizable: frozenset[str] = frozenset(),
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return missing and unexpected names; refuse shapes that contradict the recognised spec.

    `resizable` are tables that may have other lengths: SAM interpolates its relative ones.
    """
    check_shapes(state, shapes, resizable=resizable)
    return (
        tuple(sorted(shapes.keys() - state.keys())),
        tuple(sorted(state.keys() - shapes.keys())),
    )
