"""The AutoSAM head: SAM's mask decoder without prompts, one token set a class."""

from __future__ import annotations

import math

import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

from autosam_deploy.models.heads.upscaling import output_upscaling
from autosam_deploy.spec import AutosamHead

#: The reference builds its decoder with `num_multimask_outputs=1`: that and one more mask token.
MASK_TOKENS = 2


class PositionEncoding(nn.Module):
    """Random Fourier features of the token grid (segment_anything/modeling/prompt_encoder.py).

    The matrix is drawn once, when a head is made, and belongs to its weights: the reference never
    loads it from SAM, so another draw is another model. Unlike SAM's class the result follows the
    dtype of the matrix, and unlike AutoSamSeg's use of it (64x64 always) the grid of the embedding.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_features: int) -> None:
        """Draw a matrix (2, num_features)."""
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, num_features))

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """Encode the centres of a grid (h, w) as (2 * num_features, h, w)."""
        matrix = self.positional_encoding_gaussian_matrix
        # The angles span several turns: half precision would lose them before the sine is taken.
        wide = torch.promote_types(matrix.dtype, torch.float32)
        rows, columns = (
            (torch.arange(size, dtype=wide, device=matrix.device) + 0.5) / size for size in grid
        )
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        angles = 2 * math.pi * ((2 * torch.stack([x, y], dim=-1) - 1) @ matrix.to(wide))
        return torch.cat([angles.sin(), angles.cos()], dim=-1).permute(2, 0, 1).to(matrix.dtype)


class AutosamDecoder(nn.Module):
    """The mask decoder of the reference (models/sam_decoder.py) with its state-dict keys.

    The IoU head and the second hypernetwork are part of the weights and play no part in logits.
    """

    def __init__(self, spec: AutosamHead) -> None:
        """Build an untrained decoder."""
        super().__init__()
        self.num_classes = spec.num_classes
        width = spec.embed_dim
        self.transformer = TwoWayTransformer(
            depth=spec.transformer_depth,
            embedding_dim=width,
            mlp_dim=spec.mlp_dim,
            num_heads=spec.num_heads,
        )
        self.iou_token = nn.Embedding(spec.num_classes, width)
        self.mask_tokens = nn.Embedding(spec.num_classes * MASK_TOKENS, width)
        self.output_upscaling = output_upscaling(width)
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(width, width, width // 8, 3) for _ in range(MASK_TOKENS)
        )
        self.iou_prediction_head = MLP(width, 256, MASK_TOKENS, 3)

    def forward(self, embedding: Tensor, position: Tensor) -> Tensor:
        """Decode all classes.

        Args:
            embedding: (B, C, h, w).
            position: encoding of the grid (C, h, w).

        Returns:
            Low-resolution logits (B, K, 4 h, 4 w).
        """
        batch, channels, height, width = embedding.shape
        classes = self.num_classes
        masks = self.mask_tokens.weight.reshape(classes, MASK_TOKENS, channels)
        tokens = torch.cat([self.iou_token.weight.unsqueeze(1), masks], dim=1)
        # The class is the fastest index of the batch, as in the reference.
        image = embedding.repeat_interleave(classes, dim=0)
        queries, pixels = self.transformer(
            image, position.expand(batch * classes, -1, -1, -1), tokens.repeat(batch, 1, 1)
        )
        pixels = pixels.transpose(1, 2).reshape(batch * classes, channels, height, width)
        upscaled = self.output_upscaling(pixels)
        # Token 0 is the IoU token; mask token 0 stands behind it.
        hyper = self.output_hypernetworks_mlps[0](queries[:, 1])
        logits: Tensor = torch.einsum("nc,nchw->nhw", hyper, upscaled)
        return logits.reshape(batch, classes, 4 * height, 4 * width)
