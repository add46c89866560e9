"""The whole segmenter for PyTorch on NVIDIA GPUs: raw slices in, bytes of labels out.

Made from a typed fused segmenter, so islands, weights and their names are the fp16 graph's. What
differs is how things are computed, which the kernels' own pages say (`autosam_deploy/kernels`):

=========== =====================================================================================
attention   relative positions inside the softmax loop, windows by index arithmetic
norm        layer norms in one pass, stored in half precision
input       raw slice to the operand of the patch embedding in one pass
labels      last resize and argmax in one pass
=========== =====================================================================================

Each can be left out, for measurements; PyTorch's own operations then take its place. The first
three are for ViTs; other encoders run in PyTorch's own operations (`encoders.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autosam_deploy.errors import BackendInputError
from autosam_deploy.fused.gpu.encoders import gpu_encoder
from autosam_deploy.fused.segmenter import FusedSegmenter
from autosam_deploy.kernels.labels import logits_to_labels

#: In the order in which they matter most, by the bytes that they keep off the bus.
KERNELS = ("attention", "norm", "input", "labels")


class GpuSegmenter(nn.Module):
    """Raw slices (B, 1, H, W) -> labels (B, H, W) uint8, or logits (B, K, H, W) float32.

    Slices are float32, int16, uint16 or uint8 with the `input` kernel, float32 without. `kernels`
    are those that are in use.
    """

    def __init__(self, typed: FusedSegmenter, *, kernels: tuple[str, ...] = KERNELS) -> None:
        """Rearrange a typed fused segmenter.

        Args:
            typed: from `fused.precision.apply_precision`, in any lowering; where the attention
                kernel is left out that lowering remains. It shares tensors with the result.
            kernels: which kernels to use.

        Raises:
            BackendInputError: a kernel's name is not known.
        """
        super().__init__()
        if unknown := sorted(set(kernels) - set(KERNELS)):
            raise BackendInputError(
                "unknown kernels", got=", ".join(unknown), expected="of " + ", ".join(KERNELS)
            )
        self.spec = typed.spec
        encoder = gpu_encoder(typed, frozenset(kernels))
        possible = {*encoder.uses, "labels"}.intersection(kernels)
        self.kernels = tuple(name for name in KERNELS if name in possible)
        self.encoder: nn.Module = encoder
        self.head, self.output = typed.head, typed.output

    def low_logits(self, slices: Tensor) -> Tensor:
        """Return the head's logits (B, K, h, w) of raw slices."""
        low: Tensor = self.head(self.encoder(slices))
        return low

    def logits(self, slices: Tensor) -> Tensor:
        """Return logits (B, K, H, W) float32 of raw slices (B, 1, H, W)."""
        out: Tensor = self.output(self.low_logits(slices), slices.shape[2:])
        return out.float()

    def forward(self, slices: Tensor) -> Tensor:
        """Return labels uint8 (B, H, W) of raw slices (B, 1, H, W)."""
        return self._labels(self.low_logits(slices), slices)

    def outputs(self, slices: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Return "labels" and/or "logits", as asked for, from one run."""
        low = self.low_logits(slices)
        found = {}
        if "logits" in names:
            found["logits"] = self.output(low, slices.shape[2:]).float()
        if "labels" in names:
            found["labels"] = (
                found["logits"].argmax(dim=1).to(torch.uint8)
                if "logits" in found
                else self._labels(low, slices)
            )
        return found

    def _labels(self, low: Tensor, slices: Tensor) -> Tensor:
        if "labels" not in self.kernels:
            logits: Tensor = self.output(low, slices.shape[2:])
            return logits.argmax(dim=1).to(torch.uint8)
        return logits_to_labels(
            low,
            self.spec.preprocess,
            image_size=self.spec.encoder.image_size,
            size=(slices.shape[2], slices.shape[3]),
        )
