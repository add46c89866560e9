"""The U-Net of the baselines: MONAI's BasicUNet as it is, its encoder half, its input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from numpy.typing import NDArray
from torch import Tensor, nn

from autosam_deploy.errors import UsageError
from autosam_deploy.extras import require
from autosam_deploy.models.preprocess import normalise
from autosam_deploy.models.states import check_state
from autosam_deploy.spec import PreprocessSpec

#: Channels of the five levels, top to bottom: half of the reference's, for CPUs, and no more than
#: 256; 4.7 million weights.
CHANNELS = (32, 64, 128, 256, 256)

#: Sides of the input are multiples of this: the U-Net halves them four times.
STEP = 16
SMALLEST, LARGEST = 32, 256  # under 32 the deepest level is one pixel, which has no variance

#: Parts of MONAI's BasicUNet that lead down.
_ENCODER = ("conv_0", "down_1", "down_2", "down_3", "down_4")


def check_network(channels: tuple[int, ...], size: tuple[int, int] | None) -> None:
    """Refuse channels and sizes that the U-Net cannot have.

    Args:
        channels: of the five levels.
        size: input (height, width), None leaves the choice to `choose_size`.

    Raises:
        UsageError: naming what is wrong.
    """
    if len(channels) != len(_ENCODER) or min(channels) < 2:
        raise UsageError(
            "channels of the U-Net",
            got=str(channels),
            expected="five numbers, 2 or more",
        )
    if size is not None and any(side < SMALLEST or side % STEP for side in size):
        raise UsageError(
            "input size of the U-Net",
            got=str(size),
            expected=f"multiples of {STEP}, {SMALLEST} or more",
        )


def build_unet(num_classes: int, channels: tuple[int, ...], *, seed: int) -> nn.Module:
    """Return a U-Net (B, 1, H, W) -> (B, K, H, W) with seeded random weights.

    Raises:
        MissingExtraError: MONAI is not installed.
    """
    nets = require("monai.networks.nets", extra="train", feature="the U-Net baselines")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network: nn.Module = nets.BasicUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=num_classes,
            # The sixth number is the width behind the last upsampling.
            features=(*channels, channels[0]),
        )
    return network


def encode(network: nn.Module, x: Tensor) -> Tensor:
    """Run the encoder half: (B, 1, H, W) -> (B, channels[4], H / 16, W / 16)."""
    for part in _ENCODER:
        x = network.get_submodule(part)(x)
    return x


def encoder_state(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of the encoder's weights under their names in the U-Net."""
    return {
        name: tensor.detach().clone()
        for name, tensor in network.state_dict().items()
        if name.partition(".")[0] in _ENCODER
    }


def load_encoder(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put an encoder's weights into a U-Net; the decoder keeps its own.

    Raises:
        CheckpointError: a weight is missing, unknown or misshapen.
    """
    shapes = {name: tensor.shape for name, tensor in encoder_state(network).items()}
    check_state(state, shapes)
    network.load_state_dict(dict(state), strict=False)


def choose_size(slices: Iterable[NDArray[np.float32]]) -> tuple[int, int]:
    """Return the sides of the largest slice, rounded up to a multiple of 16, from 32 to 256."""
    shapes = [one.shape for one in slices]
    return _side(max(shape[0] for shape in shapes)), _side(max(shape[1] for shape in shapes))


def _side(pixels: int) -> int:
    return min(max(-(-pixels // STEP) * STEP, SMALLEST), LARGEST)


def to_input(slices: Sequence[NDArray[np.float32]], size: tuple[int, int]) -> Tensor:
    """Turn raw slices into the U-Net's input, as the segmenter does for its encoder.

    Args:
        slices: raw, each (H, W); sizes may differ.
        size: input (height, width).

    Returns:
        (B, 1, height, width) float32, each slice in [0, 1].
    """
    spec = PreprocessSpec()  # slice-minmax
    return torch.cat(
        [
            F.interpolate(
                normalise(torch.from_numpy(np.array(one, np.float32))[None, None], spec),
                size,
                mode="bilinear",
                align_corners=False,
            )
            for one in slices
        ]
    )


def check_slices(slices: NDArray[np.float32], *, name: str) -> None:
    """Refuse slices that would make every weight NaN.

    Raises:
        UsageError: not (N, H, W), or not finite; naming the volume.
    """
    if slices.ndim != 3:
        raise UsageError(f"slices of '{name}'", got=f"shape {slices.shape}", expected="(N, H, W)")
    if wrong := int(slices.size - np.isfinite(slices).sum()):
        raise UsageError(
            f"slices of '{name}' hold values that are not finite",
            got=f"{wrong} of {slices.size}",
            todo="mend or leave out the volume",
        )
