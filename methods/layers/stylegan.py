"""Operations of StyleGAN2 as plain PyTorch: FIR resampling, scaled activation, pixel norm.

Source: Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020 (Section 2,
Appendix B).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

FIR = (1.0, 3.0, 3.0, 1.0)
"""The binomial low-pass filter of StyleGAN2, before it is scaled to sum to 1."""


def fir_kernel(gain: float = 1.0, taps: tuple[float, ...] = FIR) -> Tensor:
    """(k, k) float32: the outer product of ``taps``, scaled to sum to ``gain``."""
    line = torch.tensor(taps)
    kernel = torch.outer(line, line)
    return kernel * (gain / kernel.sum())


def upfirdn2d(
    x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)
) -> Tensor:
    """Insert ``up - 1`` zeros after each sample, pad, convolve (kernel flipped), keep every
    ``down``-th.

    Args:
        x: (B, C, H, W) float.
        kernel: (kh, kw) float.
        up, down: factors of both axes.
        pad: zeros before and after each axis; negative ones crop.
    """
    batch, channels, height, width = x.shape
    if up > 1:
        spread = x.new_zeros(batch, channels, height, up, width, up)
        spread[:, :, :, 0, :, 0] = x
        x = spread.view(batch, channels, height * up, width * up)
    x = F.pad(x, (*pad, *pad))
    weight = kernel.flip(0, 1).to(x.dtype).expand(channels, 1, *kernel.shape)
    return F.conv2d(x, weight, stride=down, groups=channels)


def upsample2(x: Tensor, kernel: Tensor) -> Tensor:
    """Twice the size, (B, C, H, W) -> (B, C, 2H, 2W): ``upfirdn2d(x, kernel, up=2, pad=(2, 1))``
    of a 4x4 kernel of gain 4, as one transposed convolution that multiplies no zeros."""
    weight = kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)
    return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=x.shape[1])


def scaled_leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2 times sqrt(2), which keeps the variance of a normal input."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def pixel_norm(z: Tensor) -> Tensor:
    """(B, D) divided by the root of its mean square over D."""
    return z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)


def equalised_linear(x: Tensor, weight: Tensor, bias: Tensor, lr_mul: float = 1.0) -> Tensor:
    """(B, I) -> (B, O): x (weight lr_mul / sqrt(I))^T + bias lr_mul."""
    return F.linear(x, weight * (lr_mul / math.sqrt(weight.shape[1])), bias * lr_mul)
