"""Fixtures of this room: a tiny model as the reference builds it, and its files in every layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.models.checkpoints import HeadInfo
from autosam_deploy.models.encoders import seeded_encoder_state
from autosam_deploy.models.hashing import weights_sha256
from autosam_deploy.models.heads import seeded_head_state
from autosam_deploy.spec import (
    AutosamHead,
    CnnHead,
    HeadKind,
    HeadSpec,
    LinearHead,
    PreprocessSpec,
    default_classes,
)

State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from a second thread, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def encoder_state(tiny_encoder: EncoderSpec) -> State:
    return seeded_encoder_state(tiny_encoder, 5)


@pytest.fixture
def reference_head() -> Callable[[HeadKind], HeadSpec]:
    """A head with the facts that shapes do not show as the reference has them."""
    heads: dict[HeadKind, HeadSpec] = {
        "autosam": AutosamHead(num_classes=3, embed_dim=32, num_heads=8, mlp_dim=40),
        "cnn": CnnHead(num_classes=3, embed_dim=32, depth=4, top_channels=4),
        "linear": LinearHead(num_classes=3, embed_dim=32, final_relu=True),
    }
    return heads.__getitem__


@pytest.fixture
def full_state(encoder_state: State, reference_head: Callable[[HeadKind], HeadSpec]) -> Any:
    """Factory: the state dict of a whole reference model."""

    def build(kind: HeadKind) -> State:
        prefixed = {f"image_encoder.{name}": tensor for name, tensor in encoder_state.items()}
        return {**prefixed, **seeded_head_state(reference_head(kind), 6)}

    return build


@pytest.fixture
def sam_state(encoder_state: State) -> State:
    """SAM's own state dict, small: encoder, prompt encoder, mask decoder with its one IoU token."""
    generator = torch.Generator().manual_seed(0)
    head = seeded_head_state(AutosamHead(num_classes=2, embed_dim=32, num_heads=8, mlp_dim=40), 8)
    decoder = {k: v for k, v in head.items() if k.startswith("mask_decoder.")}
    decoder["mask_decoder.iou_token.weight"] = torch.randn(1, 32, generator=generator)
    for index in (2, 3):
        for name in [n for n in head if "hypernetworks_mlps.0." in n]:
            decoder[name.replace("mlps.0.", f"mlps.{index}.")] = head[name] + index
    matrix = torch.randn(2, 16, generator=generator)
    return {
        **{f"image_encoder.{name}": tensor for name, tensor in encoder_state.items()},
        **decoder,
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": matrix,
        "prompt_encoder.no_mask_embed.weight": torch.zeros(1, 32),
        "pixel_mean": torch.tensor([123.675, 116.28, 103.53]).reshape(3, 1, 1),
        "pixel_std": torch.tensor([58.395, 57.12, 57.375]).reshape(3, 1, 1),
    }


@pytest.fixture
def head_info(tiny_encoder: EncoderSpec, encoder_state: State) -> Callable[..., HeadInfo]:
    """Factory: what a head trained on the tiny encoder says about itself."""

    def build(head: HeadSpec, **changes: Any) -> HeadInfo:
        fields: dict[str, Any] = {
            "head": head,
            "classes": default_classes(head.num_classes, ("background", "rv", "lv")),
            "preprocess": PreprocessSpec(slice_axis="k"),
            "encoder": tiny_encoder,
            "encoder_sha256": weights_sha256(encoder_state),
            "training": {"epochs": 3, "loss": [0.5, 0.25]},
            **changes,
        }
        return HeadInfo(**fields)

    return build
