"""TinyViT: keys and numbers of the published classes, files, sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from autosam_deploy.encoders import ENCODERS, TinyVitEncoder
from autosam_deploy.errors import CheckpointError, SpecError
from autosam_deploy.models.checkpoints import read_checkpoint, write_encoder
from autosam_deploy.models.encoders import (
    build_encoder,
    encoder_shapes,
    read_encoder,
    resize_encoder_state,
    seeded_encoder_state,
)
from autosam_deploy.models.image_size import at_image_size

TINY = ENCODERS["tinyvit_tiny"]
#: Of LiteMedSAM's own class, see below.
PINNED = (0.4413588127610546, 0.8064129935779791)


def test_keys_of_litemedsam_are_those_of_its_file() -> None:
    shapes = encoder_shapes(ENCODERS["litemedsam"])
    # The published file has 298 entries; those that no pass reads are counts of steps.
    assert len(shapes) == 271
    assert shapes["patch_embed.seq.0.c.weight"] == (32, 3, 1, 1)
    assert shapes["layers.0.blocks.1.conv2.bn.running_var"] == (256,)
    assert shapes["layers.2.blocks.5.attn.attention_biases"] == (5, 196)
    assert shapes["layers.2.downsample.conv2.c.weight"] == (320, 1, 3, 3)
    assert shapes["neck.2.weight"] == (256, 256, 3, 3)
    assert encoder_shapes(ENCODERS["mobilesam"])["patch_embed.seq.0.c.weight"] == (32, 3, 3, 3)


def test_numbers_are_those_of_the_published_class() -> None:
    """LiteMedSAM's own class gave these in float64, on the same weights and image: equal bits."""
    spec = ENCODERS["litemedsam"]
    encoder = build_encoder(spec).double()
    encoder.load_state_dict(
        {name: one.double() for name, one in seeded_encoder_state(spec, 0).items()}, strict=True
    )
    rows = torch.arange(256, dtype=torch.float64)
    image = torch.stack(
        [(rows[:, None] * rows).sin(), (rows[:, None] + rows).cos(), rows / 256 + 0 * rows[:, None]]
    )
    with torch.no_grad():
        found = encoder(image[None])
    assert found.shape == (1, 256, 64, 64)
    assert float(found[0, :, 5, 60].sum()) == pytest.approx(PINNED[0], rel=1e-9)
    assert float(found.abs().mean()) == pytest.approx(PINNED[1], rel=1e-9)


@pytest.mark.parametrize("name", ["litemedsam", "mobilesam", "tinyvit_tiny"])
def test_encoders_are_recognised_by_their_shapes(name: str) -> None:
    shapes = encoder_shapes(ENCODERS[name])
    assert read_encoder({key: torch.empty(one) for key, one in shapes.items()})[0] == ENCODERS[name]


def test_others_are_custom() -> None:
    spec = TinyVitEncoder.model_validate({**TINY.model_dump(), "depths": (2, 1, 1, 1)})
    found, _ = read_encoder({key: torch.empty(one) for key, one in encoder_shapes(spec).items()})
    assert found == spec.model_copy(update={"name": "custom", "image_size": (256, 256)})


def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights as MobileSAM's file holds them: counts of steps and a classifier beside."""
    extra = {
        f"{name.removesuffix('running_var')}num_batches_tracked": torch.tensor(7)
        for name in state
        if name.endswith("running_var")
    }
    extra |= {"head.weight": torch.zeros(10, 48), "norm_head.bias": torch.zeros(48)}
    return {f"image_encoder.{name}": one for name, one in {**state, **extra}.items()}


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_published_files_load_strictly(tmp_path: Path, wrapper: str | None) -> None:
    state = seeded_encoder_state(TINY, 3)
    content = published(state)
    torch.save(content if wrapper is None else {wrapper: content}, tmp_path / "tiny.pth")
    found = read_checkpoint(tmp_path / "tiny.pth")
    assert (found.layout, found.encoder, found.missing, found.unexpected) == ("sam", TINY, (), ())
    assert found.encoder_state is not None
    build_encoder(TINY).load_state_dict(found.encoder_state, strict=True)
    # What no pass reads has no part in the hash.
    write_encoder(tmp_path / "again.safetensors", state)
    assert read_checkpoint(tmp_path / "again.safetensors").encoder_sha256 == found.encoder_sha256


def test_a_weight_that_is_missing_is_named(tmp_path: Path) -> None:
    content = published(seeded_encoder_state(TINY, 3))
    del content["image_encoder.layers.1.blocks.0.local_conv.bn.running_var"]
    torch.save(content, tmp_path / "tiny.pth")
    found = read_checkpoint(tmp_path / "tiny.pth")
    assert found.missing == ("image_encoder.layers.1.blocks.0.local_conv.bn.running_var",)


def test_weights_of_no_kind_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"of no known kind; .*'stages\.0\.weight'.*tinyvit"):
        read_encoder({"stages.0.weight": torch.empty(3)})


def test_any_size_of_whole_tokens() -> None:
    spec = at_image_size(TINY, (40, 28))
    assert spec.grid == (10, 7)
    state = seeded_encoder_state(TINY, 0)
    encoder = build_encoder(spec)
    encoder.load_state_dict(resize_encoder_state(state, spec), strict=True)
    assert encoder(torch.rand(2, 3, 40, 28)).shape == (2, 256, 10, 7)
    with pytest.raises(SpecError, match="multiples of 4, 20 or more, one window of 5 tokens; take"):
        at_image_size(TINY, (30, 40))


def test_the_encoder_stays_frozen_in_training_mode() -> None:
    encoder = build_encoder(TINY)
    encoder.load_state_dict(seeded_encoder_state(TINY, 1))
    image = torch.rand(2, 3, 64, 64)
    before = encoder.eval()(image)
    torch.testing.assert_close(encoder.train()(image), before)
    assert encoder.state_dict().keys() == encoder_shapes(TINY).keys()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_heads", (5, 2, 3), "num_heads 5 does not divide 24"),
        ("embed_dims", (15, 24, 32, 48), "even number"),
        ("depths", (1, 1, 0, 1), "must be positive"),
        ("image_size", (62, 64), "multiples of 4"),
        ("stem_stride", 2, "stem_stride"),
    ],
)
def test_impossible_encoders_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TinyVitEncoder.model_validate({**TINY.model_dump(), field: value})
