"""One training run: labelled volumes and an encoder's file in, a head's file out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from autosam_deploy.errors import CheckpointError, UsageError
from autosam_deploy.fused.segmenter import fuse
from autosam_deploy.models.checkpoints import Checkpoint, HeadInfo, read_checkpoint
from autosam_deploy.models.encoder import resize_encoder_state
from autosam_deploy.models.heads import Head, initialise_from_sam
from autosam_deploy.models.segmenter import Segmenter
from autosam_deploy.spec import (
    AutosamHead,
    CnnHead,
    EncoderSpec,
    HeadKind,
    HeadSpec,
    LinearHead,
    ModelSpec,
    PreprocessSpec,
    default_classes,
)
from autosam_deploy.training.data import LabelledSlices
from autosam_deploy.training.embeddings import Progress, embed_volumes
from autosam_deploy.training.fit import Epoch, FitConfig, Report, fit_head
from autosam_deploy.training.result import save_result


def head_spec(kind: HeadKind, *, num_classes: int, embed_dim: int = 256) -> HeadSpec:
    """Return a head with the reference's shapes; the linear one without its final ReLU."""
    heads: dict[str, HeadSpec] = {
        "autosam": AutosamHead(num_classes=num_classes, embed_dim=embed_dim),
        "cnn": CnnHead(num_classes=num_classes, embed_dim=embed_dim),
        "linear": LinearHead(num_classes=num_classes, embed_dim=embed_dim, final_relu=False),
    }
    return heads[kind]


def train_head(
    volumes: Sequence[LabelledSlices],
    folder: Path,
    *,
    kind: HeadKind,
    class_names: tuple[str, ...],
    sam_checkpoint: Path,
    config: FitConfig | None = None,
    validation: int = 1,
    command: str | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
) -> tuple[Path, Epoch]:
    """Fit a head on embeddings of labelled volumes and write it to `folder`.

    Args:
        volumes: labelled slices; the last `validation` of them choose the best epoch.
        folder: `runs/<head>`; gets head.safetensors, run.json and metrics.json.
        kind: head to fit; `autosam` starts from SAM's own mask decoder where the file has one.
        class_names: background first.
        sam_checkpoint: file with the frozen encoder's weights.
        config: how to fit; None is the reference's recipe.
        validation: number of volumes kept for choosing the epoch.
        command: the command line, for run.json.
        report: called after every epoch.
        progress: called while embeddings are computed, (slices done, slices in all).

    Returns:
        The head's file and the best epoch.

    Raises:
        UsageError: too few volumes.
        CheckpointError: the file holds no encoder.
        TrainingError: training cannot go on.
    """
    if not 1 <= validation < len(volumes):
        raise UsageError(
            "volumes for training and validation",
            got=f"{len(volumes)} in all, {validation} for validation",
            expected="at least one of each",
        )
    config = config or FitConfig()
    sam = read_checkpoint(sam_checkpoint)
    spec = _model_spec(sam, kind, class_names)
    embedded = embed_volumes(volumes, fuse(_segmenter(spec, sam)).embed, progress=progress)
    held_out = sum(len(volume.slices) for volume in volumes[-validation:])
    result = fit_head(
        start_head(spec.head, sam, seed=config.seed),
        embedded.part(0, len(embedded) - held_out),
        embedded.part(len(embedded) - held_out, len(embedded)),
        preprocess=spec.preprocess,
        image_size=spec.encoder.image_size,
        config=config,
        report=report,
    )
    info = HeadInfo(
        head=spec.head,
        classes=spec.classes,
        preprocess=spec.preprocess,
        encoder=spec.encoder,
        encoder_sha256=str(sam.encoder_sha256),
        training={
            "volumes": len(volumes) - validation,
            "epoch": result.best.number,
            "validation_dice": result.best.dice,
            "seed": config.seed,
        },
    )
    head = save_result(folder, result, info, sam_checkpoint=sam_checkpoint, command=command)
    return head, result.best


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


def _model_spec(sam: Checkpoint, kind: HeadKind, class_names: tuple[str, ...]) -> ModelSpec:
    encoder = _encoder(sam)
    return ModelSpec(
        encoder=encoder,
        head=head_spec(kind, num_classes=len(class_names), embed_dim=encoder.out_chans),
        classes=default_classes(len(class_names), class_names),
        preprocess=PreprocessSpec(),
    )


def _encoder(sam: Checkpoint) -> EncoderSpec:
    if sam.encoder is None or sam.encoder_state is None:
        raise CheckpointError(
            f"'{sam.path}' holds no image encoder", expected="SAM's weights", got=sam.layout
        )
    return sam.encoder


def _segmenter(spec: ModelSpec, sam: Checkpoint) -> Segmenter:
    """Return a segmenter with the file's encoder; its head is never used."""
    segmenter = Segmenter(spec)
    state = resize_encoder_state(sam.encoder_state or {}, spec.encoder)
    segmenter.image_encoder.load_state_dict(state, strict=True)
    return segmenter.eval()
