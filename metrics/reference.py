"""Mean and covariance factor of a reference set: computed once, kept, from other tools' moments."""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from sisbench.core.errors import Unavailable, UserError
from sisbench.core.store import read_npz, write_atomic
from sisbench.metrics.base import Metric, Rows

_CHUNK = 4096
_REFERENCES = 4
_ASYMMETRY = 1e-5  # of the largest entry: what float32 leaves, and no more


@dataclass(frozen=True)
class FrechetReference:
    """Mean and covariance factor of a reference set.

    Attributes:
        mean: (d,) float64.
        factor: (d, r) float64 with ``factor @ factor.T`` the covariance (divisor n - 1).
        n: number of samples; 0 where nobody has said.
    """

    mean: np.ndarray
    factor: np.ndarray
    n: int

    @classmethod
    def of(cls, features: np.ndarray) -> FrechetReference:
        """Statistics of (n, d) features; kept in memory for the same features (by content).

        Raises:
            UserError: fewer than two rows, not a matrix, or not finite.
        """
        features = check_features(features, "reference features")
        key = hashlib.sha256(np.ascontiguousarray(features).data).hexdigest() + str(features.shape)
        if key not in _cache:
            _cache[key] = cls._compute(features)
            if len(_cache) > _REFERENCES:
                _cache.popitem(last=False)
        _cache.move_to_end(key)
        return _cache[key]

    @classmethod
    def _compute(cls, features: np.ndarray) -> FrechetReference:
        n, d = features.shape
        mean = features.mean(axis=0, dtype=np.float64)
        if n <= d:
            return cls(mean, (features - mean).T / np.sqrt(n - 1), n)
        covariance = np.zeros((d, d))
        for part in centred(features, mean):
            covariance += part.T @ part
        covariance /= n - 1
        try:
            factor = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:  # rank deficient, as with dead features
            values, vectors = np.linalg.eigh(covariance)
            factor = vectors * np.sqrt(np.clip(values, 0, None))
        return cls(mean, factor, n)

    @classmethod
    def of_moments(cls, mean: np.ndarray, covariance: np.ndarray, n: int = 0) -> FrechetReference:
        """From (d,) mean and (d, d) covariance, as other tools keep them.

        Raises:
            UserError: wrong shapes, not finite, not symmetric, or a negative variance.
        """
        mean, covariance = np.asarray(mean), np.asarray(covariance)
        d = mean.shape[0] if mean.ndim == 1 else 0
        if not d or covariance.shape != (d, d):
            raise UserError(
                f"a mean (d,) and a covariance (d, d) are expected, got {mean.shape} and "
                f"{covariance.shape}"
            )
        if {mean.dtype.kind, covariance.dtype.kind} != {"f"}:
            raise UserError(
                f"mean and covariance must be floats, got {mean.dtype} and {covariance.dtype}"
            )
        mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise UserError("mean or covariance hold NaN or infinite values")
        largest = float(np.abs(covariance).max())
        off = float(np.abs(covariance - covariance.T).max())
        if off > _ASYMMETRY * largest:
            raise UserError(f"the covariance is not symmetric (by up to {off:.3g})")
        covariance = (covariance + covariance.T) / 2
        try:
            factor = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:  # rank deficient: fewer samples than dimensions
            values, vectors = np.linalg.eigh(covariance)
            if values[0] < -_ASYMMETRY * max(largest, values[-1]):
                raise UserError(
                    f"the covariance has a negative variance ({values[0]:.3g})"
                ) from None
            noise = values[-1] * d * np.finfo(np.float64).eps
            factor = vectors * np.sqrt(np.where(values > noise, values, 0))
        return cls(mean, factor, n)

    @cached_property
    def trace(self) -> float:
        """Trace of the covariance."""
        return float(np.sum(self.factor**2))

    def rows(self) -> dict[str, np.ndarray]:
        """As columns that ``fid.reduce(rows, real)`` takes in place of features."""
        return {"mean": self.mean, "factor": self.factor, "n": np.array(self.n)}

    def save(self, path: Path) -> None:
        """Write as npz, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, mean=self.mean, factor=self.factor, n=self.n)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> FrechetReference:
        """Read what ``save`` wrote.

        Raises:
            UserError: missing or foreign file.
        """
        if not path.is_file():
            raise UserError(f"no reference statistics at {path}", "score once to make them")
        try:
            stored = read_npz(path)
            return cls(stored["mean"], stored["factor"], int(stored["n"]))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise UserError(
                f"{path} holds no reference statistics (mean, factor, n): {error}"
            ) from error


_cache: OrderedDict[str, FrechetReference] = OrderedDict()


def real_features(metric: Metric, real: Rows | None) -> np.ndarray:
    """(m, d) features of the real set, for a metric that cannot do with their moments.

    Raises:
        Unavailable: mean and covariance alone are given.
        UserError: there is no real set.
    """
    if real is not None and "factor" in real:
        raise Unavailable(
            f"{metric.title} needs the features of the real set; given are its mean and "
            "covariance alone",
            "export them with features, or compare with the photographs",
        )
    if real is None or "features" not in real:
        raise UserError(
            f"{metric.name} needs the features of a real set", "map the reference set first"
        )
    return real["features"]


def check_features(features: np.ndarray, what: str) -> np.ndarray:
    """(n, d) float features, n >= 2 and finite.

    Raises:
        UserError: anything else.
    """
    features = np.asarray(features)
    if features.ndim != 2 or features.shape[0] < 2:
        raise UserError(
            f"{what} must be (n, d) with n >= 2, got {features.shape}",
            "a covariance needs at least two images",
        )
    if not np.isfinite(features).all():
        raise UserError(f"{what} hold NaN or infinite values", "delete those rows, score again")
    return features


def centred(features: np.ndarray, mean: np.ndarray) -> Iterator[np.ndarray]:
    """(n, d) features less their mean in float64, some thousand rows at a time."""
    for start in range(0, len(features), _CHUNK):
        yield features[start : start + _CHUNK] - mean
