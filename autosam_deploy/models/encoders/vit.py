"""SAM's image encoder from the `segment-anything` package, for any size and token grid."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from autosam_deploy.encoders.base import CUSTOM
from autosam_deploy.encoders.vit import VITS, VitEncoder
from autosam_deploy.errors import CheckpointError
from autosam_deploy.models.states import State, count_blocks, shape_of
from autosam_deploy.strict import parse_spec

_OWNER = "image encoder (a SAM ViT: vit_b, vit_l, vit_h)"
_POSITION = "pos_embed"
_RELATIVE = re.compile(r"blocks\.\d+\.attn\.rel_pos_[hw]")


def build(spec: VitEncoder) -> ImageEncoderViT:
    """Build an encoder with untrained weights, shaped for `spec.grid`.

    Maps (B, 3, H, W) to (B, out_chans, H / patch, W / patch). The package knows square images
    only; for others the positional tables are replaced by ones of the right lengths, which its
    forward pass takes as they are.
    """
    encoder = ImageEncoderViT(
        img_size=max(spec.image_size),
        patch_size=spec.patch_size,
        embed_dim=spec.embed_dim,
        depth=spec.depth,
        num_heads=spec.num_heads,
        mlp_ratio=spec.mlp_ratio,
        out_chans=spec.out_chans,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=spec.window_size,
        global_attn_indexes=spec.global_attn_indexes,
    )
    height, width = spec.grid
    encoder.pos_embed = nn.Parameter(torch.zeros(1, height, width, spec.embed_dim))
    for index in range(spec.depth):
        if spec.window_of(index):
            continue
        attention = encoder.blocks[index].attn
        attention.rel_pos_h = nn.Parameter(torch.zeros(2 * height - 1, spec.head_dim))
        attention.rel_pos_w = nn.Parameter(torch.zeros(2 * width - 1, spec.head_dim))
    return encoder


def is_resizable(name: str) -> bool:
    """Tell whether a weight is a positional table, whose length follows the image size."""
    return name == _POSITION or is_relative(name)


def is_relative(name: str) -> bool:
    """Tell whether a weight is a relative table: SAM takes those of any length."""
    return _RELATIVE.fullmatch(name) is not None


def resize(state: State, spec: VitEncoder) -> dict[str, Tensor]:
    """Interpolate the positional tables of an encoder's weights to another token grid.

    The absolute embedding is resized bicubically, without antialiasing and with
    align_corners=False, as the ViTDet that SAM's encoder descends from does it (`get_abs_pos` of
    detectron2/modeling/backbone/utils.py); SAM itself knows one size only. The relative tables of
    global blocks are resized linearly, as `get_rel_pos` does in every pass
    (segment_anything/modeling/image_encoder.py): done once here, all that read the state see one
    set of tables whose shapes agree with the spec. Windows keep their size, hence their tables.
    Tensors that fit already are returned as they are.

    Args:
        state: weights with the keys of `ImageEncoderViT`, for any grid.
        spec: the encoder with the wanted `image_size`.

    Returns:
        The same keys with tables for `spec.grid`.
    """
    height, width = spec.grid
    resized = dict(state)
    position = state[_POSITION]
    if tuple(position.shape[1:3]) != spec.grid:
        grown = F.interpolate(
            position.permute(0, 3, 1, 2).float(), spec.grid, mode="bicubic", align_corners=False
        )
        resized[_POSITION] = grown.permute(0, 2, 3, 1).to(position.dtype)
    for index in range(spec.depth):
        if spec.window_of(index):
            continue
        for name, size in (("rel_pos_h", height), ("rel_pos_w", width)):
            key = f"blocks.{index}.attn.{name}"
            resized[key] = _resize_table(state[key], 2 * size - 1)
    return resized


def _resize_table(table: Tensor, length: int) -> Tensor:
    if table.shape[0] == length:
        return table
    grown = F.interpolate(table.t()[None].float(), length, mode="linear", align_corners=False)
    return grown[0].t().to(table.dtype)


def random_weight(name: str, shape: torch.Size) -> tuple[float, float]:
    """Return mean and standard deviation of a random weight.

    None is left at the package's initial value: tables of zeros, norms of one and biases of zero
    would leave half of the attention, and every error in folding a norm or a bias, untested.
    """
    if "rel_pos" in name:
        return 0.0, 0.1
    if name == _POSITION or name.endswith("bias"):
        return 0.0, 0.02
    if len(shape) == 1:
        return 1.0, 0.1
    return 0.0, float(shape[1:].numel()) ** -0.5


def infer(state: State) -> VitEncoder:
    """Recognise the encoder that weights are of.

    Width, depth, heads and MLP come from shapes, the image size from the positional table, windows
    and global blocks from the lengths of the relative-position tables. One of `VITS` is
    preferred where it fits; others are named `custom`.

    Args:
        state: names without `image_encoder.`.

    Raises:
        CheckpointError: the weights are not those of SAM's ViT.
        SpecError: the shapes contradict each other.
    """
    width, _, patch, _ = shape_of(state, "patch_embed.proj.weight", rank=4, owner=_OWNER)
    _, rows, columns, _ = shape_of(state, _POSITION, rank=4, owner=_OWNER)
    hidden, _ = shape_of(state, "blocks.0.mlp.lin1.weight", rank=2, owner=_OWNER)
    out_chans, *_ = shape_of(state, "neck.0.weight", rank=4, owner=_OWNER)
    depth = count_blocks(state, "blocks.")
    tables = {
        index: (
            shape_of(state, f"blocks.{index}.attn.rel_pos_h", rank=2, owner=_OWNER),
            shape_of(state, f"blocks.{index}.attn.rel_pos_w", rank=2, owner=_OWNER),
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
    for known in VITS:
        if known.model_dump(include=set(shared)) == shared and _windows_fit(known, lengths):
            return known.resized(image_size)
    layout = _infer_windows(lengths, (2 * rows - 1, 2 * columns - 1))
    fields = {"name": CUSTOM, "image_size": image_size, **shared, **layout}
    return parse_spec(VitEncoder, fields, what="the image encoder")


def _windows_fit(spec: VitEncoder, lengths: Mapping[int, tuple[int, int]]) -> bool:
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
