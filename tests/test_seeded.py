"""Seeded weights against the plain form that defines them, bit for bit."""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor

from sisbench.methods.seeded import seeded_state

SHAPES: dict[str, tuple[int, ...]] = {
    "conv.weight_orig": (24, 13, 3, 3),
    "conv.weight_u": (24,),
    "conv.weight_v": (117,),
    "conv.bias": (24,),
    "old.weight_orig": (16, 8, 3, 3),
    "old.weight_u": (16,),
    "up.weight_orig": (48, 24, 1, 1),
    "up.weight_u": (48,),
    "up.weight_v": (24,),
    "wide.weight": (70, 40, 5, 5),  # more numbers than are drawn at a time, and an odd rest
    "norm.weight": (7,),
    "norm.running_mean": (7,),
    "norm.running_var": (7,),
    "norm.num_batches_tracked": (),
    "gain": (),
}


def normal(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    stream = np.random.RandomState((zlib.crc32(key.encode()) ^ seed) & 0xFFFFFFFF)
    return np.asarray(stream.standard_normal(shape))


def plain_entry(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    n = normal(key, shape, seed)
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
    return np.asarray(n, np.float32)


def plain_vectors(weight: np.ndarray, start: np.ndarray) -> tuple[Tensor, Tensor]:
    """Fifty power iterations in float64."""
    matrix = torch.from_numpy(weight).double().flatten(1)
    u = torch.from_numpy(start / np.linalg.norm(start))
    v = u
    for _ in range(50):
        v = torch.nn.functional.normalize(matrix.T @ u, dim=0)
        u = torch.nn.functional.normalize(matrix @ v, dim=0)
    return u.float(), v.float()


def test_entries_are_those_of_the_plain_form() -> None:
    for seed in (0, 7):
        state = seeded_state(SHAPES, seed)
        assert list(state) == list(SHAPES)
        assert state["norm.num_batches_tracked"].dtype == torch.int64
        for key, shape in SHAPES.items():
            assert tuple(state[key].shape) == shape
            if not key.endswith(("weight_u", "weight_v", "num_batches_tracked")):
                assert np.array_equal(state[key].numpy(), plain_entry(key, shape, seed)), key


def test_singular_vectors_are_those_of_fifty_power_iterations() -> None:
    state = seeded_state(SHAPES, 3)
    for stem in ("conv", "old", "up"):
        start = normal(f"{stem}.weight_u", (len(state[f"{stem}.weight_u"]),), 3)
        u, v = plain_vectors(state[f"{stem}.weight_orig"].numpy(), start)
        assert torch.equal(state[f"{stem}.weight_u"], u), stem
        if stem != "old":
            assert torch.equal(state[f"{stem}.weight_v"], v), stem
