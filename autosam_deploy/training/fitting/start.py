"""The head that a training starts from: its shapes, and its first weights."""

from __future__ import annotations

from pathlib import Path

import torch

from autosam_deploy.errors import CheckpointError
from autosam_deploy.models.checkpoints import Checkpoint, read_checkpoint
from autosam_deploy.models.heads import Head, initialise_from_sam
from autosam_deploy.spec import AutosamHead, CnnHead, HeadKind, HeadSpec, LinearHead, ModelSpec


def head_spec(
    kind: HeadKind,
    *,
    num_classes: int,
    embed_dim: int = 256,
    final_relu: bool = False,
    cnn_channels: int = 64,
) -> HeadSpec:
    """Return a head with the reference's shapes; the linear one without its final ReLU."""
    heads: dict[str, HeadSpec] = {
        "autosam": AutosamHead(num_classes=num_classes, embed_dim=embed_dim),
        "cnn": CnnHead(num_classes=num_classes, embed_dim=embed_dim, top_channels=cnn_channels),
        "linear": LinearHead(num_classes=num_classes, embed_dim=embed_dim, final_relu=final_relu),
    }
    return heads[kind]


def first_head(
    spec: ModelSpec, sam: Checkpoint, *, seed: int, start_from: Path | None = None
) -> Head:
    """Return the head that training starts from: an earlier one, or a new one (`start_head`).

    Args:
        spec: the segmenter that the head will belong to.
        sam: the encoder's file.
        seed: of random weights.
        start_from: a head's file of the same kind, shapes, classes, preprocessing and encoder.

    Raises:
        CheckpointError: the file cannot be read, or its head is another.
    """
    if start_from is None:
        return start_head(spec.head, sam, seed=seed)
    earlier = read_checkpoint(start_from)
    info = earlier.info
    if earlier.head_state is None or info is None or info.encoder_sha256 != sam.encoder_sha256:
        raise CheckpointError(
            f"'{start_from}' is no start for this training",
            got=earlier.layout if info is None else "a head that was trained on another encoder",
            expected="a head of autosam-train, on the same encoder",
        )
    # The axis says how volumes are cut, not what the head sees of a slice.
    axis = {"slice_axis": spec.preprocess.slice_axis}
    for what, held, wanted in (
        ("head", info.head, spec.head),
        ("set of class names", [c.name for c in info.classes], [c.name for c in spec.classes]),
        ("preprocessing", info.preprocess.model_copy(update=axis), spec.preprocess),
        ("image size", info.encoder.image_size, spec.encoder.image_size),
    ):
        if held != wanted:
            raise CheckpointError(
                f"'{start_from}' has another {what}", got=str(held), expected=str(wanted)
            )
    head = Head(spec.head)
    head.load_state_dict(dict(earlier.head_state), strict=True)
    return head


def start_head(spec: HeadSpec, sam: Checkpoint, *, seed: int) -> Head:
    """Return the head that training starts from.

    As the reference does, the autosam head takes what SAM's own mask decoder has under the same
    names. The positional matrix and, without such a decoder, all other weights are random.

    Args:
        spec: of the head.
        sam: SAM's weights, with or without its mask decoder.
        seed: of the random weights.

    Raises:
        CheckpointError: a weight of SAM's decoder has another shape than the head's.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        head = Head(spec)
    if isinstance(spec, AutosamHead) and sam.sam_decoder_state is not None:
        head.load_state_dict(initialise_from_sam(head.state_dict(), sam.sam_decoder_state))
    return head
