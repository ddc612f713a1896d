"""Resizing label maps, each function named by its rule."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


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
