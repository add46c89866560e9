"""The three heads: embedding (B, C, h, w) -> low-resolution logits (B, K, h', w')."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autosam_deploy.errors import CheckpointError
from autosam_deploy.models.heads.autosam import AutosamDecoder, PositionEncoding
from autosam_deploy.models.heads.cnn import CnnDecoder
from autosam_deploy.models.heads.linear import LinearDecoder
from autosam_deploy.models.states import seeded_state, state_shapes
from autosam_deploy.spec import AutosamHead, CnnHead, HeadSpec

#: The positional matrix in a head's state: the one weight that AutoSAM never takes from SAM.
POSITION_KEY = "pe_layer.positional_encoding_gaussian_matrix"
_NOT_FROM_SAM = ("iou", "mask_tokens", "pe_layer")


def build_decoder(spec: HeadSpec) -> tuple[nn.Module, PositionEncoding | None]:
    """Return an untrained decoder and, for the autosam head, its positional encoding."""
    if isinstance(spec, AutosamHead):
        return AutosamDecoder(spec), PositionEncoding(spec.embed_dim // 2)
    if isinstance(spec, CnnHead):
        return CnnDecoder(spec), None
    return LinearDecoder(spec), None


def decode(decoder: nn.Module, position: PositionEncoding | None, embedding: Tensor) -> Tensor:
    """Decode an embedding (B, C, h, w) to low-resolution logits (B, K, h', w')."""
    if position is None:
        out: Tensor = decoder(embedding)
    else:
        out = decoder(embedding, position((embedding.shape[2], embedding.shape[3])))
    return out


class Head(nn.Module):
    """What turns an embedding (B, C, h, w) into low-resolution logits (B, K, h', w').

    State-dict keys are those of the reference without its encoder: `mask_decoder.*` and, for the
    autosam head, `pe_layer.positional_encoding_gaussian_matrix`. h' = 4 h, except for cnn heads
    of other depths than 2 and 4 (see `heads.cnn.upsampling_factor`).
    """

    def __init__(self, spec: HeadSpec) -> None:
        """Build an untrained head."""
        super().__init__()
        self.spec = spec
        self.mask_decoder, self.pe_layer = build_decoder(spec)

    def forward(self, embedding: Tensor) -> Tensor:
        """Decode an embedding."""
        return decode(self.mask_decoder, self.pe_layer, embedding)


def head_shapes(spec: HeadSpec) -> dict[str, torch.Size]:
    """Return the names and shapes of a head's weights."""
    return state_shapes(lambda: Head(spec))


def seeded_head_state(spec: HeadSpec, seed: int) -> dict[str, Tensor]:
    """Return random head weights that depend on nothing but `spec` and `seed`.

    Scaled so that logits stay of the order of one through any depth.
    """

    def rule(name: str, shape: torch.Size) -> tuple[float, float]:
        if name == POSITION_KEY or name.endswith(("iou_token.weight", "mask_tokens.weight")):
            return 0.0, 1.0
        if name.endswith("bias"):
            return 0.0, 0.02
        if len(shape) == 1:
            return 1.0, 0.1
        if len(shape) == 2:
            return 0.0, float(shape[1]) ** -0.5
        # Transposed kernels are (in, out, 2, 2) with stride 2: an output sums over `in` only.
        fan_in = shape[0] if shape[2:] == (2, 2) else shape[1:].numel()
        return 0.0, (2.0 / fan_in) ** 0.5

    return seeded_state(head_shapes(spec), rule, seed=seed)


def initialise_from_sam(
    state: Mapping[str, Tensor], sam_decoder_state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Put weights of SAM's own mask decoder into an autosam head, as AutoSAM does for training.

    Everything that SAM has under the same name is taken, except mask tokens and whatever has "iou"
    in its name (models/build_autosam_seg_model.py). The positional matrix stays as it is.

    Args:
        state: a head's state (`mask_decoder.*`, `pe_layer.*`).
        sam_decoder_state: `mask_decoder.*` of a SAM checkpoint.

    Raises:
        CheckpointError: a weight of that name has another shape.
    """
    taken = {
        name: tensor.clone()
        for name, tensor in sam_decoder_state.items()
        if name in state and not any(part in name for part in _NOT_FROM_SAM)
    }
    for name, tensor in taken.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(
                f"SAM's weight '{name}' does not fit the head",
                got=f"shape {tuple(tensor.shape)}",
                expected=str(tuple(state[name].shape)),
            )
    return {**state, **taken}
