from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autosam_deploy.encoders import ENCODERS, EncoderSpec, VitEncoder
from autosam_deploy.errors import CheckpointError, SpecError
from autosam_deploy.models.checkpoints.infer import infer_head, is_sam_decoder
from autosam_deploy.models.encoders import (
    encoder_shapes,
    resize_encoder_state,
    seeded_encoder_state,
)
from autosam_deploy.models.encoders.vit import infer as infer_encoder
from autosam_deploy.models.heads import head_shapes
from autosam_deploy.spec import AutosamHead, CnnHead, HeadKind, HeadSpec, LinearHead

VITS = [name for name, one in ENCODERS.items() if isinstance(one, VitEncoder)]


def without_memory(shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("name", VITS)
@pytest.mark.parametrize("image_size", [None, (512, 512), (224, 224), (256, 384)])
def test_known_encoders_at_any_size(name: str, image_size: tuple[int, int] | None) -> None:
    # At 224 pixels vit_b's grid is as large as its windows: all tables have one length.
    spec = ENCODERS[name] if image_size is None else ENCODERS[name].resized(image_size)
    assert infer_encoder(without_memory(encoder_shapes(spec))) == spec


def test_tables_that_a_fork_left_at_their_old_length() -> None:
    """SAM interpolates relative tables at run time, so a resized model may keep the old ones."""
    state = without_memory(encoder_shapes(ENCODERS["vit_b"]))
    state["pos_embed"] = torch.empty(1, 16, 16, 768, device="meta")
    assert infer_encoder(state) == ENCODERS["vit_b"].resized((256, 256))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_size": (40, 64)},
        {"window_size": 3, "global_attn_indexes": (0, 2)},
        {"num_heads": 2, "mlp_ratio": 2.0, "patch_size": 6, "out_chans": 16},
        {"global_attn_indexes": ()},
    ],
)
def test_other_encoders_are_read_from_their_shapes(
    tiny_encoder: EncoderSpec, changes: dict[str, object]
) -> None:
    spec = tiny_encoder.model_copy(update={"name": "custom", **changes})
    assert infer_encoder(without_memory(encoder_shapes(spec))) == spec


def test_an_encoder_without_windows(tiny_encoder: EncoderSpec) -> None:
    spec = tiny_encoder.model_copy(update={"window_size": 0})
    found = infer_encoder(without_memory(encoder_shapes(spec)))
    assert [found.window_of(index) for index in range(3)] == [0, 0, 0]


def test_what_is_recognised_loads(tiny_encoder: EncoderSpec) -> None:
    state = seeded_encoder_state(tiny_encoder, 0)
    assert resize_encoder_state(state, infer_encoder(state)).keys() == state.keys()


def test_odd_encoders_are_refused(tiny_encoder: EncoderSpec) -> None:
    state = without_memory(encoder_shapes(tiny_encoder))
    with pytest.raises(CheckpointError, match=r"lacks 'blocks\.2\.attn\.rel_pos_w'"):
        infer_encoder({k: v for k, v in state.items() if k != "blocks.2.attn.rel_pos_w"})
    odd = {**state, "blocks.2.attn.rel_pos_w": torch.empty(5, 16)}
    with pytest.raises(CheckpointError, match="tables fit no encoder"):
        infer_encoder(odd)
    with pytest.raises(CheckpointError, match=r"'pos_embed' has an impossible shape; got \(36,"):
        infer_encoder({**state, "pos_embed": torch.empty(36, 48)})
    narrow = {f"blocks.{i}.attn.rel_pos_{a}": torch.empty(7, 20) for i in (0, 2) for a in "hw"}
    with pytest.raises(SpecError, match="does not divide"):
        infer_encoder({**state, **narrow, "patch_embed.proj.weight": torch.empty(47, 3, 8, 8)})


@pytest.mark.parametrize(
    "spec",
    [
        AutosamHead(num_classes=4),
        AutosamHead(num_classes=14, embed_dim=64, transformer_depth=3, mlp_dim=96),
        CnnHead(num_classes=4),
        CnnHead(num_classes=2, embed_dim=32, depth=1, top_channels=8),
        CnnHead(num_classes=3, embed_dim=32, depth=6, top_channels=2),
        LinearHead(num_classes=9),
        LinearHead(num_classes=2, embed_dim=32),
    ],
    ids=str,
)
def test_heads_are_read_from_their_shapes(spec: HeadSpec) -> None:
    state = without_memory(head_shapes(spec))
    assert infer_head(state) == spec
    assert not is_sam_decoder(state)


def test_sams_decoder_is_no_head(sam_state: dict[str, Tensor]) -> None:
    assert is_sam_decoder(sam_state)


def test_a_head_of_one_class_is_refused(
    reference_head: Callable[[HeadKind], HeadSpec],
) -> None:
    state = without_memory(head_shapes(reference_head("linear")))
    state["mask_decoder.final.2.weight"] = torch.empty(1, 4, 1, 1)
    with pytest.raises(SpecError, match="linear head is not valid at 'num_classes'; got 1"):
        infer_head(state)
