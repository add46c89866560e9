from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from autosam_deploy.models.checkpoints import read_checkpoint
from autosam_deploy.models.checkpoints.huggingface import to_sam_name

# Written out by hand from SamModel's modules (transformers, models/sam/modeling_sam.py).
PAIRS = {
    "vision_encoder.pos_embed": "image_encoder.pos_embed",
    "vision_encoder.patch_embed.projection.bias": "image_encoder.patch_embed.proj.bias",
    "vision_encoder.layers.11.layer_norm1.weight": "image_encoder.blocks.11.norm1.weight",
    "vision_encoder.layers.0.layer_norm2.bias": "image_encoder.blocks.0.norm2.bias",
    "vision_encoder.layers.7.attn.qkv.weight": "image_encoder.blocks.7.attn.qkv.weight",
    "vision_encoder.layers.7.attn.rel_pos_h": "image_encoder.blocks.7.attn.rel_pos_h",
    "vision_encoder.layers.7.mlp.lin1.bias": "image_encoder.blocks.7.mlp.lin1.bias",
    "vision_encoder.neck.conv1.weight": "image_encoder.neck.0.weight",
    "vision_encoder.neck.layer_norm1.bias": "image_encoder.neck.1.bias",
    "vision_encoder.neck.conv2.weight": "image_encoder.neck.2.weight",
    "vision_encoder.neck.layer_norm2.weight": "image_encoder.neck.3.weight",
    "mask_decoder.iou_token.weight": "mask_decoder.iou_token.weight",
    "mask_decoder.mask_tokens.weight": "mask_decoder.mask_tokens.weight",
    "mask_decoder.transformer.layers.1.self_attn.q_proj.weight": (
        "mask_decoder.transformer.layers.1.self_attn.q_proj.weight"
    ),
    "mask_decoder.transformer.layers.1.layer_norm4.bias": (
        "mask_decoder.transformer.layers.1.norm4.bias"
    ),
    "mask_decoder.transformer.layers.0.mlp.lin2.weight": (
        "mask_decoder.transformer.layers.0.mlp.lin2.weight"
    ),
    "mask_decoder.transformer.layer_norm_final_attn.weight": (
        "mask_decoder.transformer.norm_final_attn.weight"
    ),
    "mask_decoder.upscale_conv1.weight": "mask_decoder.output_upscaling.0.weight",
    "mask_decoder.upscale_layer_norm.bias": "mask_decoder.output_upscaling.1.bias",
    "mask_decoder.upscale_conv2.bias": "mask_decoder.output_upscaling.3.bias",
    "mask_decoder.output_hypernetworks_mlps.3.proj_in.weight": (
        "mask_decoder.output_hypernetworks_mlps.3.layers.0.weight"
    ),
    "mask_decoder.output_hypernetworks_mlps.0.layers.0.bias": (
        "mask_decoder.output_hypernetworks_mlps.0.layers.1.bias"
    ),
    "mask_decoder.output_hypernetworks_mlps.0.proj_out.bias": (
        "mask_decoder.output_hypernetworks_mlps.0.layers.2.bias"
    ),
    "mask_decoder.iou_prediction_head.proj_in.bias": (
        "mask_decoder.iou_prediction_head.layers.0.bias"
    ),
    "mask_decoder.iou_prediction_head.layers.0.weight": (
        "mask_decoder.iou_prediction_head.layers.1.weight"
    ),
    "mask_decoder.iou_prediction_head.proj_out.weight": (
        "mask_decoder.iou_prediction_head.layers.2.weight"
    ),
    "shared_image_embedding.positional_embedding": (
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    ),
}


@pytest.mark.parametrize(("name", "expected"), PAIRS.items())
def test_names(name: str, expected: str) -> None:
    assert to_sam_name(name) == expected


def huggingface_name(name: str) -> str:
    """SAM's name -> SamModel's, as convert_sam_to_hf.py replaces parts of it in turn."""
    parts = name.split(".")
    if parts[0] == "image_encoder":
        neck = dict(zip("0123", ("conv1", "layer_norm1", "conv2", "layer_norm2"), strict=True))
        if parts[1] == "neck":
            parts[2] = neck[parts[2]]
        names = {"image_encoder": "vision_encoder", "blocks": "layers", "proj": "projection"}
        names |= {"norm1": "layer_norm1", "norm2": "layer_norm2"}
        if "attn" in parts:
            del names["proj"]
        return ".".join(names.get(part, part) for part in parts)
    if parts[1] == "output_upscaling":
        layer = {"0": "upscale_conv1", "1": "upscale_layer_norm", "3": "upscale_conv2"}[parts[2]]
        return f"mask_decoder.{layer}.{parts[3]}"
    if parts[1] in {"output_hypernetworks_mlps", "iou_prediction_head"}:
        layer = {"0": "proj_in", "1": "layers.0", "2": "proj_out"}[parts[-2]]
        return ".".join([*parts[:-3], layer, parts[-1]])
    return ".".join(f"layer_{p}" if p.startswith("norm") else p for p in parts)


def test_a_whole_file(
    tmp_path: Path, sam_state: dict[str, Tensor], encoder_state: dict[str, Tensor]
) -> None:
    state = {
        huggingface_name(name): tensor
        for name, tensor in sam_state.items()
        if name.startswith(("image_encoder.", "mask_decoder."))
    }
    assert "vision_encoder.layers.2.layer_norm2.weight" in state
    state["shared_image_embedding.positional_embedding"] = torch.zeros(2, 16)
    state["prompt_encoder.shared_embedding.positional_embedding"] = torch.zeros(2, 16)
    state["prompt_encoder.mask_embed.conv1.weight"] = torch.zeros(4, 1, 2, 2)
    save_file(state, tmp_path / "model.safetensors")
    found = read_checkpoint(tmp_path / "model.safetensors")
    assert (found.layout, found.missing, found.unexpected) == ("huggingface-sam", (), ())
    assert found.encoder_state is not None
    assert found.encoder_state.keys() == encoder_state.keys()
    assert all(torch.equal(found.encoder_state[k], v) for k, v in encoder_state.items())
    decoder = {k for k in sam_state if k.startswith("mask_decoder.")}
    assert found.sam_decoder_state is not None
    assert found.sam_decoder_state.keys() == decoder


def test_the_vision_encoder_by_itself(tmp_path: Path, encoder_state: dict[str, Tensor]) -> None:
    state = {huggingface_name(f"image_encoder.{name}"): t for name, t in encoder_state.items()}
    save_file(state, tmp_path / "model.safetensors")
    found = read_checkpoint(tmp_path / "model.safetensors")
    assert (found.layout, found.sam_decoder_state) == ("huggingface-sam", None)
    assert found.missing == found.unexpected == ()
