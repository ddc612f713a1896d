"""Label maps as networks want them: checked, one-hot, with instance edges."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sisbench.core.errors import UserError
from sisbench.core.label_space import HOLE

UNLABELLED = 255
"""Value of an unlabelled pixel in an 8-bit label map; it is read as the don't-care class."""


def read_labels(label: Tensor, classes: int, dontcare: int | None = None, hint: str = "") -> Tensor:
    """(B, H, W) int64 label map, checked; 255 becomes ``dontcare`` where there is such a class.

    Args:
        label: values in [-1, classes), -1 for holes, or 255.
        classes: number of classes, the don't-care class included.
        dontcare: class of unlabelled pixels, or None.
        hint: what to do.

    Raises:
        UserError: a value that is no class.
    """
    if dontcare is not None:
        label = label.masked_fill(label == UNLABELLED, dontcare)
    low, high = (int(v) for v in label.aminmax()) if label.numel() else (0, 0)
    if low < HOLE or high >= classes:
        raise UserError(
            f"label values {low}..{high}; the network has the classes 0..{classes - 1}",
            hint or "check the label space",
        )
    return label


def one_hot(label: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, H, W) int64 -> (B, C, H, W); a hole (-1) is zero in every channel."""
    planes = torch.zeros(
        label.shape[0], num_classes, *label.shape[1:], dtype=dtype, device=label.device
    )
    return planes.scatter_(1, label.clamp_min(0)[:, None], (label != HOLE)[:, None].to(dtype))


def instance_edges(instance: Tensor) -> Tensor:
    """(B, H, W) ids -> (B, 1, H, W) float32, 1 where a pixel differs from one of its four
    neighbours."""
    edges = torch.zeros_like(instance, dtype=torch.bool)
    across = instance[:, :, 1:] != instance[:, :, :-1]
    down = instance[:, 1:, :] != instance[:, :-1, :]
    edges[:, :, 1:] |= across
    edges[:, :, :-1] |= across
    edges[:, 1:, :] |= down
    edges[:, :-1, :] |= down
    return edges[:, None].float()


def region_means(features: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Mean feature of each class: (B, D, h, w), (B, h, w) -> (B, C, D); absent classes give
    zeros."""
    planes = one_hot(label, num_classes, features.dtype).flatten(2)  # (B, C, h*w)
    sums = planes @ features.flatten(2).transpose(1, 2)  # (B, C, D)
    return sums / planes.sum(2, keepdim=True).clamp_min(1)


def interpolate_nearest(x: Tensor, factor: int = 2) -> Tensor:
    """Nearest enlargement by a whole factor: (B, D, h, w) -> (B, D, factor*h, factor*w)."""
    return F.interpolate(x, scale_factor=float(factor), mode="nearest")


def with_background(logits: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C + 1, H, W): in front, 1 where the logits add up to no more than 0, else
    0. Training compares this with the label map."""
    background = (logits.sum(1, keepdim=True) <= 0).to(logits.dtype)
    return torch.cat([background, logits], 1)
