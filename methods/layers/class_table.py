"""Normalisation modulated by a table of one scale and one shift a class (CLADE), as look-ups."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.spade import frozen_affine


@dataclass(frozen=True)
class ClassMap:
    """A label map at one size, for look-ups by class.

    Attributes:
        index: (B * h * w,) int64 class of each pixel; a pixel without a class counts as class 0,
            as the argmax of an all-zero one-hot column does.
        shape: (B, h, w).
        edges: (B, 1, h, w) float instance edges, or None.
        position: (B, 2, h, w) float position within the region, or None.
    """

    index: Tensor
    shape: tuple[int, int, int]
    edges: Tensor | None
    position: Tensor | None

    def spread(self, table: Tensor) -> Tensor:
        """One row of ``table`` (K, C) a pixel: (B, C, h, w) in channels-last memory."""
        return table.index_select(0, self.index).view(*self.shape, -1).permute(0, 3, 1, 2)


class ClassMaps:
    """A label map with edges and positions at any size, each size prepared once.

    Args:
        label: (B, H, W) int64, negative where there is no class.
        edges: (B, 1, H, W) float, or None.
        position: (B, 2, H, W) float, or None.
    """

    def __init__(
        self, label: Tensor, edges: Tensor | None = None, position: Tensor | None = None
    ) -> None:
        self.label, self.edges, self.position = label.clamp_min(0), edges, position
        self._sizes: dict[tuple[int, int], ClassMap] = {}

    def at(self, size: tuple[int, int]) -> ClassMap:
        """The map at ``size`` (h, w), resized by torch's nearest rule."""
        if size not in self._sizes:
            label = resize_labels_torch(self.label, size)
            edges = None if self.edges is None else resize_labels_torch(self.edges, size)
            position = None if self.position is None else resize_labels_torch(self.position, size)
            shape = (label.shape[0], *size)
            self._sizes[size] = ClassMap(label.flatten(), shape, edges, position)
        return self._sizes[size]


def unit_table(classes: int, channels: int) -> nn.Parameter:
    """A table of scales as the official code starts it: uniform in [0, 1)."""
    return nn.Parameter(torch.rand(classes, channels))


def normalised(norm: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, scale and shift with norm(x) = x * scale + shift: what a batch norm is in eval mode. In
    training x is normalised already, and scale and shift are 1 and 0."""
    if norm.training:
        return norm(x), x.new_ones(x.shape[1]), x.new_zeros(x.shape[1])
    return x, *frozen_affine(norm)
