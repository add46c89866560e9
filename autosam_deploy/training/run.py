"""One training run: labelled volumes and an encoder's file in, a head's file out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from autosam_deploy.cores import usable_cores
from autosam_deploy.errors import UsageError
from autosam_deploy.files import sha256_file
from autosam_deploy.models.checkpoints import HeadInfo, read_checkpoint
from autosam_deploy.models.heads import Head
from autosam_deploy.models.image_size import ImageSize
from autosam_deploy.spec import HeadKind, ModelSpec, PreprocessSpec, default_classes
from autosam_deploy.training.datasets.loading import LabelledSlices
from autosam_deploy.training.device import choose_device
from autosam_deploy.training.embedding.cache import CacheDtype
from autosam_deploy.training.embedding.encoding import FrozenEncoder, RuntimeName, frozen_encoder
from autosam_deploy.training.embedding.prepare import Caching, prepare_embeddings
from autosam_deploy.training.embedding.versions import EmbeddedSlices, Version, Views
from autosam_deploy.training.fitting.fit import FitResult, fit_head
from autosam_deploy.training.fitting.recipe import Epoch, FitConfig
from autosam_deploy.training.fitting.resume import Journal
from autosam_deploy.training.fitting.scoring import VolumeScores, score_head
from autosam_deploy.training.fitting.start import first_head, head_spec
from autosam_deploy.training.result import HEAD_FILE, save_result
from autosam_deploy.training.watch import Watch

JOURNAL_FILE = "unfinished.pt"
DEFAULT_CACHE_BYTES = 20_000_000_000


@dataclass(frozen=True)
class TrainRequest:
    """What to train, on which encoder, how. Volumes and the folder come beside it.

    kind: of the head; `autosam` starts from SAM's own mask decoder where the file has one.
    class_names: background first. sam_checkpoint: file with the frozen encoder's weights.
    image_size: encoder input (height, width), which the head's file keeps and its export takes;
    None is the size of the file's tables. views: augmented copies. cache: folder of embeddings,
    shared by heads and runs. cache_limit: bytes of the whole folder. device: `auto`, `cpu`, `cuda`,
    `cuda:N`. runtime: of the encoder; None chooses. threads: CPU threads, of the whole process;
    None is every core. final_relu: end a linear head as the reference does. cnn_channels: narrowest
    layer of a cnn head. start_from: a head's file whose weights are the start. command: for
    run.json.
    """

    kind: HeadKind
    class_names: tuple[str, ...]
    sam_checkpoint: Path
    cache: Path
    config: FitConfig = field(default_factory=FitConfig)
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)
    image_size: ImageSize | None = None
    views: Views | None = None
    cache_limit: int = DEFAULT_CACHE_BYTES
    cache_dtype: CacheDtype = "float16"
    device: str = "auto"
    runtime: RuntimeName | None = None
    threads: int | None = None
    final_relu: bool = False
    cnn_channels: int = 64
    start_from: Path | None = None
    command: str | None = None


@dataclass(frozen=True)
class Trained:
    """A trained head: its file, the fit, its scores on the validation volumes, the record."""

    head: Path
    result: FitResult
    scores: tuple[VolumeScores, ...]
    record: Mapping[str, Any]

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept."""
        return self.result.best


def train_head(
    train: Sequence[LabelledSlices],
    validation: Sequence[LabelledSlices],
    folder: Path,
    *,
    request: TrainRequest,
    watch: Watch | None = None,
    resume: bool = False,
) -> Trained:
    """Fit a head on embeddings of labelled volumes and write it to `folder`.

    Args:
        train: volumes to learn from.
        validation: volumes that choose the best epoch; none lets the training volumes do it.
        folder: `runs/<head>`; gets head.safetensors, run.json, metrics.json and curves.png.
        request: what and how.
        watch: is told how it goes.
        resume: go on with the fit that a stopped process left in `folder`.

    Raises:
        UsageError: no volumes; nothing to resume, or another fit.
        CheckpointError: the file holds no encoder, or tables that were interpolated already.
        SpecError: the encoder cannot take the image size.
        TrainingError: training cannot go on.
        OutputError: the cache or a result cannot be written.
    """
    watch = watch or Watch()
    start = time.perf_counter()
    if not train:
        raise UsageError("volumes for training", got="none", expected="at least one")
    device, why = choose_device(request.device)
    torch.set_num_threads(request.threads or usable_cores())
    sam = read_checkpoint(request.sam_checkpoint)
    encoder = frozen_encoder(sam, preprocess=request.preprocess, image_size=request.image_size)
    spec = _model_spec(encoder, request)
    journal = _journal(folder, watch, resume=resume)
    head = first_head(spec, sam, seed=request.config.seed, start_from=request.start_from)
    caching = Caching(request.cache, limit_bytes=request.cache_limit, dtype=request.cache_dtype)
    prepared = prepare_embeddings(
        train,
        validation,
        encoder,
        caching=caching,
        views=request.views,
        device=device,
        runtime=request.runtime,
        watch=watch,
    )
    embedded, held_out = prepared.train, prepared.validation
    journal.identity = _identity(spec, encoder, request, embedded, held_out)
    watch.fitting(spec.head, len(embedded), len(held_out), f"{device} ({why})")

    result = fit_head(
        head,
        embedded,
        held_out,
        preprocess=spec.preprocess,
        image_size=spec.encoder.image_size,
        config=request.config,
        device=device,
        report=watch.epoch,
        progress=watch.step,
        resume=journal.load if resume else None,
        save=journal.save,
    )
    scores = _scores(result, spec, validation or train, held_out, device)
    record = {
        **_describe(spec, encoder, request),
        "data": _describe_data(train, validation, request.views),
        "cache": prepared.record,
        "validation_scores": [score.as_dict(request.class_names) for score in scores],
        "device": str(device),
        "threads": torch.get_num_threads(),
        "fit_seconds": round(sum(epoch.seconds for epoch in result.history), 3),
        "seconds": round(time.perf_counter() - start, 3),
    }
    written = save_result(
        folder,
        result,
        _info(spec, encoder, request, result.best, volumes=(len(train), len(validation))),
        sam_checkpoint=request.sam_checkpoint,
        record=record,
        command=request.command,
    )
    journal.discard()
    return Trained(written, result, scores, record)


def _model_spec(encoder: FrozenEncoder, request: TrainRequest) -> ModelSpec:
    names = request.class_names
    return ModelSpec(
        encoder=encoder.spec,
        head=head_spec(
            request.kind,
            num_classes=len(names),
            embed_dim=encoder.spec.out_chans,
            final_relu=request.final_relu,
            cnn_channels=request.cnn_channels,
        ),
        classes=default_classes(len(names), names),
        preprocess=request.preprocess,
    )


def _journal(folder: Path, watch: Watch, *, resume: bool) -> Journal:
    """Name the file of the fit, and look whether there is one to go on with."""
    path = folder / JOURNAL_FILE
    if resume and not path.is_file():
        done = (folder / HEAD_FILE).is_file()
        raise UsageError(
            f"nothing to resume in '{folder}'",
            got="a finished head" if done else "no fit that was stopped",
            todo="leave --resume out" + (", and add --overwrite to train again" if done else ""),
        )
    return Journal(path, {}, watch=watch)


def _identity(
    spec: ModelSpec,
    encoder: FrozenEncoder,
    request: TrainRequest,
    embedded: EmbeddedSlices,
    held_out: Sequence[Version],
) -> dict[str, str]:
    """Return what must be equal for a stopped fit to go on (see `Journal`)."""
    labels = hashlib.sha256()
    for version_ in (*(one for versions in embedded.slices for one in versions), *held_out):
        labels.update(version_.origin.encode())
        labels.update(version_.labels.data)
    recipe = replace(request.config, time_limit_s=None)
    return {
        "head": spec.head.model_dump_json(),
        "encoder": f"{encoder.sha256} {spec.encoder.model_dump_json()}",
        "preprocessing": spec.preprocess.model_dump_json(),
        "recipe": str(recipe),
        "views": "" if request.views is None else request.views.name(request.views.count),
        "data": labels.hexdigest(),
        "cache dtype": request.cache_dtype,
        "start": "" if request.start_from is None else sha256_file(request.start_from),
    }


def _scores(
    result: FitResult,
    spec: ModelSpec,
    volumes: Sequence[LabelledSlices],
    versions: Sequence[Version],
    device: torch.device,
) -> tuple[VolumeScores, ...]:
    head = Head(spec.head)
    head.load_state_dict(result.state)
    return score_head(head.to(device), volumes, versions, spec=spec)


def _describe(spec: ModelSpec, encoder: FrozenEncoder, request: TrainRequest) -> dict[str, Any]:
    """Return what was trained and how, for `metrics.json`."""
    return {
        "head": spec.head.model_dump(mode="json"),
        "encoder": {
            "name": spec.encoder.name,
            "image_size": list(spec.encoder.image_size),
            "sha256": encoder.sha256,
            "random": encoder.random,
        },
        "recipe": request.config.as_dict(),
        "start_from": None if request.start_from is None else str(request.start_from),
        "versions": {name: version(name) for name in ("autosam-deploy", "torch", "monai")},
    }


def _describe_data(
    train: Sequence[LabelledSlices], validation: Sequence[LabelledSlices], views: Views | None
) -> dict[str, Any]:
    return {
        "train": [volume.name for volume in train],
        "validation": [volume.name for volume in validation],
        "train_slices": sum(len(volume.slices) for volume in train),
        "views": 0 if views is None else views.count,
        "view_recipe": None if views is None else views.recipe.model_dump(mode="json"),
    }


def _info(
    spec: ModelSpec,
    encoder: FrozenEncoder,
    request: TrainRequest,
    best: Epoch,
    *,
    volumes: tuple[int, int],
) -> HeadInfo:
    """Return what the head's file says; `volumes` are the numbers that taught and validated."""
    return HeadInfo(
        head=spec.head,
        classes=spec.classes,
        preprocess=spec.preprocess,
        encoder=spec.encoder,
        encoder_sha256=encoder.sha256,
        encoder_weights=encoder.weights,
        training={
            "volumes": volumes[0],
            "validation_volumes": volumes[1],
            "views": 0 if request.views is None else request.views.count,
            "epoch": best.number,
            "validation_dice": best.dice,
            "seed": request.config.seed,
            "random_encoder": encoder.random,
        },
    )
