"""The two ends of the graph: raw slice -> encoder input, low-resolution logits -> slice size.

Both are always float32 (or float64 with the module): ranges of raw intensities know no bound, and
labels are decided by small differences of logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from autosam_deploy.fused.nodes import Node
from autosam_deploy.models.preprocess import normalise, to_slice_size, valid_size
from autosam_deploy.spec import PreprocessSpec


class ImageInput(Node):
    """Raw slices (B, 1, H, W) -> grey encoder input (B, 1 or 2, Hs, Ws).

    The pixel mean and std are not applied here: they are folded into the patch embedding
    (`encoder.fold_grey`). The second channel, 1 inside the picture and 0 in the padding, is there
    only when that folding needs it.
    """

    keep_fp32 = "normalisation"

    def __init__(self, preprocess: PreprocessSpec, image_size: tuple[int, int]) -> None:
        """Take the recipe and the encoder's input size (height, width)."""
        super().__init__()
        self.preprocess = preprocess.model_copy(update={"pixel_mean": None, "pixel_std": None})
        self.marks_padding = (
            preprocess.resize == "longest-side" and preprocess.pixel_mean is not None
        )
        self.image_size = image_size

    def forward(self, slices: Tensor) -> Tensor:
        """Normalise, resize, pad."""
        x = normalise(self.enter(slices), self.preprocess)
        if self.preprocess.resize == "stretch":
            return F.interpolate(x, self.image_size, mode="bilinear", align_corners=False)
        height, width = valid_size(slices.shape[2], slices.shape[3], self.image_size)
        x = F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
        if self.marks_padding:
            x = torch.cat([x, torch.ones_like(x)], dim=1)
        return F.pad(x, (0, self.image_size[1] - width, 0, self.image_size[0] - height))


class LogitsOutput(Node):
    """Low-resolution logits (B, K, h, w) -> logits (B, K, H, W)."""

    keep_fp32 = "logits"

    def __init__(self, preprocess: PreprocessSpec, image_size: tuple[int, int]) -> None:
        """Take the recipe and the encoder's input size (height, width)."""
        super().__init__()
        self.preprocess = preprocess
        self.image_size = image_size

    def forward(self, low: Tensor, size: Sequence[int]) -> Tensor:
        """Resize to `size` (H, W)."""
        return to_slice_size(self.enter(low), self.preprocess, self.image_size, (size[0], size[1]))
