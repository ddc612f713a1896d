"""Convolutions over channels-last features that do not copy their weights at every call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEW_PIXELS = 256
"""Up to so many pixels, all samples together, a convolution is quicker as one matrix product."""


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with stride 1 and "same" zero padding, its weight in channels-last memory.

    torch's CPU kernel copies a weight of another memory format at every call and packs it anew: for
    1024 -> 1024 channels of 8x8 pixels that takes four times as long as the products do. Over few
    pixels this is one matrix product of the same numbers. Keys, shapes and values of the state are
    those of ``nn.Conv2d``; while gradients are recorded, and off the CPU, so is the computation.

    Args:
        fin, fout: channels.
        kernel: odd size.
        bias: whether there is one.
    """

    def __init__(self, fin: int, fout: int, kernel: int, bias: bool = True) -> None:
        super().__init__(fin, fout, kernel, padding=kernel // 2, bias=bias)
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """(B, fin, h, w) -> (B, fout, h, w), in channels-last memory."""
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        if torch.is_grad_enabled() or x.device.type != "cpu" or pixels > _FEW_PIXELS:
            return super().forward(x)
        kernel = self.kernel_size[0]
        rows = F.pad(x, (kernel // 2,) * 4).permute(0, 2, 3, 1)
        rows = rows.unfold(1, kernel, 1).unfold(2, kernel, 1)  # (B, h, w, fin, k, k)
        rows = rows.permute(0, 1, 2, 4, 5, 3).flatten(3)
        matrix = self.weight.permute(0, 2, 3, 1).flatten(1)  # (fout, k^2 * fin), no copy
        return F.linear(rows, matrix, self.bias).permute(0, 3, 1, 2)
