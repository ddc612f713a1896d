"""Style of Pix2PixHD: a few features a class, and those of every single instance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sisbench.methods.base import Classes, Layout, Style, class_mask


@dataclass(frozen=True)
class Regions:
    """The regions of a batch of maps, numbered through: (sample, instance id) pairs.

    Attributes:
        index: (B, H, W) int64 region of each pixel in [0, S).
        samples, classes, ids: (S,) int64; the class is the label at the region's middle pixel,
            number n // 2 of its n in row-major order.
        area: (S,) int64 pixels.
    """

    index: Tensor
    samples: Tensor
    classes: Tensor
    ids: Tensor
    area: Tensor

    @staticmethod
    def of(label: Tensor, instance: Tensor) -> Regions:
        """From label and instance maps (B, H, W) int64, in ascending order of (sample, id)."""
        low, high = (int(v) for v in torch.aminmax(instance))
        step = high - low + 1
        sample = torch.arange(len(label), device=label.device)[:, None, None]
        pairs, index, area = torch.unique(
            sample * step + instance - low, return_inverse=True, return_counts=True
        )
        order = torch.argsort(index.flatten(), stable=True)
        middle = order[area.cumsum(0) - area + area // 2]
        classes = label.flatten()[middle]
        return Regions(index, pairs // step, classes, pairs % step + low, area)


def region_features(features: Tensor, index: Tensor, count: int) -> Tensor:
    """Mean feature of each region: (B, F, H, W), (B, H, W) in [-1, count) -> (count, F); a region
    without pixels has zeros."""
    flat = index.flatten()
    inside = flat >= 0
    rows = features.permute(0, 2, 3, 1).flatten(0, 2)[inside].double()  # a long sum keeps digits
    sums = rows.new_zeros(count, rows.shape[1]).index_add_(0, flat[inside], rows)
    area = torch.bincount(flat[inside], minlength=count)
    return (sums / area.clamp_min(1)[:, None]).to(features.dtype)


@dataclass(frozen=True)
class OwnInstances:
    """Features of every instance of the photograph that a style was encoded from.

    They serve a layout with the very same maps; any other has other instances and takes the
    features by class.

    Attributes:
        label, instance: (B, H, W) int64, the maps of the photograph.
        regions: of these maps.
        features: (S, F).
    """

    label: Tensor
    instance: Tensor
    regions: Regions
    features: Tensor

    def merged(self, other: Style, alpha: float, mask: Tensor) -> OwnInstances:
        """Instances of the classes in ``mask`` (B, C) move by ``alpha`` to ``other``'s features of
        their class."""
        at = (self.regions.samples, self.regions.classes.clamp_min(0))
        chosen = (mask[at] & (self.regions.classes >= 0))[:, None]
        moved = torch.lerp(self.features, other.codes[at], alpha)
        return replace(self, features=torch.where(chosen, moved, self.features))


@dataclass(frozen=True)
class FeatureStyle(Style):
    """Features of each class, codes (B, C, F): means over its pixels, zeros where the photograph
    lacks it.

    Attributes:
        own: single instances, where the network has instance maps.
        unclustered: (B,) int64, regions of a sampled style whose class has no cluster centres.
    """

    own: OwnInstances | None = None
    unclustered: Tensor | None = None

    def swap(self, other: Style, classes: Classes = None) -> FeatureStyle:
        """As ``Style.swap``; every instance of a swapped class takes the other's class code."""
        return self._follow(super().swap(other, classes), other, 1.0, classes)

    def lerp(self, other: Style, alpha: float, classes: Classes = None) -> FeatureStyle:
        """As ``Style.lerp``."""
        return self._follow(super().lerp(other, alpha, classes), other, alpha, classes)

    def _follow(self, merged: Style, other: Style, alpha: float, classes: Classes) -> FeatureStyle:
        assert isinstance(merged, FeatureStyle)
        if self.own is None:
            return merged
        mask = class_mask(classes, self.present)
        return replace(merged, own=self.own.merged(other, alpha, mask))

    def painted(self, layout: Layout) -> Tensor:
        """(B, F, H, W) features of each pixel of ``layout``; zeros where it has no class."""
        batch, classes, width = self.codes.shape
        label = layout.label
        index = label + torch.arange(batch, device=label.device)[:, None, None] * classes
        index = torch.where(label < 0, batch * classes, index)
        table = torch.cat([self.codes.flatten(0, 1), self.codes.new_zeros(1, width)])
        by_class = table[index].permute(0, 3, 1, 2)
        own = self.own
        if own is None or layout.instance is None or own.label.shape != label.shape:
            return by_class
        same = (own.label == label) & (own.instance == layout.instance)
        mine = same.flatten(1).all(1)[:, None, None, None]
        return torch.where(mine, own.features[own.regions.index].permute(0, 3, 1, 2), by_class)
