"""Pillow's nearest and bilinear resizing as integer tensor arithmetic: whole batches, any device.

Parsers meet images and label maps that the papers resized with Pillow; torch's own kernels differ
(another nearest rule, no 8-bit rounding between the passes), which moves label maps and scores.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sisbench.core.resize import pil_nearest

_BITS = 22  # fixed-point fraction of Pillow's 8-bit resampling coefficients


def resize_nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Any (..., H, W) tensor to (..., h, w) by Pillow's NEAREST; dtype and values stay."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    rows, columns = (
        torch.from_numpy(pil_nearest(x.shape[axis], size[axis])).to(x.device) for axis in (-2, -1)
    )
    return x.index_select(-2, rows).index_select(-1, columns)


def resize_labels(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Label maps (B, H, W) of any integer type to (B, h, w): Pillow's NEAREST, never a blend."""
    return resize_nearest(label, size)


@lru_cache(maxsize=256)
def _bilinear_taps(n_in: int, n_out: int) -> tuple[Tensor, Tensor]:
    """First source index (n_out,) int64 and fixed-point weights (taps, n_out) int32 of Pillow's
    BILINEAR: a triangle as wide as the scale when reducing (it antialiases), cut at the border."""
    scale = n_in / n_out
    support = max(scale, 1.0)
    centre = (np.arange(n_out) + 0.5) * scale
    first = (centre - support + 0.5).astype(np.int64).clip(min=0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), n_in)
    taps = np.arange(math.ceil(support) * 2 + 1)[:, None]
    distance = np.abs((taps + first - centre + 0.5) * (1.0 / support))
    weight = np.where((distance < 1.0) & (taps < last - first), 1.0 - distance, 0.0)
    total = np.cumsum(weight, axis=0)[-1]
    fixed = np.floor(0.5 + weight / total * (1 << _BITS)).astype(np.int32)
    used = int(np.flatnonzero(fixed.any(axis=1))[-1]) + 1
    return torch.from_numpy(first), torch.from_numpy(fixed[:used])


def _blend(x: Tensor, n_out: int, dim: int) -> Tensor:
    """One pass along ``dim`` (-1 or -2) of an int32 tensor with values 0..255, rounded to 8 bits.

    The sum stays below 255 * 2^22 + 2^21 + 255 * taps < 2^31, so int32 is exact.
    """
    n_in = x.shape[dim]
    if n_in == n_out:
        return x
    first, weights = (t.to(x.device) for t in _bilinear_taps(n_in, n_out))
    total: Tensor | None = None
    for k, weight in enumerate(weights):
        tap = x.index_select(dim, (first + k).clamp(max=n_in - 1))
        tap = tap * (weight if dim == -1 else weight[:, None])
        total = tap if total is None else total.add_(tap)
    assert total is not None  # there is at least one tap
    return total.add_(1 << (_BITS - 1)).bitwise_right_shift_(_BITS).clamp_(0, 255)


def resize_bilinear(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., H, W) uint8 to (..., h, w) uint8: Pillow's BILINEAR bit for bit, columns before rows.

    That order is the one of the Pillow versions that the papers used. Newest ones take the rows
    first where only (or mostly) the height shrinks; there single values differ by one level.
    """
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    x = _blend(images.to(torch.int32), size[1], -1)
    return _blend(x, size[0], -2).to(torch.uint8)
