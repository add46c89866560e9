"""The frozen encoder at work: raw slices -> embeddings, on the fastest runtime that is there.

A runtime is one class and one row of `RUNTIMES`; both compute the fused encoder in float32.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.errors import DeviceUnavailableError, TrainingError
from autosam_deploy.extras import require
from autosam_deploy.fused.embedder import FusedEmbedder
from autosam_deploy.fused.tracing import write_onnx
from autosam_deploy.models.checkpoints import Checkpoint
from autosam_deploy.models.encoders import resize_encoder_state
from autosam_deploy.models.image_size import ImageSize
from autosam_deploy.models.matching import encoder_at, encoder_weights
from autosam_deploy.spec import PreprocessSpec, TensorSpec, WeightsInfo

RuntimeName = Literal["torch", "onnxruntime"]

#: Opset of `Attention`, which the graph for ONNX Runtime is written with.
_OPSET = 23
#: Tokens from which the masked lowering is faster than the augmented one in PyTorch on a CPU.
_MANY_TOKENS = 1024
#: Pixels of encoder input in a batch, as in the runtime's Engine.
_BATCH_PIXELS = 1024 * 1024
_MOST = 16


@dataclass(frozen=True, eq=False)
class FrozenEncoder:
    """An encoder's weights, what becomes of a slice before them, and the hash that names them.

    weights: which published ones they are, if known.
    """

    spec: EncoderSpec
    preprocess: PreprocessSpec
    state: Mapping[str, Tensor]
    sha256: str
    random: bool
    weights: WeightsInfo | None = None

    @property
    def batch(self) -> int:
        """Slices a call: more gain nothing on a CPU."""
        height, width = self.spec.image_size
        return max(1, min(_MOST, _BATCH_PIXELS // (height * width)))


def frozen_encoder(
    sam: Checkpoint,
    *,
    preprocess: PreprocessSpec | None = None,
    image_size: ImageSize | None = None,
) -> FrozenEncoder:
    """Take the encoder out of a checkpoint.

    Args:
        sam: SAM's weights.
        preprocess: None is AutoSAM's own.
        image_size: encoder input (height, width); None is the size of the file's tables.

    Raises:
        CheckpointError: the file holds no encoder, or tables that were interpolated for another
            size.
        SpecError: the encoder cannot take the size.
    """
    state = encoder_weights(sam)
    return FrozenEncoder(
        spec=encoder_at(sam, image_size),
        preprocess=preprocess or PreprocessSpec(),
        state=state,
        sha256=str(sam.encoder_sha256),
        random=sam.random_encoder,
        weights=sam.weights,
    )


class Embedding(ABC):
    """A loaded encoder on a runtime. A context manager that frees it."""

    name: RuntimeName

    def __init__(self, encoder: FrozenEncoder, *, device: torch.device, threads: int) -> None:
        """Load the encoder.

        Args:
            encoder: what to load.
            device: where to compute.
            threads: CPU threads.
        """
        self.encoder = encoder
        self.device = device
        self.threads = threads

    def __call__(self, slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed raw slices (B, H, W) as (B, C, Sh, Sw)."""
        found = self._embed(np.ascontiguousarray(slices[:, None]))
        if not np.isfinite(found).all():
            raise TrainingError(
                "the encoder gives embeddings that are not finite",
                got="NaN or infinity",
                todo="check the encoder's weights with autosam-export inspect",
            )
        return found

    @abstractmethod
    def _embed(self, slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed (B, 1, H, W)."""

    def close(self) -> None:  # noqa: B027 - most have nothing to free
        """Free what was loaded."""

    def __enter__(self) -> Embedding:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Free it."""
        self.close()


def _fused(encoder: FrozenEncoder, lowering: str) -> FusedEmbedder:
    state = resize_encoder_state(encoder.state, encoder.spec)
    return FusedEmbedder(state, encoder.spec, preprocess=encoder.preprocess, lowering=lowering)


class TorchEmbedding(Embedding):
    """The fused encoder in PyTorch, on any of its devices."""

    name = "torch"

    def __init__(self, encoder: FrozenEncoder, *, device: torch.device, threads: int) -> None:
        """Fuse it."""
        super().__init__(encoder, device=device, threads=threads)
        rows, columns = encoder.spec.grid
        masked = device.type == "cpu" and rows * columns >= _MANY_TOKENS
        self.module = _fused(encoder, "masked" if masked else "augmented").to(device)

    def _embed(self, slices: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            out: Tensor = self.module(torch.from_numpy(slices).to(self.device))
        found: NDArray[np.float32] = out.cpu().numpy()
        return found


class OnnxEmbedding(Embedding):
    """The fused encoder as an ONNX graph on ONNX Runtime's CPU provider.

    The graph is written to a temporary folder, which costs a minute for a vit_b.
    """

    name = "onnxruntime"

    def __init__(self, encoder: FrozenEncoder, *, device: torch.device, threads: int) -> None:
        """Write the graph and load it."""
        super().__init__(encoder, device=device, threads=threads)
        if device.type != "cpu":
            raise DeviceUnavailableError(
                "embeddings on ONNX Runtime", got=f"device {device}", expected="cpu"
            )
        ort = require("onnxruntime", extra="train", feature="embedding slices")
        spec = encoder.spec
        height, width = spec.image_size
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        with tempfile.TemporaryDirectory(prefix="autosam-encoder-") as folder:
            path = Path(folder) / "encoder.onnx"
            write_onnx(
                _fused(encoder, "masked"),
                path,
                example=torch.rand(2, 1, height - 3, width - 5),
                source=TensorSpec(name="slices", dtype="float32", shape=("B", 1, "H", "W")),
                outputs=[
                    TensorSpec(
                        name="embedding",
                        dtype="float32",
                        shape=("B", spec.out_chans, *spec.grid),
                    )
                ],
                opset=_OPSET,
            )
            self.session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )

    def _embed(self, slices: NDArray[np.float32]) -> NDArray[np.float32]:
        (found,) = self.session.run(["embedding"], {"slices": slices})
        result: NDArray[np.float32] = found
        return result

    def close(self) -> None:
        """Free the session."""
        del self.session


RUNTIMES: dict[RuntimeName, type[Embedding]] = {
    "torch": TorchEmbedding,
    "onnxruntime": OnnxEmbedding,
}
#: Slices from which on writing a graph pays, and multiply-adds of one from which on it ever does:
#: LiteMedSAM has 36 billion, a vit_tiny for trying things out a hundredth of that.
_MANY_SLICES, _MUCH_WORK = 40, 10_000_000_000


def choose_runtime(
    encoder: FrozenEncoder, *, slices: int, device: torch.device
) -> tuple[RuntimeName, str]:
    """Return the runtime that will be done first, and why.

    ONNX Runtime needs about two thirds of PyTorch's time on a quiet CPU (docs/results); its graph
    must be written first: that pays for long work on big encoders. The rule knows the amount of
    work alone, so equal runs choose alike.
    """
    if device.type != "cpu":
        return "torch", f"it runs on {device}"
    if slices >= _MANY_SLICES and encoder.spec.macs(padded=False) >= _MUCH_WORK:
        return "onnxruntime", "the fastest on a CPU for this much work"
    return "torch", "too little work for writing a graph first"
