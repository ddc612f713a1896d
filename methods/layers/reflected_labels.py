"""The first layer of pix2pixHD's family: a convolution of a one-hot map with reflected borders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.layers.label_maps import DENSE_SHARE
from sisbench.methods.layers.labels import one_hot

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap


class ReflectedLabelConv(nn.Module):
    """A convolution of a one-hot map, by look-up.

    Where the window holds one class, the value depends on that class alone; elsewhere, along the
    outlines, it is a sum of table rows, one a tap. A reflected border is no outline.

    Args:
        classes: channels of the one-hot map.
        out: output channels.
        kernel: odd size.
    """

    def __init__(self, classes: int, out: int, kernel: int) -> None:
        super().__init__()
        self.classes, self.kernel = classes, kernel
        self.weight = nn.Parameter(torch.empty(classes, kernel * kernel, out))
        self.bias = nn.Parameter(torch.zeros(out))
        nn.init.normal_(self.weight, std=(classes * kernel * kernel) ** -0.5)

    def forward(self, label: Tensor) -> Tensor:
        """(B, H, W) int64, -1 for no class -> (B, out, H, W) float32, channels last in memory."""
        r, (batch, height, width) = self.kernel // 2, label.shape
        planes = label[:, None].float()
        padded = F.pad(planes, (r, r, r, r), mode="reflect")
        high, low = F.max_pool2d(padded, self.kernel, 1), -F.max_pool2d(-padded, self.kernel, 1)
        mixed = (high != low).flatten().nonzero()[:, 0]
        training = torch.is_grad_enabled() and self.weight.requires_grad
        if training or len(mixed) > DENSE_SHARE * label.numel():
            return self._convolved(label)
        index = torch.where(label < 0, self.classes, label).flatten()
        sums = F.pad(self.weight.sum(1), (0, 0, 0, 1)) + self.bias
        rows = sums.index_select(0, index)  # (B*H*W, out)
        if len(mixed):
            table = F.pad(self.weight, (0, 0, 0, 0, 0, 1)).flatten(0, 1)
            taps = self._taps(padded[:, 0].long(), mixed, (height, width))
            rows.index_copy_(0, mixed, F.embedding_bag(taps, table, mode="sum") + self.bias)
        return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)

    def _taps(self, padded: Tensor, mixed: Tensor, size: tuple[int, int]) -> Tensor:
        """(P, kernel^2) rows of the table for the flat pixels ``mixed``."""
        k, (height, width) = self.kernel, size
        wide, area = width + k - 1, (height + k - 1) * (width + k - 1)
        sample, pixel = mixed // (height * width), mixed % (height * width)
        corner = sample * area + pixel // width * wide + pixel % width
        steps = torch.arange(k, device=mixed.device)
        offsets = (steps[:, None] * wide + steps).flatten()
        found = padded.flatten()[corner[:, None] + offsets]
        found = torch.where(found < 0, self.classes, found)
        return found * k**2 + torch.arange(k * k, device=mixed.device)

    def _convolved(self, label: Tensor) -> Tensor:
        r = self.kernel // 2
        planes = F.pad(one_hot(label, self.classes), (r, r, r, r), mode="reflect")
        weight = self.weight.permute(2, 0, 1).unflatten(2, (self.kernel, self.kernel))
        return F.conv2d(planes, weight, self.bias)

    def map_keys(self, keys: KeyMap, ours: str, official: str) -> None:
        """Cover ``ours``.weight and .bias by the official convolution's."""
        classes, _, out = self.weight.shape
        keys.join(
            f"{ours}.weight",
            {f"{official}.weight": (out, classes, self.kernel, self.kernel)},
            lambda found: found[f"{official}.weight"].flatten(2).permute(1, 2, 0),
        )
        keys.take(f"{ours}.bias", f"{official}.bias")
