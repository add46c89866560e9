"""Names of Hugging Face's SamModel -> SAM's own names.

Facts from huggingface/transformers, src/transformers/models/sam/convert_sam_to_hf.py (the opposite
direction) and modeling_sam.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_POSITION = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_WHOLE = {
    "shared_image_embedding.positional_embedding": _POSITION,
    "prompt_encoder.shared_embedding.positional_embedding": _POSITION,
}
_Rules = tuple[tuple[re.Pattern[str], str], ...]
_ENCODER: _Rules = (
    (re.compile(r"^vision_encoder\."), "image_encoder."),
    (re.compile(r"\.patch_embed\.projection\."), ".patch_embed.proj."),
    (re.compile(r"\.neck\.conv1\."), ".neck.0."),
    (re.compile(r"\.neck\.layer_norm1\."), ".neck.1."),
    (re.compile(r"\.neck\.conv2\."), ".neck.2."),
    (re.compile(r"\.neck\.layer_norm2\."), ".neck.3."),
    (re.compile(r"\.layers\.(\d+)\."), r".blocks.\1."),
    (re.compile(r"\.layer_norm([12])\."), r".norm\1."),
)
_DECODER: _Rules = (
    (re.compile(r"\.upscale_conv1\."), ".output_upscaling.0."),
    (re.compile(r"\.upscale_layer_norm\."), ".output_upscaling.1."),
    (re.compile(r"\.upscale_conv2\."), ".output_upscaling.3."),
    (re.compile(r"\.layer_norm([1-4]|_final_attn)\."), r".norm\1."),
)
# The three layers of its perceptrons are proj_in, layers.0, proj_out.
_PERCEPTRON = re.compile(
    r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))"
    r"\.(proj_in|layers\.0|proj_out)\."
)
_PERCEPTRON_LAYERS = {"proj_in": "layers.0", "layers.0": "layers.1", "proj_out": "layers.2"}


def is_huggingface(names: Mapping[str, Tensor]) -> bool:
    """Tell whether these are SamModel's names."""
    return any(name.startswith("vision_encoder.") for name in names)


def to_sam_name(name: str) -> str:
    """Translate one name; names that SAM and SamModel share stay as they are."""
    if name in _WHOLE:
        return _WHOLE[name]
    if name.startswith("vision_encoder."):
        rules = _ENCODER
    elif name.startswith("mask_decoder."):
        name = _PERCEPTRON.sub(lambda m: f"{m[1]}.{_PERCEPTRON_LAYERS[m[2]]}.", name)
        rules = _DECODER
    else:
        return name
    for pattern, replacement in rules:
        name = pattern.sub(replacement, name)
    return name


def to_sam_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a whole state dict."""
    return {to_sam_name(name): tensor for name, tensor in state.items()}
