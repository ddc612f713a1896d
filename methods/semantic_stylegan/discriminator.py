"""SemanticStyleGAN's discriminator, which sees a picture and its segmentation, and its losses.

Source: Shi et al. 2022, Section 3.3; residual trunks of Karras et al., CVPR 2020 (StyleGAN2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sisbench.methods.layers.stylegan import (
    equalised_linear,
    fir_kernel,
    scaled_leaky_relu,
    upfirdn2d,
)

WIDEST = 512
SMALLEST = 4
"""Size at which the two trunks are added."""
GROUP = 4
"""Most samples whose deviation is taken together."""


def width_at(size: int, multiplier: int) -> int:
    """Channels of a trunk at a size."""
    return WIDEST if size <= 32 else 16_384 // size * multiplier


class _Bias(nn.Module):
    """A bias before the scaled leaky ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return scaled_leaky_relu(x + self.bias[:, None, None])


class _Blur(nn.Module):
    """The binomial filter, with ``pad`` zeros on every side."""

    kernel: Tensor

    def __init__(self, pad: int) -> None:
        super().__init__()
        self.pad = pad
        self.register_buffer("kernel", fir_kernel())

    def forward(self, x: Tensor) -> Tensor:
        return upfirdn2d(x, self.kernel, pad=(self.pad, self.pad))


class _Conv(nn.Module):
    """A convolution without bias whose weights are scaled at run time."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outside, inside, kernel, kernel))
        self.scale = 1 / math.sqrt(inside * kernel**2)
        self.stride, self.pad = stride, kernel // 2 if stride == 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.pad)


class _Linear(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outside, inside))
        self.bias = nn.Parameter(torch.zeros(outside))

    def forward(self, x: Tensor) -> Tensor:
        return equalised_linear(x, self.weight, self.bias)


class _Block(nn.Module):
    """A residual block that halves the size."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(_Conv(inside, inside, 3), _Bias(inside))
        self.conv2 = nn.Sequential(_Blur(2), _Conv(inside, outside, 3, 2), _Bias(outside))
        self.skip = nn.Sequential(_Blur(1), _Conv(inside, outside, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) -> (B, outside, H / 2, W / 2)"""
        out: Tensor = (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)
        return out


def _trunk(channels: int, size: int, multiplier: int) -> nn.Sequential:
    first = width_at(size, multiplier)
    layers: list[nn.Module] = [nn.Sequential(_Conv(channels, first, 1), _Bias(first))]
    while size > SMALLEST:
        layers.append(_Block(width_at(size, multiplier), width_at(size // 2, multiplier)))
        size //= 2
    return nn.Sequential(*layers)


def batch_deviation(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 1, H, W): how much the samples of a group differ, the same everywhere.

    Sample i is of group i mod B / g, with g of ``GROUP`` samples at most.

    Raises:
        ValueError: the groups do not divide the batch.
    """
    batch, _, high, wide = x.shape
    group = min(batch, GROUP)
    if batch % group:
        raise ValueError(f"a batch of {batch} is not made of groups of {group}")
    parts = x.unflatten(0, (group, -1))  # (B, ...) -> (g, B / g, ...)
    spread = (parts.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    return spread.repeat(group)[:, None, None, None].expand(-1, 1, high, wide)


class Discriminator(nn.Module):
    """Two trunks of equal widths, added at 4 x 4.

    Args:
        size: of picture and segmentation, a power of two.
        classes: channels of the segmentation.
        multiplier: of the widths from 64 on.
    """

    def __init__(self, size: int, classes: int, multiplier: int = 2) -> None:
        super().__init__()
        self.convs_img = _trunk(3, size, multiplier)
        self.convs_seg = _trunk(classes, size, multiplier)
        self.final_conv = nn.Sequential(_Conv(WIDEST + 1, WIDEST, 3), _Bias(WIDEST))
        inside = WIDEST * SMALLEST**2
        self.final_linear = nn.Sequential(_Linear(inside, WIDEST), _Linear(WIDEST, 1))

    def forward(self, image: Tensor, segmentation: Tensor | None = None) -> Tensor:
        """Logits (B, 1).

        Args:
            image: (B, 3, size, size) in [-1, 1].
            segmentation: (B, classes, size, size): 2 onehot - 1 of a label map, or what the
                generator gives; None judges the picture alone, as when a network is adapted to a
                domain without label maps.
        """
        x = self.convs_img(image)
        if segmentation is not None:
            x = x + self.convs_seg(segmentation)
        x = self.final_conv(torch.cat([x, batch_deviation(x)], 1)).flatten(1)
        out: Tensor = self.final_linear[1](scaled_leaky_relu(self.final_linear[0](x)))
        return out


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Logistic loss of logits (B, 1)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Non-saturating loss of logits (B, 1)."""
    return F.softplus(-fake).mean()


def gradient_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """R1 of real samples: the mean over them of the squared gradient at ``x``, which ``logits``
    (B, 1) come from. Officially every 16 steps: 16 (5 on pictures + 500 on segmentations)."""
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def mask_loss(coarse: Tensor, segmentation: Tensor) -> Tensor:
    """Mean squared difference of the composited segmentation (B, K, h, w) and the rendered one
    (B, K, H, W), averaged down to its size; officially weighted by 100."""
    size = (coarse.shape[2], coarse.shape[3])
    return F.mse_loss(coarse, F.adaptive_avg_pool2d(segmentation, size))
