"""Segments: the (class, instance) pairs of each sample, numbered densely, as small look-up axes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sisbench.methods.base import present_classes


@dataclass(frozen=True)
class Segments:
    """The (class, instance) pairs of a batch of label maps.

    A sample has as many segments as it holds pairs; the axis is padded to the largest number P of
    the batch, and padded rows point at class 0, slot 0, where no pixel points at them.

    Attributes:
        index: (B, H, W) int64 segment of each pixel in [0, P); P for a hole.
        classes: (B, P) int64 class of each segment.
        slots: (B, P) int64 instance slot of each segment.
        num_slots: number of instance slots K of the batch.
    """

    index: Tensor
    classes: Tensor
    slots: Tensor
    num_slots: int


def find_segments(label: Tensor, instance: Tensor | None, num_classes: int) -> Segments:
    """Segments of label maps, (B, H, W) int64, with instance maps or without.

    Without an instance map a class is one instance and its slot is the rank of the class among the
    classes of the sample: the official instance maps of CelebAMask-HQ, ADE20K and DeepFashion.
    """
    hole = label < 0
    if instance is None:
        index, codes = dense_rank(label, num_classes)
        slots = torch.arange(codes.shape[1], device=label.device).expand_as(codes)
        return Segments(index, codes, slots, codes.shape[1])
    num_slots = int(instance.max()) + 1
    pairs = (label * num_slots + instance).masked_fill(hole, -1)
    index, codes = dense_rank(pairs, num_classes * num_slots)
    return Segments(index, codes // num_slots, codes % num_slots, num_slots)


def class_segments(label: Tensor, num_classes: int) -> Segments:
    """Segments of label maps (B, H, W) int64 where the slot of a class is its id."""
    index, classes = dense_rank(label, num_classes)
    return Segments(index, classes, classes, num_classes)


def dense_rank(values: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The rank of each value among the distinct values of its sample.

    Args:
        values: (B, H, W) int64 in [-1, limit); -1 has no rank.
        limit: bound of the values.

    Returns:
        ranks (B, H, W) int64 in [0, P), P for -1, and the values (B, P) that the ranks stand for
        (0 where a sample has fewer than P).
    """
    present = present_classes(values, limit)  # (B, limit)
    longest = max(int(present.sum(1).max()), 1)
    rank = (present.cumsum(1) - 1).masked_fill(~present, longest)
    batch = values.shape[0]
    codes = torch.zeros(batch, longest + 1, dtype=torch.int64, device=values.device)
    codes.scatter_(1, rank, torch.arange(limit, device=values.device).expand(batch, -1))
    ranks = rank.gather(1, values.flatten(1).clamp_min(0)).reshape(values.shape)
    return ranks.masked_fill(values < 0, longest), codes[:, :longest]
