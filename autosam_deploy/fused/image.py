"""The two ends of the graph: raw slice -> encoder input, low-resolution logits -> slice size.

Both are always float32 (or float64 with the module): ranges of raw intensities know no bound, and
labels are decided by small differences of logits.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from autosam_deploy.fused.nodes import Node
from autosam_deploy.models.preprocess import to_grey_input, to_slice_size
from autosam_deploy.spec import PreprocessSpec


class ImageInput(Node):
    """Raw slices (B, 1, H, W) -> grey encoder input (B, 1 or 2, Hs, Ws).

    The pixel mean and std are not applied here: they are folded into the patch embedding
    (`grey.fold_grey`). The second channel, 1 inside the picture and 0 in the padding, is there
    only when that folding needs it.
    """

    keep_fp32 = "normalisation"

    def __init__(
        self, preprocess: PreprocessSpec, image_size: tuple[int, int], *, padded_stem: bool = False
    ) -> None:
        """Take the recipe and the encoder's input size (height, width).

        `padded_stem`: the encoder's first convolution pads (see `models.preprocess.marks_padding`).
        """
        super().__init__()
        self.preprocess = preprocess
        self.image_size = image_size
        self.padded_stem = padded_stem

    def forward(self, slices: Tensor) -> Tensor:
        """Normalise, resize, pad."""
        return to_grey_input(
            self.enter(slices), self.preprocess, self.image_size, padded_stem=self.padded_stem
        )


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
