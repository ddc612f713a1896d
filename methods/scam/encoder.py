"""The SAT encoder: tokens of each class read the photograph from fine to coarse."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sisbench.methods.scam.attention import Attention, Pixels, TokenUpdate, leaky, position_code
from sisbench.methods.scam.options import Config
from sisbench.methods.scam.regions import Regions
from sisbench.methods.scam.tokens import TokenIndex


class Level(nn.Module):
    """Tokens attend the pixels of their class, then the tokens of their class."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        d, a = config.dim, config.encoder_attention
        cross = Attention(d, channels, a, config.cross_heads)
        self.cross_attention = TokenUpdate(config.tokens, d, cross)
        if config.self_attention:
            own = Attention(d, d, a, config.self_heads)
            self.self_attention = TokenUpdate(config.tokens, d, own)

    def forward(self, tokens: Tensor, index: TokenIndex, pixels: Pixels) -> Tensor:
        """Tokens (B, T, d) -> (B, T, d)."""
        tokens = self.cross_attention(tokens, index, pixels)
        if not hasattr(self, "self_attention"):
            return tokens
        sat = self.self_attention
        return sat.update(tokens, sat.attention.within_classes(tokens, index))


class Encoder(nn.Module):
    """Photograph and label map to the tokens of every class."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.index = TokenIndex(config.classes, config.k0, config.k)
        self.position = config.position
        self.latents = nn.Parameter(torch.randn(config.tokens, config.dim))
        widths = [3, *(config.features * 2**i for i in range(1, config.levels))]
        self.convs = nn.ModuleDict(
            {
                str(i): nn.Conv2d(widths[i - 1], widths[i], 3, stride=2, padding=1)
                for i in range(1, config.levels)
            }
        )
        attended = [3 + config.position, *widths[1:]]
        self.backbone = nn.ModuleDict(
            {f"block_{i}": Level(width, config) for i, width in enumerate(attended)}
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor, regions: Regions) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> tokens (B, T, d)."""
        x = image.contiguous(memory_format=torch.channels_last)
        tokens = self.latents.expand(image.shape[0], -1, -1)
        for i, level in enumerate(self.backbone.values()):
            x = leaky(self.convs[str(i)](x)) if i else x
            tokens = level(tokens, self.index, Pixels.of(self.located(x, first=i == 0), regions))
        return tokens

    def located(self, x: Tensor, first: bool) -> Tensor:
        """(B, D, h, w) -> (B, h, w, D) with position codes: beside a photograph, else added."""
        rows = x.permute(0, 2, 3, 1)
        size = (x.shape[2], x.shape[3])
        if not first:
            return rows + position_code(x.shape[1], *size, x.device).to(x.dtype)
        code = position_code(self.position, *size, x.device).to(x.dtype)
        return torch.cat([rows, code.expand(len(x), -1, -1, -1)], 3)
