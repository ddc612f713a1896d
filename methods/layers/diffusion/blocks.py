"""Residual blocks of diffusion UNets: plain ones, and those whose norms follow the label map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.layers.diffusion.branches import over_branches, widen
from sisbench.methods.layers.labels import interpolate_nearest
from sisbench.methods.layers.norms import GroupNorm

Affine = tuple[Tensor, Tensor]
"""1 + gamma and beta of a SPADE norm, (B or 1, D, h, w) each: constant over the steps."""


def group_norm(channels: int, affine: bool = True) -> GroupNorm:
    """Group norm with 32 groups."""
    return GroupNorm(32, channels, eps=1e-5, affine=affine)


def conv3(channels: int, out: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution, padding 1, with bias."""
    return nn.Conv2d(channels, out, 3, stride, padding=1)


class SPADENorm(nn.Module):
    """Group norm whose scale and shift are convolutions of the label map (Park et al., 2019).

    Args:
        channels: of the features.
        num_classes: C.
        hidden: channels between the label map and gamma, beta.
    """

    def __init__(self, channels: int, num_classes: int, hidden: int = 128) -> None:
        super().__init__()
        self.param_free_norm = group_norm(channels, affine=False)
        self.mlp_shared = nn.Sequential(conv3(num_classes, hidden), nn.ReLU())
        self.mlp_gamma = conv3(hidden, channels)
        self.mlp_beta = conv3(hidden, channels)

    def affine(self, planes: Tensor) -> Affine:
        """Of a label map, (B, C, h, w) float at the features' size."""
        return self._affine(self.mlp_shared(planes))

    def null_affine(self, size: tuple[int, int]) -> Affine:
        """Of an empty label map: the same at each pixel but for the border, where the padding
        shows, so 3 x 3 pixels are computed and spread."""
        small = [min(n, 3) for n in size]
        first: nn.Conv2d = self.mlp_shared[0]  # type: ignore[assignment]
        shared = F.relu(first.bias)[None, :, None, None].expand(1, -1, *small)  # type: ignore[arg-type]
        rows, columns = (_spread(n, shared.device) for n in size)
        gain, shift = self._affine(shared)
        return gain[:, :, rows[:, None], columns], shift[:, :, rows[:, None], columns]

    def _affine(self, shared: Tensor) -> Affine:
        return 1 + self.mlp_gamma(shared), self.mlp_beta(shared)

    def forward(self, x: Tensor, affines: Sequence[Affine], batch: int) -> Tensor:
        """(B or branches * B, D, h, w) -> (branches * B, D, h, w); see ``over_branches``."""
        return over_branches(
            self.param_free_norm(x), affines, batch, lambda y, a: torch.addcmul(a[1], y, a[0])
        )


def _spread(size: int, device: torch.device) -> Tensor:
    """Which of (first, inner, last) each of ``size`` positions is: 0, 1, ..., 1, 2."""
    index = torch.ones(size, dtype=torch.int64, device=device)
    index[0] = 0
    index[-1] = min(size, 3) - 1
    return index


class ResBlock(nn.Module):
    """Residual block of the encoder: two norm-SiLU-convolution steps, the time added in between.

    Args:
        channels, out: of the input and of the output.
        emb: channels of the time embedding.
    """

    def __init__(self, channels: int, out: int, emb: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(group_norm(channels), nn.SiLU(), conv3(channels, out))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, out))
        # item 2 was a dropout of rate 0: it keeps the official key of the convolution
        self.out_layers = nn.Sequential(group_norm(out), nn.SiLU(), nn.Identity(), conv3(out, out))
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, channels, h, w), (B or 1, out) of ``emb_layers`` -> (B, out, h, w)."""
        h = self.in_layers(x) + widen(time, x.shape[0])[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class SPADEResBlock(nn.Module):
    """Residual block of the middle and the decoder: as ``ResBlock``, with SPADE norms.

    Args:
        channels, out: of the input and of the output.
        emb: channels of the time embedding.
        num_classes: C.
        hidden: as ``SPADENorm``.
    """

    def __init__(
        self, channels: int, out: int, emb: int, num_classes: int, hidden: int = 128
    ) -> None:
        super().__init__()
        self.in_norm = SPADENorm(channels, num_classes, hidden)
        self.in_layers = nn.Sequential(nn.SiLU(), conv3(channels, out))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, out))
        self.out_norm = SPADENorm(out, num_classes, hidden)
        # item 1 was a dropout of rate 0: it keeps the official key of the convolution
        self.out_layers = nn.Sequential(nn.SiLU(), nn.Identity(), conv3(out, out))
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def affines(self, planes: Tensor) -> tuple[Affine, Affine]:
        """Scales and shifts of both norms for a label map, (B, C, h, w) float."""
        return self.in_norm.affine(planes), self.out_norm.affine(planes)

    def null_affines(self, size: tuple[int, int]) -> tuple[Affine, Affine]:
        """The same for an empty label map."""
        return self.in_norm.null_affine(size), self.out_norm.null_affine(size)

    def forward(
        self, x: Tensor, time: Tensor, affines: Sequence[tuple[Affine, Affine]], batch: int
    ) -> Tensor:
        """(B or branches * B, channels, h, w) -> (branches * B, out, h, w).

        Args:
            x: features.
            time: (B or 1, out) of ``emb_layers``.
            affines: of both norms, by branch.
            batch: number of samples.
        """
        first, second = zip(*affines, strict=True)
        h = self.in_layers(self.in_norm(x, first, batch))
        h = h + widen(time, h.shape[0])[:, :, None, None]
        h = self.out_layers(self.out_norm(h, second, batch))
        return widen(self.skip_connection(x), h.shape[0]) + h


class Downsample(nn.Module):
    """Half the size, by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = conv3(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h/2, w/2)."""
        return self.op(x)


class Upsample(nn.Module):
    """Twice the size, nearest, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3(channels, channels)

    def kernel(self) -> Tensor:
        """Both steps as the kernel of one transposed convolution: ``enlarging_kernel``."""
        return enlarging_kernel(self.conv.weight)

    def forward(self, x: Tensor, kernel: Tensor | None = None) -> Tensor:
        """(B, D, h, w) -> (B, D, 2h, 2w); ``kernel`` as from ``kernel()``, or None."""
        if kernel is None:
            return self.conv(interpolate_nearest(x))
        return enlarge(x, kernel, self.conv.bias)


def enlarging_kernel(weight: Tensor) -> Tensor:
    """Nearest enlargement to twice the size and a 3x3 convolution, as the kernel of one transposed
    convolution: (out, in, 3, 3) -> (in, out, 4, 4).

    An input pixel is seen four times by the 3x3 kernel; with the taps that meet the same pixel
    summed beforehand, 4 of 9 products are left.
    """
    taps = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]).to(weight)
    return torch.einsum("yj,oijk,xk->ioyx", taps, weight, taps)


def enlarge(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """(B, in, h, w), ``enlarging_kernel`` -> (B, out, 2h, 2w)."""
    return F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)
