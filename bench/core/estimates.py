"""Uncertainty of scores: bootstrap of means and confusions, jackknife of FID, paired differences.

FID is never bootstrapped: drawing with replacement lowers the effective n, which moves FID by far
more than its standard error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sisbench.core.errors import UserError

_Z95 = 1.959963984540054
_REPLICATES = 10_000
_CHUNK = 500


class Estimate(NamedTuple):
    """A value with its standard error and 95 % interval; None where one value cannot tell them."""

    value: float
    se: float | None
    ci: tuple[float, float] | None


class Difference(NamedTuple):
    """A paired difference a - b with standard error, 95 % interval and two-sided p-value; of one
    item, the first two are None."""

    value: float
    se: float | None
    ci: tuple[float, float] | None
    p: float


def normal_interval(
    value: float, se: float, low: float | None = None, high: float | None = None
) -> tuple[float, float]:
    """value +- 1.96 se, cut at the bounds.

    >>> normal_interval(1.0, 0.0)
    (1.0, 1.0)
    """
    first, last = value - _Z95 * se, value + _Z95 * se
    return (
        float(first if low is None else max(low, first)),
        float(last if high is None else min(high, last)),
    )


def _column(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise UserError(f"values must be (n,) with n >= 1, got {values.shape}")
    if not np.isfinite(values).all():
        raise UserError(
            "values hold NaN or infinity, and a mean over them says nothing",
            "leave such samples out first and report how many",
        )
    return values


def _draws(n: int, replicates: int, seed: int) -> np.ndarray:
    """(replicates, n) float32 counts of a bootstrap, each row sums to n."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(n, np.full(n, 1 / n), size=replicates).astype(np.float32)


def mean_estimate(values: np.ndarray) -> Estimate:
    """Mean of (n,) values with se = sd / sqrt(n) and normal interval (equals the bootstrap in the
    third digit at n = 2000, and costs nothing).

    >>> mean_estimate(np.array([1.0, 3.0])).value
    2.0
    """
    values = _column(values)
    value = float(values.mean())
    if len(values) == 1:
        return Estimate(value, None, None)
    se = float(values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(value, se, normal_interval(value, se))


def bootstrap_mean(values: np.ndarray, *, seed: int = 0, replicates: int = _REPLICATES) -> Estimate:
    """Mean of (n,) values with its bootstrap standard error and percentile interval.

    >>> bootstrap_mean(np.ones(5)).ci
    (1.0, 1.0)
    """
    values = _column(values)
    if len(values) == 1:
        return Estimate(float(values[0]), None, None)
    means = _resampled_means(values, seed, replicates)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values.mean()), float(means.std(ddof=1)), (float(low), float(high)))


def _resampled_means(values: np.ndarray, seed: int, replicates: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    n = len(values)
    parts = [
        values[generator.integers(0, n, size=(min(_CHUNK, replicates - start), n))].mean(axis=1)
        for start in range(0, replicates, _CHUNK)
    ]
    return np.concatenate(parts)


def bootstrap_confusion(
    confusion: np.ndarray,
    statistic: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    *,
    seed: int = 0,
    replicates: int = 1000,
) -> Estimate:
    """A statistic of the pooled confusion, resampled over images.

    Args:
        confusion: (n, K, K) counts an image, rows = truth.
        statistic: (true positives, row sums, column sums), each (..., K) float64 pooled counts, to
            (...) values. Diagonal and margins are all that IoU and accuracies need, which keeps
            a replicate at 3 K numbers.

    >>> c = np.eye(2, dtype=int)[None].repeat(3, 0)
    >>> bootstrap_confusion(c, lambda t, g, p: t.sum(-1) / g.sum(-1)).value
    1.0
    """
    confusion = np.asarray(confusion)
    if confusion.ndim != 3 or confusion.shape[1] != confusion.shape[2] or not len(confusion):
        raise UserError(f"confusion must be (n, K, K) with n >= 1, got {confusion.shape}")
    k = confusion.shape[1]
    margins = np.concatenate(
        [np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(2), confusion.sum(1)], axis=1
    ).astype(np.float64)  # (n, 3K)
    pooled = margins.sum(axis=0)
    value = float(statistic(pooled[:k], pooled[k : 2 * k], pooled[2 * k :]))
    if len(confusion) == 1:
        return Estimate(value, None, None)
    drawn = _draws(len(confusion), replicates, seed).astype(np.float64) @ margins
    values = statistic(drawn[:, :k], drawn[:, k : 2 * k], drawn[:, 2 * k :])
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Estimate(value, float(np.nanstd(values, ddof=1)), (float(low), float(high)))


def paired_difference(
    a: np.ndarray, b: np.ndarray, *, seed: int = 0, replicates: int = _REPLICATES
) -> Difference:
    """Mean of a - b over the same items: bootstrap interval, and the sign-flip permutation test.

    Args:
        a, b: (n,) values (or jackknife pseudo-values) of two methods; row i is the same item.

    Raises:
        UserError: unequal lengths, or NaN / infinite values.

    >>> paired_difference(np.array([1.0, 2, 3]), np.array([1.0, 2, 3])).value
    0.0
    """
    a, b = _column(a), _column(b)
    if a.shape != b.shape:
        raise UserError(
            f"a paired difference needs the same items on both sides, got {len(a)} and {len(b)}",
            "take the intersection of the sample ids first",
        )
    delta = a - b
    p = _sign_flip_p(delta, seed, replicates)
    if len(delta) == 1:
        return Difference(float(delta[0]), None, None, p)
    means = _resampled_means(delta, seed, replicates)
    low, high = np.percentile(means, [2.5, 97.5])
    se = float(delta.std(ddof=1) / np.sqrt(len(delta)))
    return Difference(float(delta.mean()), se, (float(low), float(high)), p)


def _sign_flip_p(delta: np.ndarray, seed: int, replicates: int) -> float:
    """Two-sided p-value of mean(delta) = 0 when every sign is a fair coin."""
    generator = np.random.default_rng([seed, 1])
    observed = abs(delta.sum()) * (1 - 1e-12)
    extreme = 0
    for start in range(0, replicates, _CHUNK):
        shape = (min(_CHUNK, replicates - start), len(delta))
        flips = generator.integers(0, 2, size=shape, dtype=np.int8) * np.int8(2) - np.int8(1)
        extreme += int(np.sum(np.abs(flips @ delta) >= observed))
    return (extreme + 1) / (replicates + 1)
