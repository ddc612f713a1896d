"""Encoder and decoder of latent diffusion's autoencoders (Rombach et al., 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.layers.diffusion.blocks import Upsample, conv3
from sisbench.methods.layers.norms import GroupNorm


def _norm(channels: int) -> GroupNorm:
    return GroupNorm(32, channels, eps=1e-6)


class Block(nn.Module):
    """Residual block: twice norm, SiLU, convolution.

    Args:
        channels, out: of the input and of the output.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(channels), conv3(channels, out)
        self.norm2, self.conv2 = _norm(out), conv3(out, out)
        if channels != out:
            self.nin_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class PixelAttention(nn.Module):
    """Self-attention of all pixels, one head, with a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> the same."""
        y = self.norm(x)
        q, k, v = (
            f(y).flatten(2).transpose(1, 2).unsqueeze(1) for f in (self.q, self.k, self.v)
        )  # (B, 1, h*w, D)
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        return x + self.proj_out(mixed.unflatten(2, x.shape[2:]))


class Middle(nn.Module):
    """Block, attention, block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = Block(channels, channels)
        self.attn_1 = PixelAttention(channels)
        self.block_2 = Block(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> the same."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Down(nn.Module):
    """Half the size: one zero row and column at the far sides, then a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h/2, w/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    """The blocks of one size, and the change of size behind them."""

    def __init__(self, widths: Sequence[int], resize: nn.Module | None, name: str) -> None:
        super().__init__()
        self.block = nn.ModuleList([Block(a, b) for a, b in pairwise(widths)])
        self.resize_name = name
        if resize is not None:
            self.add_module(name, resize)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D', h', w')."""
        for block in self.block:
            x = block(x)
        resize = getattr(self, self.resize_name, None)
        if isinstance(resize, Upsample):
            return resize(x, resize.kernel())
        return x if resize is None else resize(x)


class Encoder(nn.Module):
    """Image (B, 3, H, W) -> (B, z, H/f, W/f)."""

    def __init__(self, z: int, width: int, multipliers: Sequence[int], blocks: int) -> None:
        super().__init__()
        widths = [width * m for m in multipliers]
        self.conv_in = conv3(3, width)
        self.down = nn.ModuleList()
        for i, ch in enumerate(widths):
            before = widths[i - 1] if i else width
            down = Down(ch) if i < len(widths) - 1 else None
            self.down.append(Level([before] + [ch] * blocks, down, "downsample"))
        self.mid = Middle(widths[-1])
        self.norm_out, self.conv_out = _norm(widths[-1]), conv3(widths[-1], z)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, z, H/f, W/f)."""
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """(B, z, h, w) -> image (B, 3, f*h, f*w), not clamped."""

    def __init__(self, z: int, width: int, multipliers: Sequence[int], blocks: int) -> None:
        super().__init__()
        widths = [width * m for m in multipliers]
        self.conv_in = conv3(z, widths[-1])
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList()  # by level: run from the last to the first
        for i, ch in enumerate(widths):
            before = widths[min(i + 1, len(widths) - 1)]
            up = Upsample(ch) if i else None
            self.up.append(Level([before] + [ch] * (blocks + 1), up, "upsample"))
        self.norm_out, self.conv_out = _norm(widths[0]), conv3(widths[0], 3)

    def forward(self, z: Tensor) -> Tensor:
        """(B, z, h, w) -> (B, 3, f*h, f*w)."""
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))
