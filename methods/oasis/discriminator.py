"""OASIS' discriminator: a U-Net that labels every pixel with its class, or as fake."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.layers.spade import leaky
from sisbench.methods.layers.training.spectral import normalised

_DOWN = (2, 2, 4, 4, 8, 8)
"""Output channels of the halvings, in units of the width factor."""
_UP = (8, 4, 4, 2, 2, 1)
"""Output channels of the doublings."""


def _conv(fin: int, fout: int, kernel: int) -> nn.Module:
    return normalised(nn.Conv2d(fin, fout, kernel, padding=kernel // 2))


class DownBlock(nn.Module):
    """Residual block that halves the size.

    Args:
        fin, fout: channels.
        first: reads the image: no activation before it, and its shortcut is halved first.
    """

    def __init__(self, fin: int, fout: int, first: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(fin, fout, 3), _conv(fout, fout, 3)
        self.conv_s = _conv(fin, fout, 1) if first or fin != fout else None
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        """(B, fin, h, w) -> (B, fout, h/2, w/2)."""
        inner = self.conv2(leaky(self.conv1(x if self.first else leaky(x))))
        return self._shortcut(x) + F.avg_pool2d(inner, 2)

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.first:
            x = F.avg_pool2d(x, 2)
        x = x if self.conv_s is None else self.conv_s(x)
        return x if self.first else F.avg_pool2d(x, 2)


class UpBlock(nn.Module):
    """Residual block that doubles the size, nearest."""

    def __init__(self, fin: int, fout: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(fin, fout, 3), _conv(fout, fout, 3)
        self.conv_s = _conv(fin, fout, 1) if fin != fout else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, fin, h, w) -> (B, fout, 2h, 2w)."""
        large = F.interpolate(x, scale_factor=2.0, mode="nearest")
        inner = self.conv2(leaky(self.conv1(leaky(large))))
        return (large if self.conv_s is None else self.conv_s(large)) + inner


class SegmentationDiscriminator(nn.Module):
    """Photograph to logits of fake (channel 0) and of each class (section 3.1 of the paper).

    Args:
        classes: of the label map.
        width: width factor.
    """

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        down = [width * w for w in _DOWN]
        up = [width * w for w in _UP]
        self.body_down = nn.ModuleList(
            DownBlock(fin, fout, i == 0) for i, (fin, fout) in enumerate(pairwise([3, *down]))
        )
        skips = [0, *reversed(down[:-1])]  # beside what comes from below
        before = [down[-1], *up[:-1]]
        self.body_up = nn.ModuleList(
            UpBlock(skip + low, fout) for skip, low, fout in zip(skips, before, up, strict=True)
        )
        self.layer_up_last = nn.Conv2d(up[-1], classes + 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W), sides multiples of 64 -> logits (B, classes + 1, H, W)."""
        x, found = image, []
        for block in self.body_down:
            x = block(x)
            found.append(x)
        found.pop()
        for i, block in enumerate(self.body_up):
            x = block(torch.cat([found.pop(), x], 1) if i else x)
        return self.layer_up_last(x)
