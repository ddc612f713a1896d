"""Style of INADE: mean and log-variance of the instance noise, by class and by own instance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sisbench.methods.base import Classes, Layout, Style, class_mask
from sisbench.methods.inade.segments import Segments


@dataclass(frozen=True)
class SketchLayout(Layout):
    """A label map with the sketch that the journal extension draws along.

    Attributes:
        sketch: (B, H, W) in {0, 1}, or None.
    """

    sketch: Tensor | None = None


@dataclass(frozen=True)
class OwnInstances:
    """Statistics of every single instance of the photograph that a style was encoded from.

    They serve a layout with the very same maps (a reconstruction, an edit); any other layout has
    other instances and takes the statistics by class.

    Attributes:
        label, instance: (B, H, W) int64, the maps of the photograph.
        classes: (B, K) int64 class that each slot has most pixels of.
        mu, logvar: (B, K, 2, noise_nc).
    """

    label: Tensor
    instance: Tensor
    classes: Tensor
    mu: Tensor
    logvar: Tensor

    def merged(self, other: Style, alpha: float, mask: Tensor) -> OwnInstances:
        """The instances of the classes in ``mask`` (B, C) move by ``alpha`` to ``other``'s class
        statistics."""
        chosen = mask.gather(1, self.classes)[:, :, None, None]
        row = torch.arange(len(mask), device=mask.device)[:, None]
        mu, logvar = other.codes[row, self.classes], other.extra["logvar"][row, self.classes]
        return replace(
            self,
            mu=torch.where(chosen, torch.lerp(self.mu, mu, alpha), self.mu),
            logvar=torch.where(chosen, torch.lerp(self.logvar, logvar, alpha), self.logvar),
        )


@dataclass(frozen=True)
class InstanceStyle(Style):
    """Distribution of the instance noise.

    ``codes`` is the mean (B, C, 2, noise_nc) (0: scale, 1: shift) and ``extra["logvar"]`` the
    log-variance of each class: that of the class's largest instance, or the prior (zeros) where the
    photograph lacks the class.

    Attributes:
        own: the single instances, where an instance map came with the photograph.
    """

    own: OwnInstances | None = None

    def swap(self, other: Style, classes: Classes = None) -> InstanceStyle:
        """As ``Style.swap``; every instance of a swapped class takes the other's class code."""
        return self._follow(super().swap(other, classes), other, 1.0, classes)

    def lerp(self, other: Style, alpha: float, classes: Classes = None) -> InstanceStyle:
        """As ``Style.lerp``."""
        return self._follow(super().lerp(other, alpha, classes), other, alpha, classes)

    def _follow(self, merged: Style, other: Style, alpha: float, classes: Classes) -> InstanceStyle:
        assert isinstance(merged, InstanceStyle)
        if self.own is None:
            return merged
        mask = class_mask(classes, self.present)
        return replace(merged, own=self.own.merged(other, alpha, mask))

    def of(self, layout: Layout, segments: Segments) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of each segment of ``layout``, (B, P, 2, noise_nc) each."""
        row = torch.arange(len(segments.classes), device=segments.classes.device)[:, None]
        mu, logvar = self.codes[row, segments.classes], self.extra["logvar"][row, segments.classes]
        own = self.own
        if own is None or layout.instance is None or own.label.shape != layout.label.shape:
            return mu, logvar
        same = (own.label == layout.label) & (own.instance == layout.instance)
        mine = same.flatten(1).all(1)[:, None, None, None]
        slots = segments.slots.clamp_max(own.mu.shape[1] - 1)
        return (
            torch.where(mine, own.mu[row, slots], mu),
            torch.where(mine, own.logvar[row, slots], logvar),
        )


def prior_style(like: Tensor, present: Tensor, noise_nc: int) -> InstanceStyle:
    """Mean 0 and log-variance 0 for every class; ``present`` is (B, C) bool."""
    zeros = torch.zeros(*present.shape, 2, noise_nc, dtype=like.dtype, device=like.device)
    return InstanceStyle(zeros, present, {"logvar": zeros})


def style_of_slots(
    label: Tensor, ids: Tensor, mu: Tensor, logvar: Tensor, num_classes: int, instances: bool
) -> InstanceStyle:
    """The style from the statistics of instance slots.

    Args:
        label: (B, H, W) int64.
        ids: (B, H, W) int64 slots in [0, K); -1 for none.
        mu, logvar: (B, K, 2, noise_nc).
        num_classes: number of classes.
        instances: whether ``ids`` is an instance map, so that single instances are kept too.
    """
    batch, slots = mu.shape[:2]
    pairs = (label * slots + ids).flatten(1)
    valid = (label >= 0) & (ids >= 0)
    counts = torch.zeros(batch, num_classes * slots, dtype=torch.int64, device=label.device)
    counts.scatter_add_(1, pairs.masked_fill(~valid.flatten(1), 0), valid.flatten(1).long())
    counts = counts.view(batch, num_classes, slots)
    largest = counts.argmax(2)  # (B, C): the first of equals
    present = counts.sum(2) > 0
    row = torch.arange(batch, device=label.device)[:, None]
    absent = ~present[:, :, None, None]
    own = OwnInstances(label, ids, counts.argmax(1), mu, logvar) if instances else None
    codes = mu[row, largest].masked_fill(absent, 0)
    variance = logvar[row, largest].masked_fill(absent, 0)
    return InstanceStyle(codes, present, {"logvar": variance}, own)
