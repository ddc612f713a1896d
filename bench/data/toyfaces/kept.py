"""Drawn pictures that are kept in memory: a run asks for each several times."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

LIMIT = 128 << 20
"""Bytes: some 8,000 samples of 64 x 64."""


class KeptArrays:
    """Arrays by what they depend on; the least recently used go first. Threads may share it.

    Args:
        limit: bytes that stay.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, tuple[np.ndarray, ...]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def of(
        self, key: Hashable, draw: Callable[[], tuple[np.ndarray, ...]]
    ) -> tuple[np.ndarray, ...]:
        """What ``draw`` gives for this key, drawn now or before; copies, which may be changed."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
        if found is None:
            found = draw()
            with self._lock:
                self._keep(key, found)
        return tuple(array.copy() for array in found)

    def _keep(self, key: Hashable, arrays: tuple[np.ndarray, ...]) -> None:
        if key in self._kept:  # another thread was as fast
            return
        self._kept[key] = arrays
        self._bytes += sum(array.nbytes for array in arrays)
        while self._bytes > self.limit and self._kept:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= sum(array.nbytes for array in oldest)
