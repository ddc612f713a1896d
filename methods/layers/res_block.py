"""The residual block without conditioning that CA2-SIS and Semantic-VAE build their decoders of."""

from __future__ import annotations

import math

from torch import Tensor, nn

from sisbench.methods.layers.labels import interpolate_nearest
from sisbench.methods.layers.norms import GroupNorm

_GROUPS = 32


def norm_groups(channels: int) -> int:
    """Groups of a norm: 32, as officially, where that divides ``channels``."""
    return math.gcd(_GROUPS, channels)


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice; with ``up``, both branches are doubled in size (nearest).

    Args:
        inp, out: channels; norms have 32 groups, or as many as divide narrower ones.
        up: whether to double the size.
    """

    def __init__(self, inp: int, out: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.in_layers = nn.Sequential(
            GroupNorm(norm_groups(inp), inp), nn.SiLU(), nn.Conv2d(inp, out, 3, 1, 1)
        )
        self.out_layers = nn.Sequential(
            GroupNorm(norm_groups(out), out),
            nn.SiLU(),
            nn.Dropout(0.0),
            nn.Conv2d(out, out, 3, 1, 1),
        )
        self.skip_connection = nn.Identity() if inp == out else nn.Conv2d(inp, out, 1)
        for parameter in self.out_layers[3].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inp, h, w) -> (B, out, h, w), or (B, out, 2h, 2w) with ``up``."""
        norm, act, conv = self.in_layers
        hidden, shortcut = act(norm(x)), self.skip_connection(x)
        if self.up:  # a 1x1 convolution commutes with the enlargement: it runs on the small map
            hidden, shortcut = interpolate_nearest(hidden), interpolate_nearest(shortcut)
        norm, act, _, last = self.out_layers
        hidden = act(norm(conv(hidden)))
        return shortcut + last(hidden)
