"""SAM's image encoder from the `segment-anything` package, for any size and token grid."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from autosam_deploy.models.states import check_state, seeded_state, state_shapes
from autosam_deploy.spec import EncoderSpec


def build_encoder(spec: EncoderSpec) -> ImageEncoderViT:
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


def resize_encoder_state(state: Mapping[str, Tensor], spec: EncoderSpec) -> dict[str, Tensor]:
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

    Raises:
        CheckpointError: a weight is missing, unknown, or of another encoder than `spec`.
    """
    height, width = spec.grid
    shapes = encoder_shapes(spec)
    tables = {"pos_embed", *(name for name in shapes if "rel_pos" in name)}
    check_state(state, shapes, resizable=tables)
    resized = dict(state)
    position = state["pos_embed"]
    if tuple(position.shape[1:3]) != spec.grid:
        grown = F.interpolate(
            position.permute(0, 3, 1, 2).float(), spec.grid, mode="bicubic", align_corners=False
        )
        resized["pos_embed"] = grown.permute(0, 2, 3, 1).to(position.dtype)
    for index in range(spec.depth):
        if spec.window_of(index):
            continue
        for name, size in (("rel_pos_h", height), ("rel_pos_w", width)):
            key = f"blocks.{index}.attn.{name}"
            resized[key] = _resize_table(state[key], 2 * size - 1)
    check_state(resized, shapes)
    return resized


def _resize_table(table: Tensor, length: int) -> Tensor:
    if table.shape[0] == length:
        return table
    grown = F.interpolate(table.t()[None].float(), length, mode="linear", align_corners=False)
    return grown[0].t().to(table.dtype)


def encoder_shapes(spec: EncoderSpec) -> dict[str, torch.Size]:
    """Return the names and shapes of an encoder's weights."""
    return state_shapes(lambda: build_encoder(spec))


def seeded_encoder_state(spec: EncoderSpec, seed: int) -> dict[str, Tensor]:
    """Return random weights that depend on nothing but `spec` and `seed`.

    None is left at the package's initial value: tables of zeros, norms of one and biases of zero
    would leave half of the attention, and every error in folding a norm or a bias, untested.
    """

    def rule(name: str, shape: torch.Size) -> tuple[float, float]:
        if "rel_pos" in name:
            return 0.0, 0.1
        if name == "pos_embed" or name.endswith("bias"):
            return 0.0, 0.02
        if len(shape) == 1:
            return 1.0, 0.1
        return 0.0, float(shape[1:].numel()) ** -0.5

    return seeded_state(encoder_shapes(spec), rule, seed=seed)
