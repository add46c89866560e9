"""Which encoder and which head a set of weights is for, from names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from autosam_deploy.errors import CheckpointError
from autosam_deploy.spec import (
    ENCODERS,
    AutosamHead,
    CnnHead,
    EncoderSpec,
    HeadSpec,
    LinearHead,
    parse_spec,
)

State = Mapping[str, Tensor]

#: Name of an encoder whose shapes are none of `spec.ENCODERS`.
CUSTOM = "custom"
#: AutoSAM builds its decoder with 8 attention heads (models/build_autosam_seg_model.py); shapes
#: do not show the number.
_REFERENCE_HEADS = 8
_DECODER = "mask_decoder."


def _shape(state: State, name: str, *, rank: int, owner: str) -> tuple[int, ...]:
    if name not in state:
        raise CheckpointError(f"its {owner} lacks '{name}'", expected=f"the weights of {owner}")
    shape = tuple(state[name].shape)
    if len(shape) != rank or 0 in shape:
        raise CheckpointError(
            f"weight '{name}' has an impossible shape", got=str(shape), expected=f"{rank} axes"
        )
    return shape


def count_blocks(state: State, prefix: str) -> int:
    """Return one more than the largest N in names `<prefix>N.*`."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,3})\.")
    found = (pattern.match(name) for name in state)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def infer_encoder(state: State) -> EncoderSpec:
    """Recognise SAM's image encoder.

    Width, depth, heads and MLP come from shapes, the image size from the positional table, windows
    and global blocks from the lengths of the relative-position tables. One of `spec.ENCODERS` is
    preferred where it fits; others are named `custom`.

    Args:
        state: names without `image_encoder.`.

    Raises:
        CheckpointError: the weights are not those of SAM's ViT.
        SpecError: the shapes contradict each other.
    """
    owner = "image encoder (a SAM ViT: vit_b, vit_l, vit_h)"
    width, _, patch, _ = _shape(state, "patch_embed.proj.weight", rank=4, owner=owner)
    _, rows, columns, _ = _shape(state, "pos_embed", rank=4, owner=owner)
    hidden, _ = _shape(state, "blocks.0.mlp.lin1.weight", rank=2, owner=owner)
    out_chans, *_ = _shape(state, "neck.0.weight", rank=4, owner=owner)
    depth = count_blocks(state, "blocks.")
    tables = {
        index: (
            _shape(state, f"blocks.{index}.attn.rel_pos_h", rank=2, owner=owner),
            _shape(state, f"blocks.{index}.attn.rel_pos_w", rank=2, owner=owner),
        )
        for index in range(depth)
    }
    shared = {
        "embed_dim": width,
        "depth": depth,
        "num_heads": max(1, width // tables[0][0][1]),
        "patch_size": patch,
        "mlp_ratio": hidden / width,
        "out_chans": out_chans,
    }
    image_size = (rows * patch, columns * patch)
    lengths = {index: (h[0], w[0]) for index, (h, w) in tables.items()}
    for known in ENCODERS.values():
        if known.model_dump(include=set(shared)) == shared and _windows_fit(known, lengths):
            return known.resized(image_size)
    layout = _infer_windows(lengths, (2 * rows - 1, 2 * columns - 1))
    fields = {"name": CUSTOM, "image_size": image_size, **shared, **layout}
    return parse_spec(EncoderSpec, fields, what="the image encoder")


def _windows_fit(spec: EncoderSpec, lengths: Mapping[int, tuple[int, int]]) -> bool:
    """Tell whether windowed blocks have the tables of `spec`; global ones can be resized."""
    return all(
        pair == (2 * spec.window_size - 1, 2 * spec.window_size - 1)
        for index, pair in lengths.items()
        if spec.window_of(index)
    )


def _infer_windows(
    lengths: Mapping[int, tuple[int, int]], whole: tuple[int, int]
) -> dict[str, object]:
    """Return `global_attn_indexes` and `window_size`: blocks that do not span the grid."""
    global_blocks = tuple(index for index, pair in lengths.items() if pair == whole)
    others = {pair for pair in lengths.values() if pair != whole}
    if not others:
        return {"global_attn_indexes": global_blocks, "window_size": 0}
    height, width = min(others)
    if len(others) > 1 or height != width or height % 2 == 0:
        raise CheckpointError(
            "the relative-position tables fit no encoder",
            got=f"lengths {sorted(others)} beside the grid's {whole}",
            expected="one odd length for all windowed blocks",
        )
    return {"global_attn_indexes": global_blocks, "window_size": (height + 1) // 2}


def is_sam_decoder(state: State) -> bool:
    """Tell SAM's own mask decoder, with its single IoU token, from an AutoSAM head."""
    tokens = state.get(f"{_DECODER}iou_token.weight")
    return tokens is not None and tokens.dim() == 2 and tokens.shape[0] == 1


def infer_head(state: State) -> HeadSpec:
    """Recognise a head of the reference implementation.

    Two facts do not show in shapes and are taken from its code: 8 attention heads (autosam) and
    the ReLU on the logits (linear).

    Args:
        state: `mask_decoder.*` names.

    Raises:
        CheckpointError: none of the three heads.
        SpecError: the shapes contradict each other.
    """
    if f"{_DECODER}iou_token.weight" in state:
        return _infer_autosam(state)
    if f"{_DECODER}input_block.0.weight" in state:
        return _infer_cnn(state)
    if f"{_DECODER}final.2.weight" in state:
        return _infer_linear(state)
    raise CheckpointError(
        "its mask decoder is none of the heads autosam, cnn, linear",
        got=f"'{min(state)}'" if state else "no weights",
    )


def _infer_autosam(state: State) -> AutosamHead:
    owner = "autosam head"
    classes, width = _shape(state, f"{_DECODER}iou_token.weight", rank=2, owner=owner)
    layers = f"{_DECODER}transformer.layers."
    hidden, _ = _shape(state, f"{layers}0.mlp.lin1.weight", rank=2, owner=owner)
    fields = {
        "num_classes": classes,
        "embed_dim": width,
        "transformer_depth": count_blocks(state, layers),
        "num_heads": _REFERENCE_HEADS,
        "mlp_dim": hidden,
    }
    return parse_spec(AutosamHead, fields, what="the autosam head")


def _infer_cnn(state: State) -> CnnHead:
    owner = "cnn head"
    _, width, *_ = _shape(state, f"{_DECODER}input_block.0.weight", rank=4, owner=owner)
    classes, top, *_ = _shape(state, f"{_DECODER}final.1.weight", rank=4, owner=owner)
    fields = {
        "num_classes": classes,
        "embed_dim": width,
        "depth": count_blocks(state, f"{_DECODER}blocks."),
        "top_channels": top,
    }
    return parse_spec(CnnHead, fields, what="the cnn head")


def _infer_linear(state: State) -> LinearHead:
    owner = "linear head"
    width, *_ = _shape(state, f"{_DECODER}output_upscaling.0.weight", rank=4, owner=owner)
    classes, *_ = _shape(state, f"{_DECODER}final.2.weight", rank=4, owner=owner)
    fields = {"num_classes": classes, "embed_dim": width, "final_relu": True}
    return parse_spec(LinearHead, fields, what="the linear head")
