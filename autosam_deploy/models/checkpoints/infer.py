"""Which head a set of weights is for, from names and shapes alone."""

from __future__ import annotations

from autosam_deploy.errors import CheckpointError
from autosam_deploy.models.states import State, count_blocks, shape_of
from autosam_deploy.spec import AutosamHead, CnnHead, HeadSpec, LinearHead
from autosam_deploy.strict import parse_spec

#: AutoSAM builds its decoder with 8 attention heads (models/build_autosam_seg_model.py); shapes
#: do not show the number.
_REFERENCE_HEADS = 8
_DECODER = "mask_decoder."


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
    classes, width = shape_of(state, f"{_DECODER}iou_token.weight", rank=2, owner=owner)
    layers = f"{_DECODER}transformer.layers."
    hidden, _ = shape_of(state, f"{layers}0.mlp.lin1.weight", rank=2, owner=owner)
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
    _, width, *_ = shape_of(state, f"{_DECODER}input_block.0.weight", rank=4, owner=owner)
    classes, top, *_ = shape_of(state, f"{_DECODER}final.1.weight", rank=4, owner=owner)
    fields = {
        "num_classes": classes,
        "embed_dim": width,
        "depth": count_blocks(state, f"{_DECODER}blocks."),
        "top_channels": top,
    }
    return parse_spec(CnnHead, fields, what="the cnn head")


def _infer_linear(state: State) -> LinearHead:
    owner = "linear head"
    width, *_ = shape_of(state, f"{_DECODER}output_upscaling.0.weight", rank=4, owner=owner)
    classes, *_ = shape_of(state, f"{_DECODER}final.2.weight", rank=4, owner=owner)
    fields = {"num_classes": classes, "embed_dim": width, "final_relu": True}
    return parse_spec(LinearHead, fields, what="the linear head")
