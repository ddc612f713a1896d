"""Fair timing on a loaded machine: core seconds, candidates interleaved, medians of rounds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Timed:
    """Core seconds of every kept round, and what the last call gave back."""

    seconds: list[float]
    result: Any

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


def interleaved(
    candidates: Mapping[str, Callable[[], Any]], rounds: int, device: str = "cpu"
) -> dict[str, Timed]:
    """Run A B C ... A B C ...; with more than one round the first is dropped (warm-up).

    On the CPU, counts processor time of this process and of children that have ended; with work on
    another device, wall time (every candidate ends with a score on the CPU).
    """
    clock = _core_seconds if device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name, function in candidates.items():
            start = clock()
            results[name] = function()
            seconds[name].append(clock() - start)
    kept = slice(1 if rounds > 1 else 0, None)
    return {name: Timed(times[kept], results[name]) for name, times in seconds.items()}


def _core_seconds() -> float:
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (Linux tells; elsewhere: no)."""
    info = Path("/proc/cpuinfo")
    return info.is_file() and any(
        flag in info.read_text(encoding="utf-8", errors="replace")
        for flag in ("avx512_bf16", "amx_bf16")
    )
