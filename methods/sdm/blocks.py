"""Layers of SDM's UNet: residual blocks with plain and with SPADE norms, self-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.diffusion.blocks import conv3, enlarge, enlarging_kernel, group_norm
from sisbench.methods.layers.diffusion.branches import over_branches, widen
from sisbench.methods.layers.label_maps import LabelPyramid, Level
from sisbench.methods.layers.labels import interpolate_nearest
from sisbench.methods.layers.spade import MaskBranch

HIDDEN = 128
"""Channels between the label map and gamma, beta."""


@dataclass(frozen=True)
class Modulation:
    """1 + gamma and beta of a SPADE norm: constant over the steps, kept only where they differ.

    Attributes:
        level: the label map at this size.
        values: (2D, U) by window of ``level``; on a dense level, at every pixel.
    """

    level: Level
    values: Tensor

    def maps(self) -> tuple[Tensor, Tensor]:
        """Both, (B, D, h, w) each."""
        level = self.level
        rows = self.values
        if level.windows is not None:
            rows = rows.index_select(1, level.windows)
        maps = rows.view(-1, level.batch, level.height, level.width).transpose(0, 1)
        gain, shift = maps.chunk(2, 1)
        return gain, shift


class SPADENorm(nn.Module):
    """Group norm whose scale and shift are convolutions of the label map (Park et al., 2019).

    Args:
        channels: D, of the features.
        label_channels: S, of the label map with its edges.
    """

    def __init__(self, channels: int, label_channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, affine=False)
        self.branch = MaskBranch(channels, label_channels, HIDDEN, 3)

    def modulation(self, level: Level) -> Modulation:
        """What a label map makes of this layer."""
        values = self.branch(level)
        ones = torch.ones_like(values[:1])
        ones[:, self.branch.channels :] = 0  # gamma comes first
        return Modulation(level, (values + ones).T.contiguous())

    def forward(self, x: Tensor, terms: Sequence[Modulation], batch: int) -> Tensor:
        """(B or branches * B, D, h, w) -> (branches * B, D, h, w); see ``over_branches``."""

        def one(y: Tensor, term: Modulation) -> Tensor:
            gain, shift = term.maps()
            return (y * gain).add_(shift)

        return over_branches(self.norm(x), terms, batch, one)

    def map_keys(self, keys: KeyMap, name: str) -> None:
        """Cover mlp_shared.0, mlp_gamma and mlp_beta of the official layer ``name``."""
        self.branch.map_keys(keys, f"{name}.branch", name)


class ResBlock(nn.Module):
    """Residual block of the encoder: the time scales and shifts the second norm.

    Args:
        channels, out: of the input and of the output.
        emb: channels of the time embedding.
        down: halve the size in between, by means of 2 x 2 pixels.
    """

    def __init__(self, channels: int, out: int, emb: int, down: bool = False) -> None:
        super().__init__()
        self.down = down
        self.in_layers = nn.Sequential(group_norm(channels), nn.SiLU(), conv3(channels, out))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * out))
        # item 2 was a dropout of rate 0: it keeps the official key of the convolution
        self.out_layers = nn.Sequential(group_norm(out), nn.SiLU(), nn.Identity(), conv3(out, out))
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, channels, h, w), (B or 1, 2 * out) of ``emb_layers`` -> (B, out, h, w), or half."""
        h = self.in_layers[1](self.in_layers[0](x))
        if self.down:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h = _timed(self.out_layers[0](self.in_layers[2](h)), time)
        return self.skip_connection(x) + self.out_layers[1:](h)


class SDMBlock(nn.Module):
    """Residual block of the middle and the decoder: as ``ResBlock``, with SPADE norms.

    Args:
        channels, out: of the input and of the output.
        emb: channels of the time embedding.
        label_channels: S.
        up: double the size in between, nearest.
    """

    def __init__(
        self, channels: int, out: int, emb: int, label_channels: int, up: bool = False
    ) -> None:
        super().__init__()
        self.up = up
        self.in_norm = SPADENorm(channels, label_channels)
        self.in_layers = nn.Sequential(nn.SiLU(), conv3(channels, out))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * out))
        self.out_norm = SPADENorm(out, label_channels)
        # item 1 was a dropout of rate 0: it keeps the official key of the convolution
        self.out_layers = nn.Sequential(nn.SiLU(), nn.Identity(), conv3(out, out))
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def condition(
        self, pyramid: LabelPyramid, size: tuple[int, int]
    ) -> tuple[Modulation, Modulation]:
        """Both norms' part of a label map; ``size`` (h, w) of the block's input."""
        after = (2 * size[0], 2 * size[1]) if self.up else size
        return (
            self.in_norm.modulation(pyramid.at(size)),
            self.out_norm.modulation(pyramid.at(after)),
        )

    def kernel(self) -> Tensor | None:
        """Enlargement and first convolution as one (``enlarging_kernel``), of an up block."""
        return enlarging_kernel(self._first.weight) if self.up else None

    @property
    def _first(self) -> nn.Conv2d:
        return self.in_layers[1]  # type: ignore[return-value]

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        terms: Sequence[tuple[Modulation, Modulation]],
        batch: int,
        kernel: Tensor | None = None,
    ) -> Tensor:
        """(B or branches * B, channels, h, w) -> (branches * B, out, h, w), or twice the size.

        Args:
            x: features.
            time: (B or 1, 2 * out) of ``emb_layers``.
            terms: of both norms, by branch.
            batch: number of samples.
            kernel: of an up block.
        """
        first, second = zip(*terms, strict=True)
        h = F.silu(self.in_norm(x, first, batch))
        if kernel is not None:
            h, x = enlarge(h, kernel, self._first.bias), interpolate_nearest(x)
        else:
            h = self._first(h)
        h = self.out_layers(_timed(self.out_norm(h, second, batch), time))
        return widen(self.skip_connection(x), h.shape[0]) + h

    def map_keys(self, keys: KeyMap, name: str) -> None:
        """Cover both norms of the official block ``name``."""
        for norm in ("in_norm", "out_norm"):
            getattr(self, norm).map_keys(keys, f"{name}{norm}")


def _timed(h: Tensor, time: Tensor) -> Tensor:
    """h * (1 + scale) + shift, both from (B or 1, 2D)."""
    scale, shift = widen(time, h.shape[0])[:, :, None, None].chunk(2, 1)
    return torch.addcmul(shift, h, 1 + scale)


class SelfAttention(nn.Module):
    """Self-attention of all pixels, with a residual; q, k and v lie together head by head.

    Args:
        channels: of the features.
        head: channels of a head.
    """

    def __init__(self, channels: int, head: int) -> None:
        super().__init__()
        self.heads = channels // head
        self.norm = group_norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> the same."""
        mixed = self.qkv(self.norm(x).flatten(2)).unflatten(1, (self.heads, 3, -1))
        # fused kernels want the channels of a head side by side: (B, heads, h*w, d) each
        q, k, v = mixed.transpose(3, 4).contiguous().unbind(2)
        found = F.scaled_dot_product_attention(q, k, v).transpose(2, 3)  # (B, heads, d, h*w)
        return x + self.proj_out(found.flatten(1, 2)).view_as(x)
