"""Convolutions of 3x3 with 16 products for 4 outputs in place of 36 (Winograd's F(2x2, 3x3))."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_KERNEL = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


class ReflectConv3(nn.Module):
    """A 3x3 convolution after reflection padding by one.

    ``fold`` prepares the transformed weights, 16/9 of the memory beside them, once they are known;
    from then on the convolution takes 1 / 2.25 of the products (Lavin and Gray 2016, section 4.1).
    Values differ by rounding only (about 1e-6 of the range).

    Args:
        fin, fout: channels.
    """

    folded: Tensor | None

    def __init__(self, fin: int, fout: int) -> None:
        super().__init__()
        conv = nn.Conv2d(fin, fout, 3)
        self.weight, self.bias = conv.weight, conv.bias
        self.register_buffer("folded", None, persistent=False)

    def fold(self) -> None:
        """Transform the weights as they are now; training drops them again."""
        kernel = torch.tensor(_KERNEL, dtype=self.weight.dtype, device=self.weight.device)
        moved = torch.einsum("ai,ocij,bj->aboc", kernel, self.weight.detach(), kernel)
        self.folded = moved.flatten(0, 1).contiguous()  # (16, out, in)

    def train(self, mode: bool = True) -> ReflectConv3:
        """As ``nn.Module.train``; weights that may change are not kept transformed."""
        if mode:
            self.folded = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """(B, fin, h, w) -> (B, fout, h, w)."""
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        if self.folded is None:
            return F.conv2d(padded, self.weight, self.bias)
        assert self.bias is not None
        height, width = x.shape[2:]
        padded = F.pad(padded, (0, width % 2, 0, height % 2))
        tiles = _input_tiles(padded)  # (16, fin, B * n)
        out = _output_pixels(torch.bmm(self.folded, tiles), x.shape[0], padded.shape[2:])
        return out[:, :, :height, :width] + self.bias[:, None, None]


def _input_tiles(padded: Tensor) -> Tensor:
    """(B, C, 2m + 2, 2n + 2) -> (16, C, B * m * n): every second 4x4 window, transformed."""
    rows = _four(padded, 2)
    planes = [part for row in rows for part in _four(row, 3)]  # 16 of (B, C, m, n)
    return torch.stack(planes).transpose(1, 2).flatten(2)


def _four(x: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four combinations of windows of four that start at every second place of ``axis``."""
    count = x.shape[axis] // 2 - 1
    a, b = (x.narrow(axis, k, 2 * count).unflatten(axis, (count, 2)) for k in (0, 2))
    first, second = (a.select(axis + 1, k) for k in (0, 1))
    third, fourth = (b.select(axis + 1, k) for k in (0, 1))
    return first - third, second + third, third - second, second - fourth


def _output_pixels(products: Tensor, batch: int, padded: torch.Size) -> Tensor:
    """(16, C, B * m * n) -> (B, C, 2m, 2n)."""
    m, n = padded[0] // 2 - 1, padded[1] // 2 - 1
    grid = products.view(4, 4, -1, batch, m, n)
    rows = torch.stack([grid[0] + grid[1] + grid[2], grid[1] - grid[2] - grid[3]])  # (2, 4, ...)
    top, bottom = rows[:, 0] + rows[:, 1] + rows[:, 2], rows[:, 1] - rows[:, 2] - rows[:, 3]
    pixels = torch.stack([top, bottom], 1)  # (2, 2, C, B, m, n): row and column within a tile
    return pixels.permute(3, 2, 4, 0, 5, 1).reshape(batch, -1, 2 * m, 2 * n)
