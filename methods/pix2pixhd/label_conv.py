"""The generator's first convolution, 7x7 over a one-hot map that is continued by reflection, as a
look-up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.spade import with_empty

if TYPE_CHECKING:
    from sisbench.methods.key_map import KeyMap

KERNEL, RADIUS = 7, 3


class FirstConv(nn.Module):
    """Reflection padding by 3 and a 7x7 convolution of (one-hot map, further channels).

    Where a window holds one class the sum over its taps is the class's constant; the other pixels
    sum table rows, one a tap. The further channels (edges, features) are convolved as they are.

    Args:
        classes: channels of the one-hot map.
        further: channels after them.
        out: output channels.
    """

    def __init__(self, classes: int, further: int, out: int) -> None:
        super().__init__()
        self.classes = classes
        std = ((classes + further) * KERNEL**2) ** -0.5
        self.table = nn.Parameter(torch.randn(classes, KERNEL**2, out) * std)
        self.further = nn.Parameter(torch.randn(out, further, KERNEL, KERNEL) * std)
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, label: Tensor, further: Tensor) -> Tensor:
        """label (B, H, W) int64, negative where there is no class; further (B, F, H, W)
        -> (B, out, H, W)."""
        if torch.is_grad_enabled() and self.table.requires_grad:
            return self._convolved(label, further)  # the gradient of a look-up is the slower one
        x = self._looked_up(label)
        if further.shape[1]:
            x = x + F.conv2d(_reflected(further), self.further)
        return x

    def _looked_up(self, label: Tensor) -> Tensor:
        batch, height, width = label.shape
        label = torch.where(label < 0, self.classes, label)
        padded = _reflected(label[:, None].float())  # exact: class ids are small
        high, low = F.max_pool2d(padded, KERNEL, 1), -F.max_pool2d(-padded, KERNEL, 1)
        sample, _, row, column = (high != low).nonzero(as_tuple=True)
        windows = padded[:, 0].long().unfold(1, KERNEL, 1).unfold(2, KERNEL, 1)
        taps = windows[sample, row, column].flatten(1) * KERNEL**2
        taps = taps + torch.arange(KERNEL**2, device=label.device)
        sums = F.pad(self.table.sum(1), (0, 0, 0, 1)) + self.bias
        rows = sums.index_select(0, label.flatten())
        place = (sample * height + row) * width + column
        mixed = F.embedding_bag(taps, with_empty(self.table), mode="sum") + self.bias
        return rows.index_copy_(0, place, mixed).view(batch, height, width, -1).permute(0, 3, 1, 2)

    def _convolved(self, label: Tensor, further: Tensor) -> Tensor:
        weight = self.table.permute(2, 0, 1).unflatten(2, (KERNEL, KERNEL))
        planes = torch.cat([one_hot(label, self.classes), further], 1)
        return F.conv2d(_reflected(planes), torch.cat([weight, self.further], 1), self.bias)

    def map_keys(self, keys: KeyMap, ours: str, official: str) -> None:
        """Cover this layer by the official convolution's weight and bias."""
        out, further = self.further.shape[:2]
        key = f"{official}.weight"
        shape = {key: (out, self.classes + further, KERNEL, KERNEL)}
        keys.join(
            f"{ours}.table",
            shape,
            lambda found: found[key][:, : self.classes].flatten(2).permute(1, 2, 0),
        )
        keys.join(f"{ours}.further", shape, lambda found: found[key][:, self.classes :])
        keys.take(f"{ours}.bias", f"{official}.bias")


def _reflected(x: Tensor) -> Tensor:
    return F.pad(x, (RADIUS,) * 4, mode="reflect")
