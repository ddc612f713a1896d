"""Seeded test weights in the official layout: the same on every machine, made from key names alone.

They stand in for checkpoints where only the code is under test (``weights: seeded:0``); every
table that rests on them is marked. The stream of a key is NumPy's frozen ``RandomState(crc32(key)
^ seed)``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

_POWER_ITERATIONS = 50


def _normal(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    stream = np.random.RandomState((zlib.crc32(key.encode()) ^ seed) & 0xFFFFFFFF)
    return np.asarray(stream.standard_normal(shape))


def seeded_entry(key: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """The value of one float entry; the rule follows from the end of its key and its rank."""
    n = _normal(key, shape, seed)
    if key.endswith("running_mean"):
        n = 0.1 * n
    elif key.endswith("running_var"):
        n = 1 + 0.1 * np.abs(n)
    elif not shape:
        n = 0.1 * n
    elif len(shape) == 1:
        n = 1 + 0.1 * n if key.endswith("weight") else 0.05 * n
    else:
        n = n / math.sqrt(max(1, math.prod(shape) // shape[0]))
    return torch.from_numpy(np.asarray(n, dtype=np.float32))


def _singular_vectors(weight: Tensor, start: np.ndarray) -> tuple[Tensor, Tensor]:
    """Leading singular vectors of ``weight`` seen as (out, rest), by power iteration in float64."""
    matrix = weight.double().flatten(1)
    u = torch.from_numpy(start / np.linalg.norm(start))
    v = u
    for _ in range(_POWER_ITERATIONS):
        v = torch.nn.functional.normalize(matrix.T @ u, dim=0)
        u = torch.nn.functional.normalize(matrix @ v, dim=0)
    return u.float(), v.float()


def seeded_state(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Values for every key: floats as above, ``*num_batches_tracked`` zero,
    ``weight_u``/``weight_v`` the leading singular vectors of their ``weight_orig``.

    Args:
        shapes: official key -> shape.
        seed: any integer.
    """
    state: dict[str, Tensor] = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros(shape, dtype=torch.int64)
        elif not key.endswith(("weight_u", "weight_v")):
            state[key] = seeded_entry(key, tuple(shape), seed)
    for key in shapes:
        if key.endswith("weight_u"):
            stem = key.removesuffix("weight_u")
            weight = state[stem + "weight_orig"]
            u, v = _singular_vectors(weight, _normal(key, (weight.shape[0],), seed))
            state[key] = u
            if stem + "weight_v" in shapes:
                state[stem + "weight_v"] = v
    return state
