"""Scores of the machine, from a run's item records: seconds, memory, parameters, operations."""

from __future__ import annotations

import numpy as np

from sisbench.core.errors import Unavailable
from sisbench.core.estimates import mean_estimate
from sisbench.core.tasks import method_tasks
from sisbench.metrics.base import Metric, Rows, Score


class _FromItems(Metric):
    """A score of one column of the item records, ``columns[0]``.

    Class attributes:
        remedy: what makes a run record it.
    """

    remedy = ""

    kind = "machine"
    direction = "down"
    bounds = (0.0, None)
    tasks = tuple(task.name for task in method_tasks())
    source = "measured in the run"

    def _column(self, rows: Rows) -> np.ndarray:
        values = np.asarray(rows.get(self.columns[0], ()), np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            raise Unavailable(f"the run recorded no {self.title.lower()}", self.remedy)
        return values


class Seconds(_FromItems):
    """Median seconds an image, and its quartiles in ``extra``; the first image's start-up cost
    moves a mean, not a median.

    Rows: ``seconds`` (n,).

    >>> Seconds().reduce({"seconds": np.array([9.0, 1.0, 1.0])}).value
    1.0
    """

    name = "seconds"
    columns = ("seconds",)
    title = "Time"
    unit = "s"
    digits = 3

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        values = self._column(rows)
        low, median, high = np.percentile(values, [25, 50, 75])
        mean = mean_estimate(values)
        extra = {"mean": mean.value, "mean_se": mean.se, "quartiles": [float(low), float(high)]}
        return Score(float(median), len(values), extra=extra)


class PeakMemory(_FromItems):
    """Highest memory while a batch was made, stored in bytes: on CUDA what torch had allocated,
    weights included; on a CPU what the whole process had resident.

    Rows: ``peak_memory`` (n,).

    >>> PeakMemory().reduce({"peak_memory": np.array([1.0, 3.0])}).value
    3.0
    """

    name = "peak_memory"
    columns = ("peak_memory",)
    title = "Peak memory"
    unit = "MiB"
    remedy = "CUDA and Linux tell it, other devices do not"
    scale = 1 / 2**20
    digits = 0

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        values = self._column(rows)
        return Score(float(values.max()), len(values))


class Parameters(_FromItems):
    """Parameters of the method's networks (its ``net``).

    Rows: ``parameters`` (n,), the same number everywhere.

    >>> Parameters().reduce({"parameters": np.array([5.0])}).value
    5.0
    """

    name = "parameters"
    columns = ("parameters",)
    title = "Parameters"
    unit = "M"
    remedy = "the method has no 'net'"
    scale = 1e-6
    digits = 1

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        values = self._column(rows)
        return Score(float(np.median(values)), len(values))


class Flops(Parameters):
    """Floating-point operations an image in matrix products, convolutions and attention (2 for a
    multiply-add), as this implementation does them; counted on the first image of a cell.

    Rows: ``flops`` (n,).

    >>> Flops().reduce({"flops": np.array([5.0])}).value
    5.0
    """

    name = "flops"
    columns = ("flops",)
    title = "Operations"
    unit = "GFLOP"
    remedy = "set 'engine: {profile: true}' before its images are made"
    scale = 1e-9
