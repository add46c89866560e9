"""The CNN head of the reference (models/SamFeatSeg.py, SegDecoderCNN)."""

from __future__ import annotations

from torch import Tensor, nn

from autosam_deploy.spec import CnnHead


def keeps_resolution(block: int, depth: int) -> bool:
    """Tell whether a block halves channels without upsampling: the first two when depth > 2."""
    return depth > 2 > block


def upsampling_factor(depth: int) -> int:
    """Return how many times the logits are larger than the token grid: 4 for depths 2 and 4."""
    return int(2 ** sum(not keeps_resolution(block, depth) for block in range(depth)))


class CnnDecoder(nn.Module):
    """Embedding (B, C, h, w) -> logits (B, K, f h, f w), f = `upsampling_factor(depth)`."""

    def __init__(self, spec: CnnHead) -> None:
        """Build an untrained decoder."""
        super().__init__()
        depth, top = spec.depth, spec.top_channels
        widest = top * 2**depth
        self.input_block = nn.Sequential(
            nn.Conv2d(spec.embed_dim, widest, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(widest, widest, 1),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.ModuleList(
            _block(top * 2 ** (depth - index), keep=keeps_resolution(index, depth))
            for index in range(depth)
        )
        self.final = nn.Sequential(
            nn.Conv2d(top, top, 3, padding=1), nn.Conv2d(top, spec.num_classes, 1)
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """Decode."""
        x = self.input_block(embedding)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.final(x)
        return out


def _block(width: int, *, keep: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True)]
    if keep:
        layers += [nn.Conv2d(width, width // 2, 3, padding=1), nn.ReLU(inplace=True)]
    else:
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True)]
        layers += [nn.ConvTranspose2d(width, width // 2, 2, stride=2)]
    return nn.Sequential(*layers)
