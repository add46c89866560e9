"""Put a head and an encoder together, or say why they do not belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import CheckpointError
from autosam_deploy.files import sha256_file
from autosam_deploy.models.checkpoints import Checkpoint, HeadInfo
from autosam_deploy.models.encoders import resize_encoder_state, seeded_encoder_state
from autosam_deploy.models.hashing import weights_sha256
from autosam_deploy.models.heads import POSITION_KEY, seeded_head_state
from autosam_deploy.models.image_size import ImageSize, show_image_size
from autosam_deploy.models.matching import (
    encoder_at,
    encoder_source,
    encoder_weights,
    refuse_odd_names,
    refuse_other_variant,
    refuse_resized_tables,
)
from autosam_deploy.models.segmenter import ENCODER_PREFIX, Segmenter, segmenter_from_state
from autosam_deploy.spec import (
    ClassSpec,
    HeadSpec,
    ModelSpec,
    OutputName,
    PreprocessSpec,
    WeightsInfo,
    default_classes,
)
from autosam_deploy.strict import parse_spec

_BOTH: tuple[OutputName, ...] = ("labels", "logits")
#: Seed of the matrix that stands in for a missing one.
_POSITION_SEED = 0


@dataclass(frozen=True, eq=False)
class Assembled:
    """A segmenter and where its weights come from.

    Attributes:
        segmenter: in eval mode, float32, without gradients.
        spec: what it is.
        encoder_sha256: hash of the encoder's weights as their own file holds them.
        trained: False for random weights, which are good for latency work only.
        position_missing: the positional matrix is random: logits are not those of training.
        sources: file name -> SHA-256 of the file, for provenance.
        encoder_weights: published weights that the encoder's are, if known.
    """

    segmenter: Segmenter
    spec: ModelSpec
    encoder_sha256: str
    trained: bool
    position_missing: bool
    sources: Mapping[str, str]
    encoder_weights: WeightsInfo | None = None

    def info(self) -> HeadInfo:
        """Return what a file with these weights should say about itself.

        A random positional matrix makes the weights as good as untrained.
        """
        return HeadInfo(
            head=self.spec.head,
            classes=self.spec.classes,
            preprocess=self.spec.preprocess,
            encoder=self.spec.encoder,
            encoder_sha256=self.encoder_sha256,
            encoder_weights=self.encoder_weights,
            untrained=not self.trained or self.position_missing,
        )


def assemble(
    head: Checkpoint,
    *,
    sam: Checkpoint | None = None,
    classes: Sequence[str] | None = None,
    preprocess: PreprocessSpec | None = None,
    image_size: ImageSize | None = None,
    outputs: tuple[OutputName, ...] = _BOTH,
    allow_missing_pe: bool = False,
) -> Assembled:
    """Build the segmenter of a trained head and its encoder.

    Args:
        head: a file that holds a head.
        sam: a file that holds the encoder; None when the head's file holds it too.
        classes: class names, background first; None takes those of the head's file, or defaults.
        preprocess: the recipe, for files that do not carry one; None is AutoSAM's own. Where the
            file carries one, only the slicing axis may differ from it.
        image_size: (height, width) of the encoder's input, for a reference head by itself; other
            files tell what they were trained at.
        outputs: outputs of the graph to be.
        allow_missing_pe: put a random positional matrix where an autosam head has none.

    Raises:
        CheckpointError: parts are missing, or do not belong together.
        SpecError: class names do not fit the head, or the image size not the encoder.
    """
    if head.head is None or head.head_state is None:
        raise CheckpointError(
            f"'{head.path}' holds no head",
            got=f"layout {head.layout}",
            expected="an autosam, cnn or linear head",
            todo="give the head as the checkpoint and SAM's weights as the SAM checkpoint",
        )
    refuse_odd_names(head, optional=POSITION_KEY)
    source = encoder_source(head, sam)
    encoder, weights = _encoder(head, source, image_size), encoder_weights(source)
    if head.head.embed_dim != encoder.out_chans:
        raise CheckpointError(
            f"'{head.path}' does not fit the encoder of '{source.path}'",
            got=f"embeddings of {encoder.out_chans} channels",
            expected=str(head.head.embed_dim),
        )
    spec = _model_spec(
        encoder, head.head, _classes(head, classes), _preprocess(head, preprocess), outputs
    )
    head_state = _with_position(head.head, head, allow_missing=allow_missing_pe)
    return Assembled(
        segmenter=_segmenter(spec, weights, head_state),
        spec=spec,
        encoder_sha256=str((head if head.info else source).encoder_sha256),
        trained=head.info is None or not head.info.untrained,
        position_missing=not head.has_position,
        sources=_hash_files(head, sam),
        encoder_weights=head.weights or source.weights,
    )


def untrained(
    encoder: EncoderSpec,
    head: HeadSpec,
    *,
    seed: int = 0,
    sam: Checkpoint | None = None,
    classes: Sequence[str] | None = None,
    preprocess: PreprocessSpec | None = None,
    outputs: tuple[OutputName, ...] = _BOTH,
) -> Assembled:
    """Build a segmenter with a random head, for latency and memory work.

    Args:
        encoder: which encoder, at which image size.
        head: which head.
        seed: of the random weights.
        sam: real encoder weights; None draws them too.
        classes: class names, background first; None gives default names.
        preprocess: None is AutoSAM's own.
        outputs: outputs of the graph to be.

    Raises:
        CheckpointError: `sam` holds no encoder, another one, or one whose tables were interpolated
            for another size.
        SpecError: head and encoder, or class names and head, do not fit.
    """
    names = default_classes(head.num_classes, None if classes is None else tuple(classes))
    spec = _model_spec(encoder, head, names, preprocess or PreprocessSpec(), outputs)
    if sam is None:
        weights: Mapping[str, Tensor] = seeded_encoder_state(encoder, seed)
        sha256 = weights_sha256(weights)
    else:
        weights, sha256 = encoder_weights(sam), str(sam.encoder_sha256)
        refuse_other_variant(sam, encoder, wanted_by="the request")
        refuse_resized_tables(sam, encoder.image_size)
    return Assembled(
        segmenter=_segmenter(spec, weights, seeded_head_state(head, seed + 1)),
        spec=spec,
        encoder_sha256=sha256,
        trained=False,
        position_missing=False,
        sources=_hash_files(sam),
        encoder_weights=None if sam is None else sam.weights,
    )


def _encoder(head: Checkpoint, source: Checkpoint, asked: ImageSize | None) -> EncoderSpec:
    """Return the encoder at the size of training; the asked one counts where no file tells that."""
    known = head.encoder
    if known is None:
        return encoder_at(source, asked)
    if asked is None or asked == known.image_size:
        return known
    raise CheckpointError(
        f"'{head.path}' was trained at another image size",
        got=show_image_size(asked),
        expected=show_image_size(known.image_size),
        todo="leave the image size out, or train a head at the size that you want with "
        f"autosam-train --image-size {show_image_size(asked)}",
    )


def _classes(head: Checkpoint, names: Sequence[str] | None) -> tuple[ClassSpec, ...]:
    if names is None and head.info is not None:
        return head.info.classes
    count = 0 if head.head is None else head.head.num_classes
    return default_classes(count, None if names is None else tuple(names))


def _preprocess(head: Checkpoint, given: PreprocessSpec | None) -> PreprocessSpec:
    own = None if head.info is None else head.info.preprocess
    if own is None or given is None:
        return given or own or PreprocessSpec()
    # The axis says how volumes are cut, not what the head sees of a slice.
    if given.model_copy(update={"slice_axis": own.slice_axis}) != own:
        raise CheckpointError(
            f"'{head.path}' was trained with other preprocessing",
            got=given.model_dump_json(exclude_defaults=True),
            expected=own.model_dump_json(exclude_defaults=True),
        )
    return given


def _with_position(
    spec: HeadSpec, head: Checkpoint, *, allow_missing: bool
) -> Mapping[str, Tensor]:
    """Return the head's state, with a random positional matrix if that is missing and allowed."""
    state = head.head_state or {}
    if head.has_position:
        return state
    if not allow_missing:
        raise CheckpointError(
            f"'{head.path}' lacks its positional matrix '{POSITION_KEY}'",
            expected="the matrix that the head was trained with: AutoSAM draws it at random in"
            " every run and never loads it from SAM, so nothing else can stand in for it",
            todo="save the whole model's state_dict() after training; --allow-missing-pe puts a"
            " random matrix in its place, for latency work only",
        )
    return {**state, POSITION_KEY: seeded_head_state(spec, _POSITION_SEED)[POSITION_KEY]}


def _model_spec(
    encoder: EncoderSpec,
    head: HeadSpec,
    classes: tuple[ClassSpec, ...],
    preprocess: PreprocessSpec,
    outputs: tuple[OutputName, ...],
) -> ModelSpec:
    fields = {
        "encoder": encoder,
        "head": head,
        "classes": classes,
        "preprocess": preprocess,
        "outputs": outputs,
    }
    return parse_spec(ModelSpec, fields, what="the model")


def _segmenter(
    spec: ModelSpec, encoder: Mapping[str, Tensor], head: Mapping[str, Tensor]
) -> Segmenter:
    fitted = resize_encoder_state(encoder, spec.encoder)
    state = {**{f"{ENCODER_PREFIX}{name}": t for name, t in fitted.items()}, **head}
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"weight '{name}' holds NaN or infinity",
                todo="use a checkpoint from before the training diverged",
            )
    return segmenter_from_state(spec, state)


def _hash_files(*checkpoints: Checkpoint | None) -> dict[str, str]:
    """Return file name -> SHA-256; files of one name are told apart by their folder's name."""
    paths = [checkpoint.path.absolute() for checkpoint in checkpoints if checkpoint is not None]
    names = [path.name for path in paths]
    twice = len(set(names)) < len(names)
    return {
        (f"{path.parent.name}/{path.name}" if twice else path.name): sha256_file(path)
        for path in paths
    }
