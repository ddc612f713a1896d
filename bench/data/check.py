"""Checking a data set whole: every item decoded, every fault listed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.data.base import Dataset
from sisbench.data.loader import load_or_error


def check_items(dataset: Dataset, progress: Progress, workers: int = 2) -> list[str]:
    """The faults of a data set, one line each; [] when every item is good."""
    faults = []
    label = f"checking {dataset.name} {dataset.split}"
    with progress.bar(label, len(dataset)) as advance, ThreadPoolExecutor(workers) as pool:
        for outcome in pool.map(lambda i: load_or_error(dataset, i), dataset.ids):
            if isinstance(outcome, UserError):
                faults.append(outcome.message)
            advance(1)
    return faults
