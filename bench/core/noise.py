"""Noise that belongs to a sample: the same values for any batch, order, rank or device."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sisbench.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


class NoiseSource(Protocol):
    """What ``Noise``, ``ZeroNoise`` and ``GivenNoise`` have in common."""

    def normal(self, name: str, *shape: int) -> Tensor:
        """(B, *shape), or (1, *shape) where one value serves every sample."""
        ...


class Noise:
    """Standard normal noise that depends on (seed, sample id, name) and on nothing else.

    Neither batch size, order of samples, order of draws, rank nor device changes a value. A longer
    draw under the same name begins with the shorter one (row-major).

    Args:
        ids: sample ids of the batch, in its order.
        seed: seed of the run.
    """

    def __init__(self, ids: Sequence[str], seed: int = 0) -> None:
        self.ids = tuple(ids)
        self.seed = seed

    def normal(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) float32 on the CPU."""
        import torch

        rows = [self._stream(i, name).standard_normal(shape, dtype=np.float32) for i in self.ids]
        return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, *shape)

    def _stream(self, sample: str, name: str) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed}\0{sample}\0{name}".encode()).digest()
        return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


class ZeroNoise:
    """Zeros wherever noise is asked for; a leading 1 stands for any batch size (it broadcasts)."""

    def normal(self, name: str, *shape: int) -> Tensor:
        """(1, *shape) float32 zeros."""
        import torch

        return torch.zeros(1, *shape)


class GivenNoise:
    """Given tensors by name, each (B, *shape); a name that was not given is an error."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self.values = dict(values)

    def normal(self, name: str, *shape: int) -> Tensor:
        """The tensor given for ``name``.

        Raises:
            UserError: none was given, or its shape is not (B, *shape).
        """
        if name not in self.values:
            raise UserError(
                f"no noise was given for '{name}'", f"given: {', '.join(self.values) or 'none'}"
            )
        value = self.values[name]
        if tuple(value.shape[1:]) != shape:
            raise UserError(f"noise '{name}' must be (B, *{shape}), got {tuple(value.shape)}")
        return value
