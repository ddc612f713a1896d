"""Pixels sorted by class into blocks of one class each, so that attention stays within a class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.base import present_classes

Size = tuple[int, int]


@dataclass(frozen=True)
class Blocks:
    """Pixels of one size, sorted by class and cut into N blocks of L that never mix classes.

    Attributes:
        pixels: (B, N * L) int64 flat pixel that each place holds (0 where it holds none).
        filled: (B, N, L) bool, whether a place holds a pixel.
        group: (B, N) int64 class rank in [0, P); P for holes and unused blocks.
        place: (B, h * w) int64 the place of each pixel.
        counts: (B, P) int64 pixels of each class rank at this size.
    """

    pixels: Tensor
    filled: Tensor
    group: Tensor
    place: Tensor
    counts: Tensor

    def gather(self, rows: Tensor) -> Tensor:
        """Pixel rows (B, h * w, D) -> (B, N, L, D)."""
        return take_rows(rows, self.pixels).unflatten(1, self.filled.shape[1:])

    def scatter(self, places: Tensor) -> Tensor:
        """(B, N, L, D) -> pixel rows (B, h * w, D)."""
        return take_rows(places.flatten(1, 2), self.place)

    def of_group(self, table: Tensor, fill: Tensor | None = None) -> Tensor:
        """The table row of each block's group: (B, P, ...) -> (B, N, ...).

        Args:
            table: one row a class rank.
            fill: (B, 1, ...) the row of holes; zeros by default.
        """
        last = torch.zeros_like(table[:, :1]) if fill is None else fill
        return take_rows(torch.cat([table, last], 1), self.group)


class Regions:
    """The classes of a batch of label maps, ranked within each sample, at every size asked for.

    Attributes:
        classes: (B, P) int64 class of each rank in ascending order; C where a sample has fewer.
        has_holes: whether any pixel has no class.
    """

    def __init__(self, label: Tensor, num_classes: int) -> None:
        present = present_classes(label, num_classes)  # (B, C)
        longest = max(int(present.sum(1).max()), 1)
        rank = (present.cumsum(1) - 1).masked_fill(~present, longest)
        batch, device = label.shape[0], label.device
        classes = torch.full((batch, longest + 1), num_classes, device=device)
        classes.scatter_(1, rank, torch.arange(num_classes, device=device).expand(batch, -1))
        self.classes = classes[:, :longest].where(
            torch.arange(longest, device=device) < present.sum(1, keepdim=True), num_classes
        )
        ranks = rank.gather(1, label.flatten(1).clamp_min(0)).view_as(label)
        self.ranks = ranks.masked_fill(label < 0, longest)
        self.has_holes = bool((label < 0).any())
        self._blocks: dict[Size, Blocks] = {}

    def blocks(self, size: Size) -> Blocks:
        """The blocks at one size."""
        if size not in self._blocks:
            small = resize_labels_torch(self.ranks, size)
            self._blocks[size] = _cut(small.flatten(1), self.classes.shape[1] + 1)
        return self._blocks[size]


def _cut(ranks: Tensor, groups: int) -> Blocks:
    """Blocks of flat ranks (B, n) int64 in [0, groups); the last group is the holes'."""
    batch, pixels = ranks.shape
    device = ranks.device
    length = 64 if pixels >= 4096 else 16
    number = pixels // length + groups  # enough for any split of the pixels
    counts = torch.zeros(batch, groups, dtype=torch.int64, device=device)
    counts.scatter_add_(1, ranks, torch.ones_like(ranks))
    ends = ((counts + length - 1) // length).cumsum(1)  # (B, groups) block after each group's last
    starts = F.pad(ends, (1, -1)) * length - F.pad(counts.cumsum(1), (1, -1))
    ordered, order = torch.sort(ranks, dim=1, stable=True)
    places = starts.gather(1, ordered) + torch.arange(pixels, device=device)
    held = torch.zeros(batch, number * length, dtype=torch.int64, device=device)
    filled = torch.zeros(batch, number * length, dtype=torch.bool, device=device)
    block = torch.arange(number, device=device).expand(batch, -1).contiguous()
    group = torch.searchsorted(ends, block, right=True).clamp_max(groups - 1)
    return Blocks(
        pixels=held.scatter_(1, places, order),
        filled=filled.scatter_(1, places, torch.ones_like(places, dtype=torch.bool)).view(
            batch, number, length
        ),
        group=group,
        place=torch.empty_like(places).scatter_(1, order, places),
        counts=counts[:, :-1],
    )


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """rows (B, n, ...) at index (B, m) int64 -> (B, m, ...)."""
    start = torch.arange(rows.shape[0], device=rows.device)[:, None] * rows.shape[1]
    return rows.flatten(0, 1).index_select(0, (index + start).flatten()).unflatten(0, index.shape)
