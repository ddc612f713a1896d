"""Resizing, each function named by its rule, equal to the library of that name bit for bit.

Parsers meet photographs and label maps that the papers resized with Pillow; networks of the SPADE
family resize label maps by torch's ``nearest``, which takes other pixels. Everything here works on
whole batches and, for tensors, on any device.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

_BITS = 22  # fixed-point fraction of Pillow's 8-bit resampling coefficients
Labels = TypeVar("Labels", np.ndarray, "Tensor")

Filter = Literal["nearest", "bilinear", "bicubic", "lanczos", "area"]
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}
"""Pillow's filters by their usual names; all but ``nearest`` antialias where they reduce."""


@lru_cache(maxsize=256)
def pil_nearest(source: int, target: int) -> np.ndarray:
    """(target,) int64: source index of every position under PIL's NEAREST, the rule for label maps.

    floor((i + 0.5) * source / target), summed up step by step in double precision as PIL does: next
    to whole numbers the closed form gives another pixel.
    """
    step = source / target
    steps = np.full(target, step)
    steps[0] = 0.5 * step
    return np.cumsum(steps).astype(np.int64).clip(max=source - 1)


@lru_cache(maxsize=256)
def torch_nearest(source: int, target: int) -> np.ndarray:
    """(target,) int64: source index of every position under torch's ``nearest``.

    floor(i * scale) in float32, as torch's kernels round it.
    """
    scale = np.float32(source) / np.float32(target)
    index = (np.arange(target, dtype=np.float32) * scale).astype(np.int64)
    return index.clip(max=source - 1)


def resize_labels_pil(label: Labels, size: tuple[int, int]) -> Labels:
    """(..., H, W), an array or a tensor of any dtype, to (..., h, w) by Pillow's NEAREST: the rule
    of the papers' loaders and of scores. dtype and values stay."""
    height, width = label.shape[-2:]
    return _take(label, size, pil_nearest(height, size[0]), pil_nearest(width, size[1]))


def resize_labels_torch(label: Labels, size: tuple[int, int]) -> Labels:
    """(..., H, W), an array or a tensor of any dtype, to (..., h, w) by torch's ``nearest``: the
    rule within networks. dtype and values stay."""
    height, width = label.shape[-2:]
    return _take(label, size, torch_nearest(height, size[0]), torch_nearest(width, size[1]))


def _take(label: Labels, size: tuple[int, int], rows: np.ndarray, columns: np.ndarray) -> Labels:
    if tuple(label.shape[-2:]) == tuple(size):
        return label
    if isinstance(label, np.ndarray):
        return label[..., rows[:, None], columns[None]]
    import torch

    by_row = label.index_select(-2, torch.from_numpy(rows).to(label.device))
    return by_row.index_select(-1, torch.from_numpy(columns).to(label.device))


def resize_images_pil(images: Tensor, size: tuple[int, int], by: Filter) -> Tensor:
    """(B, 3, H, W) floating point in [-1, 1] to (B, 3, h, w) float32 by a filter of Pillow's, on
    its 32-bit values; what a filter overshoots is clamped to [-1, 1]."""
    import torch

    if tuple(images.shape[-2:]) == tuple(size):
        return images
    planes = images.detach().float().cpu().flatten(0, 1).numpy()  # (B * 3, H, W)
    shape = size[1], size[0]
    resized = [np.asarray(Image.fromarray(p).resize(shape, FILTERS[by])) for p in planes]
    whole = torch.from_numpy(np.stack(resized)).unflatten(0, images.shape[:2])
    return whole.clamp_(-1, 1).to(images.device)


def resize_bilinear_pil(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., H, W) uint8 to (..., h, w) uint8: Pillow's BILINEAR bit for bit, columns before rows.

    That order is the one of the Pillow versions that the papers used. Newest ones take the rows
    first where only (or mostly) the height shrinks; there single values differ by one level.
    """
    import torch

    if tuple(images.shape[-2:]) == tuple(size):
        return images
    x = _blend(images.to(torch.int32), size[1], -1)
    return _blend(x, size[0], -2).to(torch.uint8)


@lru_cache(maxsize=256)
def _bilinear_taps(n_in: int, n_out: int) -> tuple[Tensor, Tensor]:
    """First source index (n_out,) int64 and fixed-point weights (taps, n_out) int32 of Pillow's
    BILINEAR: a triangle as wide as the scale when reducing (it antialiases), cut at the border."""
    import torch

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
