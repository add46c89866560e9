"""Image encoders in plain PyTorch: the truth for parity. One file and one row of `KINDS` a kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import CheckpointError
from autosam_deploy.models.encoders import tinyvit, vit
from autosam_deploy.models.states import State, check_state, listing, seeded_state, state_shapes


def _never(_name: str) -> bool:
    return False


def _same(state: State, _spec: Any) -> dict[str, Tensor]:
    return dict(state)


@dataclass(frozen=True)
class Kind:
    """What the other rooms need of a kind of encoder.

    build: spec -> module, image (B, 3, H, W) -> embedding (B, out_chans, *spec.grid), with the
    state-dict keys of published files. marker: a weight that no other kind has. infer: weights ->
    spec. random_weight: name, shape -> mean and standard deviation of a random weight. is_unused:
    of entries that no pass reads. resize: weights -> weights whose tables fit the spec's grid.
    is_resizable: names of such tables. any_length: tables that the kind itself takes in any length.
    """

    build: Callable[[Any], nn.Module]
    marker: str
    infer: Callable[[State], EncoderSpec]
    random_weight: Callable[[str, torch.Size], tuple[float, float]]
    is_unused: Callable[[str], bool] = _never
    resize: Callable[[State, Any], dict[str, Tensor]] = _same
    is_resizable: Callable[[str], bool] = _never
    any_length: Callable[[str], bool] = _never


KINDS: dict[str, Kind] = {
    "vit": Kind(
        build=vit.build,
        marker="patch_embed.proj.weight",
        infer=vit.infer,
        random_weight=vit.random_weight,
        resize=vit.resize,
        is_resizable=vit.is_resizable,
        any_length=vit.is_relative,
    ),
    "tinyvit": Kind(
        build=tinyvit.build,
        marker="patch_embed.seq.0.c.weight",
        infer=tinyvit.infer,
        random_weight=tinyvit.random_weight,
        is_unused=tinyvit.is_unused,
    ),
}


def build_encoder(spec: EncoderSpec) -> nn.Module:
    """Build an encoder with untrained weights: (B, 3, H, W) -> (B, out_chans, *spec.grid)."""
    return KINDS[spec.kind].build(spec)


def encoder_shapes(spec: EncoderSpec) -> dict[str, torch.Size]:
    """Return the names and shapes of an encoder's weights."""
    return state_shapes(lambda: build_encoder(spec))


def shapes_of_any_length(spec: EncoderSpec) -> frozenset[str]:
    """Return the names of tables that published files hold in any length."""
    return frozenset(filter(KINDS[spec.kind].any_length, encoder_shapes(spec)))


def kind_of(names: State) -> str | None:
    """Return the kind of encoder that weights are of (names without `image_encoder.`), or None."""
    return next((kind for kind, row in KINDS.items() if row.marker in names), None)


def read_encoder(state: State) -> tuple[EncoderSpec, dict[str, Tensor]]:
    """Recognise an encoder by its weights.

    Args:
        state: names without `image_encoder.`, for any image size.

    Returns:
        The encoder, and its weights without entries that no pass reads.

    Raises:
        CheckpointError: the weights are of no kind that is known, or incomplete.
        SpecError: the shapes contradict each other.
    """
    kind = kind_of(state)
    if kind is None:
        raise CheckpointError(
            "its image encoder is of no known kind",
            got=f"names such as {listing(sorted(state))}",
            expected=" or ".join(f"'{row.marker}' ({name})" for name, row in KINDS.items()),
        )
    row = KINDS[kind]
    used = {name: tensor for name, tensor in state.items() if not row.is_unused(name)}
    return row.infer(state), used


def resize_encoder_state(state: State, spec: EncoderSpec) -> dict[str, Tensor]:
    """Fit an encoder's weights to another token grid.

    Positional tables of a ViT are interpolated (`vit.resize`); nothing in a TinyViT depends on the
    grid. Tensors that fit already are returned as they are.

    Args:
        state: the encoder's weights, for any grid.
        spec: the encoder with the wanted `image_size`.

    Raises:
        CheckpointError: a weight is missing, unknown, or of another encoder than `spec`.
    """
    row, shapes = KINDS[spec.kind], encoder_shapes(spec)
    check_state(state, shapes, resizable=frozenset(filter(row.is_resizable, shapes)))
    resized = row.resize(state, spec)
    check_state(resized, shapes)
    return resized


def seeded_encoder_state(spec: EncoderSpec, seed: int) -> dict[str, Tensor]:
    """Return random weights that depend on nothing but `spec` and `seed`."""
    return seeded_state(encoder_shapes(spec), KINDS[spec.kind].random_weight, seed=seed)
