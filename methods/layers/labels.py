"""Label maps as networks want them: resized by torch's nearest rule, one-hot, with instance
edges."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sisbench.core.label_space import HOLE


@lru_cache(maxsize=256)
def nearest_indices(source: int, target: int) -> Tensor:
    """(target,) int64 on the CPU: source index of each position under torch's ``nearest``.

    floor(i * scale) in float32, as torch's kernels round it.
    """
    scale = np.float32(source) / np.float32(target)
    index = (np.arange(target, dtype=np.float32) * scale).astype(np.int64)
    return torch.from_numpy(index.clip(max=source - 1))


def resize_labels(label: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W) integer map -> (B, *size), by torch's ``nearest`` rule (not PIL's)."""
    height, width = label.shape[-2:]
    if (height, width) == size:
        return label
    rows = nearest_indices(height, size[0]).to(label.device)
    columns = nearest_indices(width, size[1]).to(label.device)
    return label.index_select(-2, rows).index_select(-1, columns)


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
