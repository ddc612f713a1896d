"""Group normalisation that is as exact over channels-last tensors as over contiguous ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` without the loss of digits of torch's kernel for channels-last CPU tensors.

    That kernel takes the variance as E[x^2] - E[x]^2 in float32: a map of mean 3 and deviation 0.01
    comes out wrong by 0.3, where the contiguous kernel is off by 4e-5 (torch 2.14, against
    float64). Here such tensors get their statistics from deviations, and keep their memory format.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        if x.device.type != "cpu" or x.is_contiguous() or x.ndim != 4:
            return super().forward(x.contiguous() if x.device.type == "cpu" else x)
        x = x - self._by_channel(x.mean((2, 3)))
        left = self._by_channel(x.mean((2, 3)))  # what rounding left of the mean
        variance = self._by_channel(x.square().mean((2, 3)))
        scale = torch.rsqrt(variance + self.eps)  # (B, C, 1, 1)
        if not self.affine:
            return (x - left) * scale
        scale = scale * self.weight[:, None, None]
        return torch.addcmul(self.bias[:, None, None] - left * scale, x, scale)

    def _by_channel(self, means: Tensor) -> Tensor:
        """Means of channels (B, C) -> the mean of each one's group, (B, C, 1, 1)."""
        grouped = means.unflatten(1, (self.num_groups, -1))  # (B, G, C/G)
        return grouped.mean(2, keepdim=True).expand_as(grouped).flatten(1)[:, :, None, None]
