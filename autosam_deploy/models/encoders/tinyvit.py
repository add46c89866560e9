"""TinyViT with SAM's neck in plain PyTorch: the image encoder of MobileSAM and LiteMedSAM.

Written anew with the state-dict keys of mobile_sam/modeling/tiny_vit_sam.py, so that published
files load as they are. timm's TinyViT has other keys, another stem and no neck. Unlike upstream
the grid follows the image: it fixes 64x64.
"""

from __future__ import annotations

import re
from itertools import product

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from autosam_deploy.encoders.base import CUSTOM
from autosam_deploy.encoders.tinyvit import TINYVITS, TinyVitEncoder
from autosam_deploy.models.states import State, count_blocks, shape_of
from autosam_deploy.strict import parse_spec

_OWNER = "image encoder (a TinyViT: MobileSAM, LiteMedSAM)"
#: Entries that no pass reads: the step counts of batch norms, and the classifier that MobileSAM's
#: file still holds.
_UNUSED = re.compile(r"(?:head|norm_head)\.(?:weight|bias)|.*\.num_batches_tracked")


def bias_offsets(window: int) -> Tensor:
    """Return for every pair of tokens of a window which bias it has: (window^2, window^2) int64.

    Biases belong to the absolute offsets of rows and columns, numbered in the order in which pairs
    first show them.
    """
    points = list(product(range(window), repeat=2))
    numbers: dict[tuple[int, int], int] = {}
    found = [
        numbers.setdefault((abs(a[0] - b[0]), abs(a[1] - b[1])), len(numbers))
        for a in points
        for b in points
    ]
    return torch.tensor(found).view(window**2, window**2)


class ConvNorm(nn.Sequential):
    """A convolution without bias and its batch norm."""

    def __init__(
        self, inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        """Build; padding keeps the size at stride 1."""
        super().__init__()
        self.c = nn.Conv2d(
            inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False
        )
        self.bn = FrozenNorm(outputs)


class FrozenNorm(nn.Module):
    """Batch norm by the statistics of its weights, in training too: the encoder is frozen."""

    running_mean: Tensor
    running_var: Tensor
    eps = 1e-5

    def __init__(self, channels: int) -> None:
        """Start as the identity."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, h, w)."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class MBConv(nn.Module):
    """Expand, filter by depth, contract; the sum goes through a GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        """Build."""
        super().__init__()
        self.conv1 = ConvNorm(width, hidden, 1)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        y = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(y))


class PatchMerging(nn.Module):
    """To the width, and where the stride says so half the resolution, of the next stage."""

    def __init__(self, before: int, width: int, *, stride: int) -> None:
        """Build."""
        super().__init__()
        self.conv1 = ConvNorm(before, width, 1)
        self.conv2 = ConvNorm(width, width, 3, stride=stride, groups=width)
        self.conv3 = ConvNorm(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', h / stride, w / stride)."""
        out: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return out


class Attention(nn.Module):
    """Attention within a window, with a learned bias a head and offset."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        """Build."""
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window**2))

    def forward(self, x: Tensor) -> Tensor:
        """Map windows of tokens (B, window^2, C) to the same shape."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, tokens, self.heads, -1).transpose(1, 2)
        q, k, v = qkv.chunk(3, dim=-1)
        offsets = bias_offsets(self.window).to(x.device)
        scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
        weights = (scores + self.attention_biases[:, offsets]).softmax(dim=-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, width))
        return out


class Mlp(nn.Module):
    """Two layers with a GELU between, behind a norm."""

    def __init__(self, width: int, hidden: int) -> None:
        """Build."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to the same shape."""
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return out


class TinyVitBlock(nn.Module):
    """Windowed attention, a 3x3 convolution by depth, an MLP."""

    def __init__(self, width: int, heads: int, window: int, hidden: int) -> None:
        """Build."""
        super().__init__()
        self.window = window
        self.attn = Attention(width, heads, window)
        self.local_conv = ConvNorm(width, width, 3, groups=width)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        tokens = x.permute(0, 2, 3, 1)
        tokens = tokens + self._attend(tokens)
        tokens = self.local_conv(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = (tokens + self.mlp(tokens)).permute(0, 3, 1, 2)
        return out

    def _attend(self, x: Tensor) -> Tensor:
        """Attend within windows; the grid is padded with zeros, before the norm as upstream."""
        batch, height, width, channels = x.shape
        side = self.window
        down, across = -(-height // side), -(-width // side)
        x = F.pad(x, (0, 0, 0, across * side - width, 0, down * side - height))
        x = x.view(batch, down, side, across, side, channels).transpose(2, 3)
        x = self.attn(x.reshape(-1, side * side, channels))
        x = x.view(batch, down, across, side, side, channels).transpose(2, 3)
        return x.reshape(batch, down * side, across * side, channels)[:, :height, :width]


class Stage(nn.Module):
    """Blocks of one resolution, and the merging behind them; the last stage has none."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        """Build."""
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the next stage's input."""
        for block in self.blocks:
            x = block(x)
        if self.downsample is not None:
            x = self.downsample(x)
        return x


class Stem(nn.Module):
    """Pixels to the tokens of the first stage."""

    def __init__(self, spec: TinyVitEncoder) -> None:
        """Build."""
        super().__init__()
        width = spec.embed_dims[0]
        size, stride = (1, 1) if spec.stem_stride == 1 else (3, 2)
        self.seq = nn.Sequential(
            ConvNorm(3, width // 2, size, stride=stride),
            nn.GELU(),
            ConvNorm(width // 2, width, size, stride=stride),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, C, H / stride, W / stride)."""
        out: Tensor = self.seq(x)
        return out


class TinyVit(nn.Module):
    """Image (B, 3, H, W) -> embedding (B, out_chans, *grid)."""

    def __init__(self, spec: TinyVitEncoder) -> None:
        """Build an encoder with untrained weights."""
        super().__init__()
        self.patch_embed = Stem(spec)
        self.layers = nn.ModuleList(_stage(spec, number) for number in range(4))
        channels = spec.out_chans
        self.neck = nn.Sequential(
            nn.Conv2d(spec.embed_dims[3], channels, 1, bias=False),
            LayerNorm2d(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            LayerNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Encode."""
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.neck(x)
        return out


def _stage(spec: TinyVitEncoder, number: int) -> Stage:
    width, blocks = spec.embed_dims[number], range(spec.depths[number])
    merging = None
    if number < 3:
        following = spec.embed_dims[number + 1]
        merging = PatchMerging(width, following, stride=spec.stride_into(number + 1))
    if number == 0:
        return Stage([MBConv(width, int(width * spec.expand_ratio)) for _ in blocks], merging)
    heads, window = spec.num_heads[number - 1], spec.window_sizes[number - 1]
    hidden = int(width * spec.mlp_ratio)
    return Stage([TinyVitBlock(width, heads, window, hidden) for _ in blocks], merging)


def build(spec: TinyVitEncoder) -> TinyVit:
    """Build an encoder with untrained weights."""
    return TinyVit(spec)


def is_unused(name: str) -> bool:
    """Tell whether an entry is one that no pass reads."""
    return _UNUSED.fullmatch(name) is not None


def random_weight(name: str, shape: torch.Size) -> tuple[float, float]:
    """Return mean and standard deviation of a random weight, no norm and no bias at its neutral."""
    if name.endswith("attention_biases"):
        return 0.0, 0.5
    if name.endswith("running_var"):
        # Far from zero: a variance must be positive.
        return 1.0, 0.05
    if name.endswith(("bias", "running_mean")):
        return 0.0, 0.02
    if len(shape) == 1:
        return 1.0, 0.1
    return 0.0, float(shape[1:].numel()) ** -0.5


def infer(state: State) -> TinyVitEncoder:
    """Recognise the encoder that weights are of.

    All but the image size comes from shapes. No weight depends on that: a stem of 3x3 convolutions
    is taken for MobileSAM's 1024x1024, one of 1x1 convolutions for LiteMedSAM's 256x256.

    Args:
        state: names without `image_encoder.`.

    Raises:
        CheckpointError: the weights are not those of a TinyViT.
        SpecError: the shapes contradict each other.
    """

    def first(name: str, rank: int) -> tuple[int, ...]:
        return shape_of(state, name, rank=rank, owner=_OWNER)

    _, _, kernel, _ = first("patch_embed.seq.0.c.weight", 4)
    widths = [first("patch_embed.seq.2.c.weight", 4)[0]]
    widths += [first(f"layers.{n}.downsample.conv1.c.weight", 4)[0] for n in range(3)]
    tables = [first(f"layers.{n}.blocks.0.attn.attention_biases", 2) for n in (1, 2, 3)]
    stem_stride = 1 if kernel == 1 else 4
    fields = {
        "embed_dims": tuple(widths),
        "depths": tuple(count_blocks(state, f"layers.{n}.blocks.") for n in range(4)),
        "num_heads": tuple(heads for heads, _ in tables),
        "window_sizes": tuple(round(offsets**0.5) for _, offsets in tables),
        "stem_stride": stem_stride,
        "mlp_ratio": first("layers.1.blocks.0.mlp.fc1.weight", 2)[0] / widths[1],
        "expand_ratio": first("layers.0.blocks.0.conv1.c.weight", 4)[0] / widths[0],
        "out_chans": first("neck.0.weight", 4)[0],
    }
    for known in TINYVITS:
        if known.model_dump(include=set(fields)) == fields:
            return known
    size = (256, 256) if stem_stride == 1 else (1024, 1024)
    fields |= {"name": CUSTOM, "image_size": size}
    return parse_spec(TinyVitEncoder, fields, what="the image encoder")
