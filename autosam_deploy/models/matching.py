"""Whether a head and an encoder belong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import CheckpointError
from autosam_deploy.models.checkpoints import Checkpoint
from autosam_deploy.models.encoders import resize_encoder_state
from autosam_deploy.models.hashing import weights_sha256
from autosam_deploy.models.image_size import ImageSize, at_image_size, show_image_size
from autosam_deploy.models.segmenter import ENCODER_PREFIX
from autosam_deploy.models.states import listing


def encoder_source(head: Checkpoint, sam: Checkpoint | None) -> Checkpoint:
    """Return the file to take the encoder from, once it is known to be the right one.

    Args:
        head: a file that holds a head, and the encoder's weights or the record of them.
        sam: a file that holds the encoder; None when the head's file holds it too.

    Raises:
        CheckpointError: there is no encoder, or it is another than the head was trained on.
    """
    if sam is None:
        if head.encoder_state is None:
            raise CheckpointError(
                f"'{head.path}' is a head without its encoder",
                todo="give the SAM weights that it was trained on as well (--sam-checkpoint)",
            )
        return head
    weights = encoder_weights(sam)
    if head.encoder is None:
        return sam
    refuse_other_variant(sam, head.encoder, wanted_by=f"'{head.path}'")
    if sam.encoder_sha256 == head.encoder_sha256:
        refuse_resized_tables(sam, head.encoder.image_size)
    if str(head.encoder_sha256) not in _hashes(sam, weights, head.encoder):
        raise CheckpointError(
            f"'{sam.path}' does not hold the encoder weights that '{head.path}' was trained on",
            got=f"sha256 {weights_sha256(weights)[:12]}...",
            expected=f"{str(head.encoder_sha256)[:12]}...",
            todo="give the same SAM weights as in training",
        )
    return head if head.encoder_state is not None else sam


def encoder_weights(sam: Checkpoint) -> Mapping[str, Tensor]:
    """Return the encoder's weights of a file.

    Raises:
        CheckpointError: it holds none, or not exactly those of SAM's image encoder.
    """
    if sam.encoder_state is None:
        raise CheckpointError(
            f"'{sam.path}' holds no image encoder",
            got=f"layout {sam.layout}",
            expected="SAM's weights",
        )
    refuse_odd_names(sam, part=ENCODER_PREFIX)
    return sam.encoder_state


def encoder_at(sam: Checkpoint, image_size: ImageSize | None) -> EncoderSpec:
    """Return the encoder of a file for an input size.

    Args:
        sam: a file with the encoder's weights.
        image_size: (height, width) in pixels; None is the size of the file's tables.

    Raises:
        CheckpointError: the file holds no encoder, or tables that were interpolated for another
            size.
        SpecError: the encoder cannot take the size.
    """
    if sam.encoder is None or sam.encoder_state is None:
        raise CheckpointError(f"'{sam.path}' holds no image encoder", expected="SAM's weights")
    if image_size is None or image_size == sam.encoder.image_size:
        return sam.encoder
    refuse_resized_tables(sam, image_size)
    return at_image_size(sam.encoder, image_size)


def refuse_resized_tables(sam: Checkpoint, wanted: ImageSize) -> None:
    """Refuse to interpolate positional tables that were interpolated already.

    Weights of a bundle bear the hash of the original ones. Interpolated twice, their tables would
    be others than those that hash and size stand for, in caches and in bundles alike.

    Args:
        sam: a file with the encoder's weights.
        wanted: the input size (height, width) in pixels that its tables shall be for.

    Raises:
        CheckpointError: naming both sizes.
    """
    held = sam.encoder
    if held is None or sam.encoder_state is None or held.image_size == wanted or sam.info is None:
        return
    if weights_sha256(sam.encoder_state) == sam.info.encoder_sha256:
        return
    raise CheckpointError(
        f"the positional tables of '{sam.path}' were interpolated for another image size",
        got=show_image_size(held.image_size),
        expected=show_image_size(wanted),
        todo="give the file that they were made from: SAM's own weights",
    )


def _hashes(
    sam: Checkpoint, weights: Mapping[str, Tensor], trained_on: EncoderSpec
) -> Iterator[str]:
    """Yield the hashes that these weights may be known by to a head trained on `trained_on`."""
    yield weights_sha256(weights)
    fits = sam.encoder is not None and sam.encoder.image_size == trained_on.image_size
    if not fits:
        # A trainer that resized the tables first may have hashed what it used.
        yield weights_sha256(resize_encoder_state(weights, trained_on))
    elif sam.info is not None:
        # A bundle's weights: resized when it was made, under the hash of the original.
        yield sam.info.encoder_sha256


def _variant(spec: EncoderSpec) -> dict[str, object]:
    return spec.model_dump(exclude={"name", "image_size"})


def refuse_other_variant(sam: Checkpoint, wanted: EncoderSpec, *, wanted_by: str) -> None:
    """Refuse an encoder of another width, depth or layout; name and image size do not count.

    Raises:
        CheckpointError: naming the fields that differ.
    """
    held = sam.encoder
    if held is None or _variant(held) == _variant(wanted):
        return
    different = [key for key, value in _variant(wanted).items() if _variant(held)[key] != value]
    raise CheckpointError(
        f"'{sam.path}' holds another encoder than {wanted_by} needs",
        got=_describe(held, different),
        expected=_describe(wanted, different),
    )


def _describe(spec: EncoderSpec, fields: Sequence[str]) -> str:
    shown = ", ".join(f"{field} {getattr(spec, field)}" for field in fields)
    return f"{spec.name} ({shown})"


def refuse_odd_names(checkpoint: Checkpoint, *, part: str = "", optional: str = "") -> None:
    """Refuse missing and unexpected weights.

    Args:
        checkpoint: the file.
        part: only names that start with this count.
        optional: one name that may be missing.

    Raises:
        CheckpointError: naming the first of them.
    """
    for what, names in (("lacks", checkpoint.missing), ("also holds", checkpoint.unexpected)):
        odd = [name for name in names if name.startswith(part) and name != optional]
        if odd:
            raise CheckpointError(
                f"'{checkpoint.path}' {what} {listing(odd)}",
                expected="the weights of the reference implementation's model, all and no others",
                todo="see autosam-export inspect for the whole list",
            )
