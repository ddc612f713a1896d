"""Seeded test weights in the official layout: the same on every machine, made from key names alone.

They stand in for checkpoints where only the code is under test (``weights: seeded:0``); every
table that rests on them is marked. The stream of a key is NumPy's frozen ``RandomState(crc32(key)
^ seed)``.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

_POWER_ITERATIONS = 50
_BLOCK = 1 << 15
"""Numbers drawn and rounded at a time, so that they stay in the cache."""


def _stream(key: str, seed: int) -> np.random.RandomState:
    return np.random.RandomState((zlib.crc32(key.encode()) ^ seed) & 0xFFFFFFFF)


def _rule(key: str, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """What is made of the standard normal numbers of an entry."""
    if key.endswith("running_mean") or (not shape and not key.endswith("running_var")):
        return lambda n: 0.1 * n
    if key.endswith("running_var"):
        return lambda n: 1 + 0.1 * np.abs(n)
    if len(shape) == 1:
        return (lambda n: 1 + 0.1 * n) if key.endswith("weight") else (lambda n: 0.05 * n)
    scale = math.sqrt(max(1, math.prod(shape) // shape[0]))
    return lambda n: n / scale


def seeded_entry(key: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """The value of one float entry; the rule follows from the end of its key and its rank."""
    stream, rule = _stream(key, seed), _rule(key, shape)
    values = np.empty(math.prod(shape), np.float32)
    for at in range(0, len(values), _BLOCK):
        part = values[at : at + _BLOCK]
        part[:] = rule(stream.standard_normal(len(part)))
    return torch.from_numpy(values.reshape(shape))


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

    def entry(key: str) -> dict[str, Tensor]:
        shape = tuple(shapes[key])
        if key.endswith("num_batches_tracked"):
            return {key: torch.zeros(shape, dtype=torch.int64)}
        found = {key: seeded_entry(key, shape, seed)}
        if key.endswith("weight_orig"):
            ends = [key.removesuffix("orig") + part for part in "uv"]
            if ends[0] in shapes:
                start = _stream(ends[0], seed).standard_normal(shape[0])
                vectors = zip(ends, _singular_vectors(found[key], start), strict=True)
                found.update((k, vector) for k, vector in vectors if k in shapes)
        return found

    drawn = [k for k in shapes if not k.endswith(("weight_u", "weight_v"))]
    drawn.sort(key=lambda k: -math.prod(shapes[k]))  # the largest first: they end together
    workers = min(8, os.cpu_count() or 1)  # NumPy and torch let go of the interpreter
    with ThreadPoolExecutor(workers) as pool:
        found = {k: v for part in pool.map(entry, drawn) for k, v in part.items()}
    return {key: found[key] for key in shapes if key in found}
