"""Recognise a weights file and put its weights under our names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autosam_deploy.errors import CheckpointError, SpecError
from autosam_deploy.models.checkpoints.checkpoint import Checkpoint, Layout
from autosam_deploy.models.checkpoints.files import RawFile, read_file
from autosam_deploy.models.checkpoints.huggingface import is_huggingface, to_sam_names
from autosam_deploy.models.checkpoints.infer import infer_encoder, infer_head, is_sam_decoder
from autosam_deploy.models.checkpoints.info import (
    HEAD_METADATA,
    RANDOM_METADATA,
    SEGMENTER_METADATA,
    HeadInfo,
    parse_info,
)
from autosam_deploy.models.encoder import encoder_shapes
from autosam_deploy.models.heads import POSITION_KEY, head_shapes
from autosam_deploy.models.states import check_shapes, listing
from autosam_deploy.spec import AutosamHead, EncoderSpec

_ENCODER, _DECODER, _POSITION = "image_encoder.", "mask_decoder.", "pe_layer."
#: Parts of SAM that a segmenter has no use for.
_UNUSED = ("prompt_encoder.", "pixel_mean", "pixel_std")
#: Files that hold one module's own state dict show it by these names.
_BARE_ENCODER = ("patch_embed.proj.weight",)
_BARE_DECODER = ("iou_token.weight", "input_block.0.weight", "output_upscaling.0.weight")


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a weights file of any known layout.

    Nothing in the file is ever run: pickles load with `weights_only=True`, and one that refers to
    anything but weights is refused.

    Args:
        path: .pth, .pt, .pth.tar or .safetensors; told apart by content.

    Raises:
        CheckpointError: the file cannot be read, or is none of the known layouts, or its shapes
            contradict each other.
    """
    path = Path(path)
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
    elif any(name in state for name in _BARE_ENCODER):
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
        missing=missing,
        unexpected=unexpected,
        has_position=POSITION_KEY not in missing,
    )


def _read_sam(
    parts: _Parts, fields: dict[str, Any], *, layout: Layout, strangers: tuple[str, ...]
) -> Checkpoint:
    encoder: EncoderSpec | None = None
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    if parts.encoder:
        encoder = infer_encoder(parts.encoder)
        state = {f"{_ENCODER}{name}": tensor for name, tensor in parts.encoder.items()}
        missing, unexpected = _compare(state, _encoder_names(encoder), resizable=True)
    return Checkpoint(
        **fields,
        layout=layout,
        encoder=encoder,
        encoder_state=parts.encoder or None,
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
    encoder = None
    if parts.encoder:
        encoder = infer_encoder(parts.encoder)
        held = {f"{_ENCODER}{name}": tensor for name, tensor in parts.encoder.items()}
        more = _compare(held, _encoder_names(encoder), resizable=True)
        missing, unexpected = missing + more[0], unexpected + more[1]
    return Checkpoint(
        **fields,
        layout="reference-full" if parts.encoder else "reference-decoder",
        encoder=encoder,
        head=head,
        encoder_state=parts.encoder or None,
        head_state=state,
        missing=missing,
        unexpected=(*unexpected, *sorted([*parts.unknown, *parts.unused]), *strangers),
        has_position=not isinstance(head, AutosamHead) or POSITION_KEY in state,
    )


def _encoder_names(encoder: EncoderSpec) -> dict[str, torch.Size]:
    return {f"{_ENCODER}{name}": shape for name, shape in encoder_shapes(encoder).items()}


def _compare(
    state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], *, resizable: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return missing and unexpected names; refuse shapes that contradict the recognised spec.

    With `resizable`, relative-position tables may have other lengths: SAM interpolates them.
    """
    exempt = {name for name in shapes if resizable and ".attn.rel_pos_" in name}
    check_shapes(state, shapes, resizable=exempt)
    return (
        tuple(sorted(shapes.keys() - state.keys())),
        tuple(sorted(state.keys() - shapes.keys())),
    )
