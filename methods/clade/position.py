"""Intra-class position maps: where a pixel lies in its connected region."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

_EPS = 1e-5


def position_maps(label: Tensor, normalised: bool = True) -> Tensor:
    """Offset of each pixel from the centroid of its region, an 8-connected component of a class
    (the paper speaks of the class; its code counts by component).

    Args:
        label: (B, H, W) int64; pixels of class 0 and of no class (-1) have position 0.
        normalised: divide both offsets by the region's largest (plus 1e-5), so that they lie in
            (-1, 1); otherwise they are pixels.

    Returns:
        (B, 2, H, W) float32 on the label's device: vertical offset, then horizontal.
    """
    maps = [_position_map(plane, normalised) for plane in label.cpu().numpy()]
    return torch.from_numpy(np.stack(maps)).to(label.device)


def _position_map(label: np.ndarray, normalised: bool) -> np.ndarray:
    """(H, W) -> (2, H, W) float32."""
    offset = np.zeros((2, *label.shape), np.float32)
    for value in np.unique(label):
        if value <= 0:
            continue
        mask = (label == value).astype(np.uint8)
        count, region, _, centroid = cv2.connectedComponentsWithStats(mask, connectivity=8)
        rows, columns = np.nonzero(mask)
        ids = region[rows, columns]
        for axis, at in ((0, rows), (1, columns)):
            distance = at - centroid[ids, 1 - axis]
            if normalised:
                largest = np.zeros(count)
                np.maximum.at(largest, ids, np.abs(distance))
                distance = distance / (largest[ids] + _EPS)
            offset[axis, rows, columns] = distance
    return offset
