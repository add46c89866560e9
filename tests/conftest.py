"""Fixtures shared by every room: a very small encoder, model specs, the folder of real volumes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autosam_deploy.spec import (
    AutosamHead,
    CnnHead,
    EncoderSpec,
    HeadKind,
    LinearHead,
    ModelSpec,
    default_classes,
)


@pytest.fixture
def tiny_encoder() -> EncoderSpec:
    """6x6 token grid, windows of 4 (so both axes are padded), one global block, 32 channels out."""
    return EncoderSpec(
        name="tiny_test",
        embed_dim=48,
        depth=3,
        num_heads=3,
        global_attn_indexes=(1,),
        window_size=4,
        patch_size=8,
        out_chans=32,
        image_size=(48, 48),
    )


@pytest.fixture
def model_spec(tiny_encoder: EncoderSpec) -> Callable[..., ModelSpec]:
    """Factory: model_spec("cnn", num_classes=3, image_size=(48, 64), preprocess=...)."""

    def build(
        kind: HeadKind,
        *,
        num_classes: int = 3,
        image_size: tuple[int, int] | None = None,
        **fields: Any,
    ) -> ModelSpec:
        encoder = tiny_encoder if image_size is None else tiny_encoder.resized(image_size)
        chans = encoder.out_chans
        heads = {
            "autosam": AutosamHead(
                num_classes=num_classes, embed_dim=chans, num_heads=4, mlp_dim=40
            ),
            "cnn": CnnHead(num_classes=num_classes, embed_dim=chans, depth=2, top_channels=8),
            "linear": LinearHead(num_classes=num_classes, embed_dim=chans, final_relu=False),
        }
        return ModelSpec(
            encoder=encoder,
            head=heads[kind],
            classes=default_classes(num_classes),
            **fields,
        )

    return build


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real volumes: $AUTOSAM_TEST_DATA, else `../shared/data` beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("AUTOSAM_TEST_DATA", default))
    if not (folder / "hippocampus").is_dir():
        pytest.skip(f"real volumes not found in {folder} (set AUTOSAM_TEST_DATA)")
    return folder
