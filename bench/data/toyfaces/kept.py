"""Drawn arrays, kept as far as they fit, so that a run draws each picture once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

import numpy as np

Arrays = tuple[np.ndarray, ...]


class Kept:
    """Arrays by what they were drawn from; the least recently used ones go first.

    Args:
        limit: bytes that are kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self._size = limit, 0
        self._found: OrderedDict[Hashable, Arrays] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, draw: Callable[[], Arrays]) -> Arrays:
        """Copies of the arrays of ``key``, drawn by ``draw`` unless they are kept."""
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
        if found is None:
            found = draw()  # outside of the lock: threads draw side by side
            with self._lock:
                self._keep(key, found)
        return tuple(a.copy() for a in found)

    def _keep(self, key: Hashable, arrays: Arrays) -> None:
        if key in self._found:  # another thread was first
            return
        self._found[key] = arrays
        self._size += _bytes(arrays)
        while self._size > self.limit:
            _, old = self._found.popitem(last=False)
            self._size -= _bytes(old)


def _bytes(arrays: Arrays) -> int:
    return sum(a.nbytes for a in arrays)
