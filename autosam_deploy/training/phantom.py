"""Fit a head on the phantom set of the demo, with the parts that any training uses."""

from __future__ import annotations

from pathlib import Path

import torch

from autosam_deploy.fused.segmenter import fuse
from autosam_deploy.models.checkpoints import HeadInfo, write_encoder
from autosam_deploy.models.encoder import seeded_encoder_state
from autosam_deploy.models.hashing import weights_sha256
from autosam_deploy.models.heads import Head
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
from autosam_deploy.training.data import LabelledSlices, load_labelled
from autosam_deploy.training.embeddings import EmbeddedSlices, embed_volumes
from autosam_deploy.training.fit import Epoch, FitConfig, Report, fit_head
from autosam_deploy.training.result import save_result
from autosam_deploy.volumes.phantom import read_class_names


def fit_on_phantom(
    runs: Path,
    kind: HeadKind,
    *,
    encoder: EncoderSpec,
    encoder_seed: int,
    config: FitConfig,
    report: Report | None = None,
) -> tuple[Path, Epoch]:
    """Fit a head on `runs/demo` and write it to `runs/<head>/`.

    Args:
        runs: holds `demo/`, the phantom set; gets `demo/encoder.safetensors` and the run.
        kind: head to fit.
        encoder: shapes of the frozen encoder.
        encoder_seed: seed of its random weights.
        config: how to fit.
        report: called after every epoch.

    Returns:
        The head's file and the best epoch. The last volume of the training set chooses it.
    """
    data = runs / "demo"
    names = read_class_names(data)
    spec = ModelSpec(
        encoder=encoder,
        head=small_head(kind, num_classes=len(names), embed_dim=encoder.out_chans),
        classes=default_classes(len(names), names),
        preprocess=PreprocessSpec(),
    )
    weights = seeded_encoder_state(encoder, encoder_seed)
    sam = data / "encoder.safetensors"
    write_encoder(sam, weights)
    volumes = load_labelled(data / "imagesTr", data / "labelsTr", num_classes=len(names))
    torch.manual_seed(config.seed)
    head = Head(spec.head)
    segmenter = Segmenter(spec)
    segmenter.image_encoder.load_state_dict(weights)
    train, validation = _embed(segmenter, volumes)
    result = fit_head(
        head,
        train,
        validation,
        preprocess=spec.preprocess,
        image_size=encoder.image_size,
        config=config,
        report=report,
    )
    info = HeadInfo(
        head=spec.head,
        classes=spec.classes,
        preprocess=spec.preprocess,
        encoder=encoder,
        encoder_sha256=weights_sha256(weights),
        training={"epoch": result.best.number, "validation_dice": result.best.dice},
    )
    return save_result(runs / kind, result, info, sam_checkpoint=sam), result.best


def _embed(
    segmenter: Segmenter, volumes: list[LabelledSlices]
) -> tuple[EmbeddedSlices, EmbeddedSlices]:
    embed = fuse(segmenter.eval()).embed
    return embed_volumes(volumes[:-1], embed), embed_volumes(volumes[-1:], embed)


def small_head(kind: HeadKind, *, num_classes: int, embed_dim: int) -> HeadSpec:
    """Return a head with the reference's shapes; the linear one without its final ReLU."""
    heads: dict[str, HeadSpec] = {
        "autosam": AutosamHead(num_classes=num_classes, embed_dim=embed_dim),
        "cnn": CnnHead(num_classes=num_classes, embed_dim=embed_dim),
        "linear": LinearHead(num_classes=num_classes, embed_dim=embed_dim, final_relu=False),
    }
    return heads[kind]
