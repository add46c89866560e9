from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import CheckpointError
from autosam_deploy.models.checkpoints import (
    HeadInfo,
    read_checkpoint,
    write_encoder,
    write_head,
    write_segmenter,
)
from autosam_deploy.models.hashing import weights_sha256
from autosam_deploy.models.heads import POSITION_KEY, seeded_head_state
from autosam_deploy.spec import HEAD_KINDS, HeadKind, HeadSpec

State = dict[str, Tensor]
MakeState = Callable[[HeadKind], State]
MakeHead = Callable[[HeadKind], HeadSpec]


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def equal(found: Any, expected: State) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


def head_of(state: State) -> State:
    return {k: v for k, v in state.items() if not k.startswith("image_encoder.")}


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_a_full_reference_model(
    tmp_path: Path,
    full_state: MakeState,
    reference_head: MakeHead,
    encoder_state: State,
    kind: HeadKind,
) -> None:
    state = full_state(kind)
    found = read_checkpoint(save(tmp_path / "model.pth", state))
    assert (found.layout, found.wrapped) == ("reference-full", None)
    assert found.head == reference_head(kind)
    assert found.encoder is not None
    assert found.encoder.image_size == (48, 48)
    assert equal(found.encoder_state, encoder_state)
    assert equal(found.head_state, head_of(state))
    assert found.encoder_sha256 == weights_sha256(encoder_state)
    assert (found.missing, found.unexpected, found.has_position) == ((), (), True)


@pytest.mark.parametrize("outer", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "model."])
def test_wrapped_and_prefixed(
    tmp_path: Path, full_state: MakeState, outer: str, prefix: str
) -> None:
    state = full_state("linear")
    content = {
        "epoch": 119,
        outer: {f"{prefix}{name}": tensor for name, tensor in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 5e-4}]},
    }
    found = read_checkpoint(save(tmp_path / "model_best.pth.tar", content))
    assert (found.layout, found.wrapped) == ("reference-full", outer)
    assert equal(found.head_state, head_of(state))
    assert found.unexpected == ()


@pytest.mark.parametrize("kind", HEAD_KINDS)
@pytest.mark.parametrize("bare", [False, True])
def test_a_decoder_by_itself(
    tmp_path: Path, full_state: MakeState, reference_head: MakeHead, kind: HeadKind, *, bare: bool
) -> None:
    """Bare: mask_decoder.state_dict(), as upstream's commented-out save_checkpoint has it."""
    state = {k: v for k, v in full_state(kind).items() if k.startswith("mask_decoder.")}
    content = {k.removeprefix("mask_decoder."): v for k, v in state.items()} if bare else state
    found = read_checkpoint(save(tmp_path / "decoder.pth", {"state_dict": content}))
    assert (found.layout, found.head) == ("reference-decoder", reference_head(kind))
    assert equal(found.head_state, state)
    assert (found.encoder, found.encoder_state, found.encoder_sha256) == (None, None, None)
    assert found.has_position is (kind != "autosam")
    assert found.missing == ((POSITION_KEY,) if kind == "autosam" else ())


def test_a_decoder_with_its_position(tmp_path: Path, full_state: MakeState) -> None:
    found = read_checkpoint(save(tmp_path / "head.pth", head_of(full_state("autosam"))))
    assert (found.layout, found.has_position, found.missing) == ("reference-decoder", True, ())


def test_sam_itself(
    tmp_path: Path, sam_state: State, encoder_state: State, tiny_encoder: EncoderSpec
) -> None:
    for name, content in (("sam.pth", sam_state), ("medsam.pth", {"model": sam_state})):
        found = read_checkpoint(save(tmp_path / name, content))
        assert found.layout == "sam"
        assert found.encoder == tiny_encoder.model_copy(update={"name": "custom"})
        assert equal(found.encoder_state, encoder_state)
        assert (found.head, found.head_state) == (None, None)
        assert found.sam_decoder_state is not None
        assert found.sam_decoder_state["mask_decoder.iou_token.weight"].shape == (1, 32)
        assert (found.missing, found.unexpected) == ((), ())


def test_an_encoder_by_itself(tmp_path: Path, encoder_state: State) -> None:
    prefixed = {f"image_encoder.{name}": tensor for name, tensor in encoder_state.items()}
    for name, content in (("bare.pt", encoder_state), ("prefixed.pt", prefixed)):
        found = read_checkpoint(save(tmp_path / name, content))
        assert (found.layout, found.sam_decoder_state) == ("sam", None)
        assert found.encoder_sha256 == weights_sha256(encoder_state)
    write_encoder(tmp_path / "written.safetensors", encoder_state)
    found = read_checkpoint(tmp_path / "written.safetensors")
    assert found.layout == "sam"
    assert equal(found.encoder_state, encoder_state)


def test_safetensors_are_known_by_content_not_by_name(
    tmp_path: Path, full_state: MakeState
) -> None:
    path = tmp_path / "model.pth"
    save_file(full_state("cnn"), path)
    assert read_checkpoint(path).layout == "reference-full"


def test_half_and_double_files_become_float32(tmp_path: Path, full_state: MakeState) -> None:
    state = full_state("linear")
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        stored = {name: tensor.to(dtype) for name, tensor in state.items()}
        found = read_checkpoint(save(tmp_path / "model.pth", stored))
        assert found.head_state is not None
        name = "mask_decoder.final.2.weight"
        assert torch.equal(found.head_state[name], state[name].to(dtype).float())
        assert found.head_state[name].dtype == torch.float32


def test_parameters_and_gradients_are_left_behind(tmp_path: Path, full_state: MakeState) -> None:
    state = {k: torch.nn.Parameter(v) for k, v in full_state("linear").items()}
    found = read_checkpoint(save(tmp_path / "model.pth", state))
    assert found.head_state is not None
    assert not any(tensor.requires_grad for tensor in found.head_state.values())


def test_our_own_head(
    tmp_path: Path,
    reference_head: MakeHead,
    head_info: Callable[..., HeadInfo],
    encoder_state: State,
) -> None:
    head = reference_head("autosam").model_copy(update={"num_heads": 4})
    info, state = head_info(head), seeded_head_state(head, 3)
    write_head(tmp_path / "head.safetensors", state, info)
    found = read_checkpoint(tmp_path / "head.safetensors")
    assert (found.layout, found.info) == ("autosam-head", info)
    # Four attention heads do not show in shapes: they come from the file's own record.
    assert (found.head, found.encoder) == (head, info.encoder)
    assert equal(found.head_state, state)
    assert found.encoder_state is None
    assert found.encoder_sha256 == weights_sha256(encoder_state)


def test_a_segmenter_of_ours(
    tmp_path: Path,
    full_state: MakeState,
    reference_head: MakeHead,
    head_info: Callable[..., HeadInfo],
) -> None:
    info = head_info(reference_head("linear"), untrained=True, encoder_sha256="0" * 64)
    write_segmenter(tmp_path / "weights.safetensors", full_state("linear"), info)
    found = read_checkpoint(tmp_path / "weights.safetensors")
    assert (found.layout, found.info) == ("segmenter", info)
    assert equal(
        {f"image_encoder.{k}": v for k, v in (found.encoder_state or {}).items()}
        | dict(found.head_state or {}),
        full_state("linear"),
    )
    # The hash of the original weights, not of these, which may have been resized.
    assert found.encoder_sha256 == "0" * 64


def test_missing_and_unexpected_names_are_listed(tmp_path: Path, full_state: MakeState) -> None:
    state = full_state("cnn")
    for name in ("image_encoder.neck.3.bias", "mask_decoder.blocks.1.2.weight"):
        del state[name]
    state["mask_decoder.dropout.weight"] = torch.zeros(2)
    state["image_encoder.blocks.0.adapter.weight"] = torch.zeros(2)
    state["prompt_encoder.no_mask_embed.weight"] = torch.zeros(2)
    state["loss.weight"] = torch.zeros(2)
    found = read_checkpoint(save(tmp_path / "model.pth", {**state, "epoch": 3}))
    assert found.missing == ("mask_decoder.blocks.1.2.weight", "image_encoder.neck.3.bias")
    assert found.unexpected == (
        "mask_decoder.dropout.weight",
        "image_encoder.blocks.0.adapter.weight",
        "loss.weight",
        "prompt_encoder.no_mask_embed.weight",
        "epoch",
    )


def test_weights_of_something_else_are_refused(tmp_path: Path, sam_state: State) -> None:
    unet = {"down.0.weight": torch.zeros(2), "up.0.weight": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"no known layout; got names such as 'down\.0"):
        read_checkpoint(save(tmp_path / "unet.pth", unet))
    mobile = {"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(2, 3, 3, 3)}
    with pytest.raises(CheckpointError, match=r"image encoder \(a TinyViT.*lacks 'patch_embed"):
        read_checkpoint(save(tmp_path / "mobile_sam.pt", mobile))
    other = {"mask_decoder.conv.weight": torch.zeros(2)}
    with pytest.raises(CheckpointError, match="none of the heads autosam, cnn, linear"):
        read_checkpoint(save(tmp_path / "other.pth", other))


def test_contradictory_shapes_are_refused(tmp_path: Path, full_state: MakeState) -> None:
    state = full_state("autosam")
    # Two mask tokens a class belong to three classes.
    state["mask_decoder.mask_tokens.weight"] = torch.zeros(5, 32)
    with pytest.raises(CheckpointError, match=r"mask_tokens.weight' does not fit.*\(6, 32\)"):
        read_checkpoint(save(tmp_path / "model.pth", state))
    state = full_state("linear")
    state["image_encoder.blocks.2.mlp.lin2.weight"] = torch.zeros(48, 7)
    with pytest.raises(CheckpointError, match=r"lin2.weight' does not fit.*\(48, 192\)"):
        read_checkpoint(save(tmp_path / "model.pth", state))


def test_a_file_of_a_newer_version_is_refused(
    tmp_path: Path, reference_head: MakeHead, head_info: Callable[..., HeadInfo]
) -> None:
    head = reference_head("linear")
    record = json.loads(head_info(head).model_dump_json())
    for change, message in (
        ({"schema_version": 3}, "newer autosam-deploy; got schema version 3"),
        ({"extra": 1}, "head metadata is not valid at 'extra'"),
        ({"encoder_sha256": "abc"}, "not valid at 'encoder_sha256'"),
        ({"classes": record["classes"][:2]}, "2 classes named for 3"),
    ):
        text = json.dumps({**record, **change})
        path = tmp_path / "head.safetensors"
        save_file(seeded_head_state(head, 0), path, metadata={"autosam_head": text})
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(path)
    save_file(seeded_head_state(head, 0), path, metadata={"autosam_head": "{"})
    with pytest.raises(CheckpointError, match="metadata is not JSON"):
        read_checkpoint(path)


def test_summaries_are_json(
    tmp_path: Path,
    sam_state: State,
    full_state: MakeState,
    reference_head: MakeHead,
    head_info: Callable[..., HeadInfo],
) -> None:
    head = reference_head("cnn")
    write_head(tmp_path / "head.safetensors", seeded_head_state(head, 0), head_info(head))
    paths = [
        tmp_path / "head.safetensors",
        save(tmp_path / "sam.pth", sam_state),
        save(tmp_path / "model.pth", {"model": full_state("autosam")}),
    ]
    own, sam, full = (json.loads(json.dumps(read_checkpoint(p).summary())) for p in paths)
    assert (own["layout"], own["head"]["depth"], own["encoder"]["embed_dim"]) == (
        "autosam-head",
        4,
        48,
    )
    assert [c["name"] for c in own["classes"]] == ["background", "rv", "lv"]
    assert (own["encoder_weights"], own["training"]["epochs"]) == (False, 3)
    assert (sam["layout"], sam["head"], sam["sam_decoder"]) == ("sam", None, True)
    assert (full["wrapped"], full["head"]["num_classes"]) == ("model", 3)
    assert full["encoder_sha256"] == sam["encoder_sha256"] == own["encoder_sha256"]
    assert full["bytes"] == paths[2].stat().st_size
