from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import CheckpointError, SpecError
from autosam_deploy.models.assemble import assemble, untrained
from autosam_deploy.models.checkpoints import (
    Checkpoint,
    HeadInfo,
    read_checkpoint,
    write_encoder,
    write_head,
    write_segmenter,
)
from autosam_deploy.models.encoders import resize_encoder_state, seeded_encoder_state
from autosam_deploy.models.hashing import weights_sha256
from autosam_deploy.models.heads import POSITION_KEY, seeded_head_state
from autosam_deploy.models.segmenter import segmenter_from_state
from autosam_deploy.spec import (
    HEAD_KINDS,
    HeadKind,
    HeadSpec,
    LinearHead,
    ModelSpec,
    PreprocessSpec,
    default_classes,
)

State = dict[str, Tensor]
MakeState = Callable[[HeadKind], State]
MakeHead = Callable[[HeadKind], HeadSpec]
MakeInfo = Callable[..., HeadInfo]
SLICES = torch.rand(2, 1, 21, 30, generator=torch.Generator().manual_seed(0)) * 900


@pytest.fixture
def load(tmp_path: Path) -> Callable[[State, str], Checkpoint]:
    """Save a state dict and read it again."""

    def round_trip(state: State, name: str = "model.pth") -> Checkpoint:
        torch.save(state, tmp_path / name)
        return read_checkpoint(tmp_path / name)

    return round_trip


Load = Callable[..., Checkpoint]


@pytest.fixture
def sam(tmp_path: Path, encoder_state: State) -> Checkpoint:
    write_encoder(tmp_path / "sam.safetensors", encoder_state)
    return read_checkpoint(tmp_path / "sam.safetensors")


@pytest.fixture
def own_head(tmp_path: Path, reference_head: MakeHead, head_info: MakeInfo) -> Any:
    """Factory: a head file of ours, with changes to its record."""

    def build(kind: HeadKind = "linear", **changes: Any) -> Checkpoint:
        head = reference_head(kind)
        write_head(
            tmp_path / "head.safetensors", seeded_head_state(head, 6), head_info(head, **changes)
        )
        return read_checkpoint(tmp_path / "head.safetensors")

    return build


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_a_full_reference_model_loads_strictly(
    load: Load, full_state: MakeState, tiny_encoder: EncoderSpec, kind: HeadKind
) -> None:
    checkpoint = load(full_state(kind))
    found = assemble(checkpoint)
    assert (found.trained, found.position_missing) == (True, False)
    assert [c.name for c in found.spec.classes] == ["background", "class_1", "class_2"]
    assert found.spec.preprocess == PreprocessSpec()
    assert found.encoder_sha256 == checkpoint.encoder_sha256
    digest = hashlib.sha256(checkpoint.path.read_bytes()).hexdigest()
    assert found.sources == {"model.pth": digest}
    state = found.segmenter.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in full_state(kind).items())
    by_hand = segmenter_from_state(found.spec, full_state(kind))
    assert torch.equal(found.segmenter(SLICES), by_hand(SLICES))
    assert not found.segmenter.training


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_a_decoder_and_sam_make_the_same_model(
    load: Load, full_state: MakeState, sam: Checkpoint, kind: HeadKind
) -> None:
    whole = assemble(load(full_state(kind)))
    state = {k: v for k, v in full_state(kind).items() if not k.startswith("image_encoder.")}
    parts = assemble(load(state, "head.pth"), sam=sam, classes=("bg", "a", "b"))
    assert torch.equal(parts.segmenter(SLICES), whole.segmenter(SLICES))
    assert parts.encoder_sha256 == whole.encoder_sha256
    assert parts.sources.keys() == {"head.pth", "sam.safetensors"}
    assert [c.name for c in parts.spec.classes] == ["bg", "a", "b"]


def test_our_own_head_brings_its_record(
    own_head: Any, sam: Checkpoint, tiny_encoder: EncoderSpec
) -> None:
    found = assemble(own_head(), sam=sam, outputs=("labels",))
    assert found.spec.encoder == tiny_encoder
    assert [c.name for c in found.spec.classes] == ["background", "rv", "lv"]
    assert (found.spec.preprocess.slice_axis, found.spec.outputs) == ("k", ("labels",))
    assert found.trained
    assert not assemble(own_head(untrained=True), sam=sam).trained


def test_what_it_says_about_itself_survives_a_round_trip(
    tmp_path: Path, own_head: Any, sam: Checkpoint
) -> None:
    first = assemble(own_head("autosam"), sam=sam)
    path = tmp_path / "weights.safetensors"
    write_segmenter(path, first.segmenter.state_dict(), first.info())
    again = assemble(read_checkpoint(path))
    assert (again.spec, again.encoder_sha256) == (first.spec, first.encoder_sha256)
    assert torch.equal(again.segmenter(SLICES), first.segmenter(SLICES))
    # The bundle's weights serve as the encoder of the head they were made from.
    both = assemble(own_head("autosam"), sam=read_checkpoint(path))
    assert both.encoder_sha256 == first.encoder_sha256


def test_a_head_trained_at_another_size_than_sams(
    own_head: Any, sam: Checkpoint, encoder_state: State, tiny_encoder: EncoderSpec, tmp_path: Path
) -> None:
    spec = tiny_encoder.resized((64, 40))
    resized = resize_encoder_state(encoder_state, spec)
    for sha256 in (weights_sha256(encoder_state), weights_sha256(resized)):
        found = assemble(own_head(encoder=spec, encoder_sha256=sha256), sam=sam)
        assert found.spec.encoder.image_size == (64, 40)
        assert found.encoder_sha256 == sha256
        table = found.segmenter.state_dict()["image_encoder.pos_embed"]
        assert torch.equal(table, resized["pos_embed"])
    # Under the original's hash, so that a bundle made from the bundle still knows its encoder.
    first = assemble(own_head(encoder=spec), sam=sam)
    write_segmenter(tmp_path / "w.safetensors", first.segmenter.state_dict(), first.info())
    bundle = read_checkpoint(tmp_path / "w.safetensors")
    again = assemble(own_head(encoder=spec), sam=bundle)
    assert torch.equal(again.segmenter(SLICES), first.segmenter(SLICES))
    # But not for another size: resizing twice gives other tables.
    message = (
        r"tables of '.*w\.safetensors' were interpolated for another.*got 64x40; expected 48x48"
    )
    with pytest.raises(CheckpointError, match=message + ".*SAM's own weights"):
        assemble(own_head(), sam=bundle)
    with pytest.raises(CheckpointError, match=message):
        untrained(tiny_encoder, LinearHead(num_classes=2, embed_dim=32), sam=bundle)


def test_a_bundle_of_the_original_size_serves_every_size(
    own_head: Any, sam: Checkpoint, tiny_encoder: EncoderSpec, tmp_path: Path
) -> None:
    """Its tables are the original ones: they are interpolated once."""
    whole = assemble(own_head(), sam=sam)
    write_segmenter(tmp_path / "w.safetensors", whole.segmenter.state_dict(), whole.info())
    bundle, spec = read_checkpoint(tmp_path / "w.safetensors"), tiny_encoder.resized((64, 40))
    found, expected = (assemble(own_head(encoder=spec), sam=one) for one in (bundle, sam))
    assert torch.equal(found.segmenter(SLICES), expected.segmenter(SLICES))


def test_there_must_be_a_head_and_an_encoder(
    load: Load, own_head: Any, sam: Checkpoint, full_state: MakeState
) -> None:
    with pytest.raises(CheckpointError, match=r"sam\.safetensors' holds no head; got layout sam"):
        assemble(sam)
    with pytest.raises(CheckpointError, match=r"is a head without its encoder.*--sam-checkpoint"):
        assemble(own_head())
    with pytest.raises(CheckpointError, match="holds no image encoder; got layout autosam-head"):
        assemble(own_head(), sam=own_head())


def test_another_variant_is_refused(own_head: Any, sam: Checkpoint, tiny_encoder: Any) -> None:
    deep = tiny_encoder.model_copy(update={"depth": 5, "name": "deeper"})
    message = r"another encoder than '.*head\.safetensors' needs; got custom \(depth 3\); expected"
    with pytest.raises(CheckpointError, match=message + r" deeper \(depth 5\)"):
        assemble(own_head(encoder=deep), sam=sam)


def test_other_weights_of_the_same_variant_are_refused(
    tmp_path: Path, own_head: Any, tiny_encoder: EncoderSpec, load: Load, full_state: MakeState
) -> None:
    write_encoder(tmp_path / "medsam.safetensors", seeded_encoder_state(tiny_encoder, 99))
    other = read_checkpoint(tmp_path / "medsam.safetensors")
    for head in (own_head(), load(full_state("cnn"))):
        with pytest.raises(CheckpointError, match="does not hold the encoder weights that"):
            assemble(head, sam=other)


def test_a_full_model_may_be_given_its_own_sam_too(
    load: Load, full_state: MakeState, sam: Checkpoint
) -> None:
    found = assemble(load(full_state("cnn")), sam=sam)
    assert found.sources.keys() == {"model.pth", "sam.safetensors"}


def test_an_embedding_of_another_width_is_refused(load: Load, sam: Checkpoint) -> None:
    wide = load(seeded_head_state(LinearHead(num_classes=2, embed_dim=64), 0), "wide.pth")
    with pytest.raises(CheckpointError, match="got embeddings of 32 channels; expected 64"):
        assemble(wide, sam=sam)


def test_wrong_class_count_is_refused(own_head: Any, sam: Checkpoint) -> None:
    with pytest.raises(SpecError, match=r"class names do not match the head; got 2 names"):
        assemble(own_head(), sam=sam, classes=("background", "heart"))


@pytest.mark.parametrize("with_encoder", [True, False])
def test_a_missing_position_is_refused_with_the_reason(
    load: Load, full_state: MakeState, sam: Checkpoint, *, with_encoder: bool
) -> None:
    state = {
        name: tensor
        for name, tensor in full_state("autosam").items()
        if name != POSITION_KEY and (with_encoder or not name.startswith("image_encoder."))
    }
    checkpoint = load(state)
    with pytest.raises(CheckpointError, match=r"draws it at random.*never loads it from SAM"):
        assemble(checkpoint, sam=sam)
    found, again = (assemble(checkpoint, sam=sam, allow_missing_pe=True) for _ in range(2))
    assert found.position_missing
    assert found.info().untrained
    assert torch.equal(found.segmenter(SLICES), again.segmenter(SLICES))
    other = found.segmenter.state_dict()[POSITION_KEY]
    assert not torch.equal(other, full_state("autosam")[POSITION_KEY])


def test_the_size_of_training_is_kept(
    load: Load, own_head: Any, sam: Checkpoint, full_state: MakeState
) -> None:
    for head in (own_head(), load(full_state("cnn"))):
        assert assemble(head, sam=sam, image_size=(48, 48)).spec.encoder.image_size == (48, 48)
        message = (
            "another image size; got 64x64; expected 48x48; .*autosam-train --image-size 64x64"
        )
        with pytest.raises(CheckpointError, match=message):
            assemble(head, sam=sam, image_size=(64, 64))
    # A reference decoder by itself does not tell: the user may know.
    state = {k: v for k, v in full_state("cnn").items() if k.startswith("mask_decoder.")}
    found = assemble(load(state, "head.pth"), sam=sam, image_size=(64, 40))
    assert found.segmenter.embed(SLICES).shape == (2, 32, 8, 5)
    with pytest.raises(SpecError, match="multiples of 8, 32 or more"):
        assemble(load(state, "head.pth"), sam=sam, image_size=(50, 50))


def test_preprocessing_of_training_is_kept(
    load: Load, own_head: Any, sam: Checkpoint, full_state: MakeState
) -> None:
    zscore = PreprocessSpec(intensity="slice-zscore")
    assert assemble(load(full_state("cnn")), preprocess=zscore).spec.preprocess == zscore
    with pytest.raises(CheckpointError, match=r"trained with other preprocessing; got.*zscore"):
        assemble(own_head(), sam=sam, preprocess=zscore)
    other_axis = PreprocessSpec(slice_axis="i")
    assert assemble(own_head(), sam=sam, preprocess=other_axis).spec.preprocess == other_axis


def test_missing_and_unexpected_weights_are_refused(
    load: Load, full_state: MakeState, sam_state: State
) -> None:
    state = full_state("cnn")
    extra = {**state, "image_encoder.blocks.0.adapter.weight": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"also holds 'image_encoder\.blocks\.0\.adapter"):
        assemble(load(extra))
    del state["mask_decoder.blocks.2.4.bias"]
    with pytest.raises(CheckpointError, match=r"lacks 'mask_decoder\.blocks\.2\.4\.bias'"):
        assemble(load(state))
    head = {k: v for k, v in full_state("cnn").items() if k.startswith("mask_decoder.")}
    # What SAM holds beside its encoder is nobody's business here.
    sam = load({**sam_state, "new_prompts.weight": torch.zeros(2)}, "sam.pth")
    assert assemble(load(head, "head.pth"), sam=sam).trained
    del sam_state["image_encoder.neck.1.bias"]
    with pytest.raises(CheckpointError, match=r"sam\.pth' lacks 'image_encoder\.neck\.1\.bias'"):
        assemble(load(head, "head.pth"), sam=load(sam_state, "sam.pth"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(
    load: Load, full_state: MakeState, value: float
) -> None:
    state = full_state("linear")
    state["mask_decoder.final.2.bias"][1] = value
    with pytest.raises(CheckpointError, match=r"'mask_decoder\.final\.2\.bias' holds NaN or inf"):
        assemble(load(state))


def test_files_of_one_name_are_both_recorded(
    tmp_path: Path, full_state: MakeState, sam_state: State
) -> None:
    state = {k: v for k, v in full_state("cnn").items() if k.startswith("mask_decoder.")}
    for folder, content in (("head", state), ("sam", sam_state)):
        (tmp_path / folder).mkdir()
        torch.save(content, tmp_path / folder / "model.pth")
    head, sam = (read_checkpoint(tmp_path / name / "model.pth") for name in ("head", "sam"))
    assert assemble(head, sam=sam).sources.keys() == {"head/model.pth", "sam/model.pth"}


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_untrained(tiny_encoder: EncoderSpec, reference_head: MakeHead, kind: HeadKind) -> None:
    head = reference_head(kind)
    first, again, other = (untrained(tiny_encoder, head, seed=seed) for seed in (1, 1, 2))
    assert (first.trained, first.position_missing, dict(first.sources)) == (False, False, {})
    assert first.spec == ModelSpec(encoder=tiny_encoder, head=head, classes=default_classes(3))
    assert torch.equal(first.segmenter(SLICES), again.segmenter(SLICES))
    assert not torch.equal(first.segmenter(SLICES), other.segmenter(SLICES))
    assert first.encoder_sha256 != other.encoder_sha256
    assert first.info().untrained


def test_untrained_head_on_real_encoder_weights(
    sam: Checkpoint, tiny_encoder: EncoderSpec, encoder_state: State
) -> None:
    head = LinearHead(num_classes=2, embed_dim=32)
    found = untrained(
        tiny_encoder.resized((64, 40)), head, sam=sam, classes=("bg", "x"), outputs=("logits",)
    )
    assert found.encoder_sha256 == weights_sha256(encoder_state)
    assert found.sources.keys() == {"sam.safetensors"}
    assert (found.spec.outputs, found.spec.classes[1].name) == (("logits",), "x")
    state = found.segmenter.state_dict()
    name = "neck.2.weight"
    assert torch.equal(state[f"image_encoder.{name}"], encoder_state[name])
    deep = tiny_encoder.model_copy(update={"depth": 5})
    with pytest.raises(CheckpointError, match="another encoder than the request needs"):
        untrained(deep, head, sam=sam)
    with pytest.raises(SpecError, match="head expects embeddings of 64 channels"):
        untrained(tiny_encoder, LinearHead(num_classes=2, embed_dim=64))
