"""What label maps hold, and one with the shapes of another's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sisbench.core.label_space import HOLE

if TYPE_CHECKING:
    from torch import Tensor


def present_classes(label: Tensor, num_classes: int) -> Tensor:
    """Which classes a label map holds: (B, H, W) int64 -> (B, C) bool; others are left out."""
    flat = label.flatten(1)
    inside = (flat >= 0) & (flat < num_classes)
    counts = label.new_zeros(label.shape[0], num_classes)
    counts.scatter_add_(1, flat.clamp(0, num_classes - 1), inside.to(label.dtype))
    return counts > 0


def close_classes(mask: Tensor, groups: Sequence[int]) -> Tensor:
    """``mask`` (B, C) bool with whole groups: a class is set where any class of its group is.

    Args:
        mask: the classes.
        groups: the group of each class.
    """
    import torch

    index = torch.tensor(tuple(groups), device=mask.device)  # (C,)
    same = index[:, None] == index  # (C, C)
    return (mask[:, :, None] & same).any(1)


def swap_labels(own: Tensor, other: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """``own`` with the shapes that ``classes`` have in ``other``: its own pixels of them become
    holes, then the other's are painted over whatever is there. Nothing is repaired.

    Args:
        own, other: (B, H, W) int64 label maps.
        classes: (B, C) bool.

    Returns:
        The label map (B, H, W) int64 with ``HOLE`` (-1) at holes, and the painted pixels as bool.
    """
    painted = _chosen(other, classes)
    label = own.masked_fill(_chosen(own, classes), HOLE)
    return other.where(painted, label), painted


def _chosen(label: Tensor, classes: Tensor) -> Tensor:
    """(B, H, W) bool: pixels whose class is set in ``classes`` (B, C)."""
    inside = (label >= 0) & (label < classes.shape[1])
    rows = classes.gather(1, label.clamp(0, classes.shape[1] - 1).flatten(1))
    return rows.reshape(label.shape) & inside
