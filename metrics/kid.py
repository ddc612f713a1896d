"""Kernel Inception distance: the full unbiased statistic in float64, with its standard error."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.estimates import normal_interval
from sisbench.metrics.base import Metric, Rows, Score
from sisbench.metrics.reference import check_features, real_features

_BLOCK = 1024
_SUBSET_SEED = 2020


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x.y / d + 1)^3, computed in place."""
    k = x @ y.T
    k /= x.shape[1]
    k += 1.0
    square = k * k
    square *= k
    return square


def _row_sums_within(x: np.ndarray) -> np.ndarray:
    """(n,) sums of k(x_i, x_j) over j != i; only the upper blocks are computed."""
    sums = np.zeros(len(x))
    for i in range(0, len(x), _BLOCK):
        a = slice(i, min(i + _BLOCK, len(x)))
        k = _kernel(x[a], x[a])
        sums[a] += k.sum(axis=1) - k.diagonal()
        for j in range(i + _BLOCK, len(x), _BLOCK):
            b = slice(j, min(j + _BLOCK, len(x)))
            k = _kernel(x[a], x[b])
            sums[a] += k.sum(axis=1)
            sums[b] += k.sum(axis=0)
    return sums


def _sums_between(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row sums (n,) and column sums (m,) of k(x_i, y_j)."""
    rows, columns = np.zeros(len(x)), np.zeros(len(y))
    for i in range(0, len(x), _BLOCK):
        for j in range(0, len(y), _BLOCK):
            k = _kernel(x[i : i + _BLOCK], y[j : j + _BLOCK])
            rows[i : i + _BLOCK] += k.sum(axis=1)
            columns[j : j + _BLOCK] += k.sum(axis=0)
    return rows, columns


def kid(features: np.ndarray, real: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Unbiased squared MMD with the kernel (x.y / d + 1)^3 over all pairs.

    Args:
        features: (n, d) generated; real: (m, d).

    Returns:
        (value, (n,) influence of each generated sample, (m,) of each real one): first-order terms,
        each with mean 0; var(u)/n + var(v)/m is the variance of the value away from the null.

    >>> x = np.random.default_rng(0).normal(size=(40, 8))
    >>> round(kid(x[:20] + 1, x[20:])[0], 3) > 0
    True
    """
    x = check_features(features, "features").astype(np.float64)
    y = check_features(real, "real features").astype(np.float64)
    if x.shape[1] != y.shape[1]:
        raise UserError(f"features have {x.shape[1]} dimensions, the real ones {y.shape[1]}")
    n, m = len(x), len(y)
    xx, yy = _row_sums_within(x) / (n - 1), _row_sums_within(y) / (m - 1)
    rows, columns = _sums_between(x, y)
    xy, yx = rows / m, columns / n
    value = float(xx.mean() + yy.mean() - 2 * xy.mean())
    u, v = 2 * (xx - xy), 2 * (yy - yx)
    return value, u - u.mean(), v - v.mean()


def kid_subsets(
    features: np.ndarray,
    real: np.ndarray,
    subsets: int = 100,
    size: int = 1000,
    seed: int = _SUBSET_SEED,
) -> tuple[float, float]:
    """Mean and standard deviation over random subsets, drawn as torch-fidelity draws them (the
    deviation is no standard error: subsets overlap).

    Raises:
        UserError: a set is smaller than ``size``.
    """
    x, y = check_features(features, "features"), check_features(real, "real features")
    if min(len(x), len(y)) < size:
        raise UserError(
            f"subsets of {size} need at least as many images, got {len(x)} and {len(y)}",
            "take the full statistic (the default)",
        )
    stream = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        a = x[stream.choice(len(x), size, replace=False)].astype(np.float64)
        b = y[stream.choice(len(y), size, replace=False)].astype(np.float64)
        within = (_row_sums_within(a).mean() + _row_sums_within(b).mean()) / (size - 1)
        values.append(within - 2 * _kernel(a, b).mean())
    return float(np.mean(values)), float(np.std(values))


class KID(Metric):
    """Kernel Inception distance: unbiased squared MMD of Inception features, over all pairs.

    KID = mean_{i!=j} k(x_i, x_j) + mean_{i!=j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j) with
    k(a, b) = (a.b / d + 1)^3. Lower is better; about 0 for equal distributions and possibly
    negative. Unbiased, so it may be compared over different n. The standard error is first order
    (conservative where the distributions agree) and covers both sets; ``extra`` has the one of
    the generated images alone. ``values``: the value plus the first-order influence of each
    generated image; the real set, which two methods share, is taken as given.

    Rows: ``features`` (n, d) float32; real rows the same.

    Args:
        subsets: also report the mean over this many random subsets (0: none) ...
        subset_size: ... of this size, with torch-fidelity's seed 2020.

    Source: Binkowski et al., ICLR 2018, section 4.

    >>> x = np.random.default_rng(0).normal(size=(60, 8))
    >>> score = KID().reduce({"features": x[:30]}, {"features": x[30:]})
    >>> abs(score.value) < 5 * score.se
    True
    """

    name = "kid"
    title = "KID"
    direction = "down"
    bounds = (None, None)
    digits = 5
    maker = "inception"
    protocol_fields: ClassVar[tuple[str, ...]] = ("fid", "dtype", "real")
    real = "test"
    tasks = ("reconstruct", "transfer", "class_transfer", "shape_transfer", "sample", "mixed")
    source = "Binkowski et al., ICLR 2018, section 4"

    def __init__(self, subsets: int = 0, subset_size: int = 1000) -> None:
        super().__init__(subsets=subsets, subset_size=subset_size)

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        x, y = rows["features"], real_features(self, real)
        value, u, v = kid(x, y)
        fakes = float(u.var(ddof=1) / len(u))
        se = float(np.sqrt(fakes + v.var(ddof=1) / len(v)))
        extra: dict[str, float] = {"se_generated": float(np.sqrt(fakes))}
        if self.options["subsets"]:
            size = self.options["subset_size"]
            mean, deviation = kid_subsets(x, y, self.options["subsets"], size)
            extra |= {"subsets_mean": mean, "subsets_sd": deviation}
        ci = normal_interval(value, se)
        return Score(value, len(x), len(y), se=se, ci=ci, extra=extra, values=value + u)
