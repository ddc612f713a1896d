"""Precision and recall of a generated set by nearest neighbours in a feature space, in float64."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.estimates import bootstrap_mean
from sisbench.metrics.base import Metric, Rows, Score
from sisbench.metrics.reference import check_features, real_features

NEIGHBOURS = 3
_BLOCK = 512
_SAME = 1e-12  # of |x|^2 + |y|^2: what rounding leaves of the distance of equal features


def _squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, m) squared distances; equal rows have exactly 0."""
    norms = np.einsum("ij,ij->i", x, x)[:, None] + np.einsum("ij,ij->i", y, y)
    found = norms - 2 * (x @ y.T)
    found[found < _SAME * norms] = 0
    return found


def radii(features: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """(n,) squared distance of each of (n, d) features to its k-th neighbour among the others.

    Raises:
        UserError: k or fewer features.
    """
    if len(features) <= k:
        raise UserError(
            f"{len(features)} images have no {k} neighbours each",
            f"precision and recall need more than {k} images on both sides",
        )
    found = np.empty(len(features))
    for start in range(0, len(features), _BLOCK):
        part = slice(start, start + _BLOCK)
        squares = _squares(features[part], features)
        rows = np.arange(len(squares))
        squares[rows, start + rows] = np.inf  # no feature is its own neighbour
        found[part] = np.partition(squares, k - 1, axis=1)[:, k - 1]
    return found


def covered(features: np.ndarray, centres: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """(n,) bool: which of (n, d) features lie within the manifold of (m, d) centres: within the
    distance of at least one centre to its k-th neighbour among the centres.

    >>> line = np.arange(8.0)[:, None]
    >>> covered(np.array([[9.0], [30.0]]), line, k=2).tolist()
    [True, False]
    """
    middle = centres.mean(axis=0, dtype=np.float64)  # distances lose less near the origin
    x, y = features.astype(np.float64) - middle, centres.astype(np.float64) - middle
    reach = radii(y, k)
    parts = [
        (_squares(x[start : start + _BLOCK], y) <= reach).any(axis=1)
        for start in range(0, len(x), _BLOCK)
    ]
    return np.concatenate(parts)


class _NearestNeighbours(Metric):
    """What precision and recall share.

    Args:
        neighbours: k, whose distance is the radius around each feature.
    """

    direction = "up"
    bounds: ClassVar[tuple[float | None, float | None]] = (0.0, 1.0)
    digits = 3
    protocol_fields = ("real",)
    real = "test"
    tasks = ("reconstruct", "transfer", "class_transfer", "shape_transfer", "sample", "mixed")
    source = "Kynkäänniemi et al., NeurIPS 2019, section 3"
    on_request = True

    def __init__(self, neighbours: int = NEIGHBOURS) -> None:
        if neighbours < 1:
            raise UserError(f"{self.name}: at least one neighbour is needed, got {neighbours}")
        super().__init__(neighbours=neighbours)

    def both(self, rows: Rows, real: Rows | None) -> tuple[np.ndarray, np.ndarray]:
        """(n, d) and (m, d) features of the two sets."""
        x = check_features(rows["features"], "features")
        y = check_features(real_features(self, real), "real features")
        if x.shape[1] != y.shape[1]:
            raise UserError(f"features have {x.shape[1]} dimensions, the real ones {y.shape[1]}")
        return x, y


class Precision(_NearestNeighbours):
    """Share of generated images within the manifold of the real ones: how many look real."""

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        x, y = self.both(rows, real)
        values = covered(x, y, self.options["neighbours"]).astype(np.float64)
        value, se, ci = bootstrap_mean(values, seed=seed)
        return Score(value, len(x), len(y), se=se, ci=ci, values=values)


class Recall(_NearestNeighbours):
    """Share of real images within the manifold of the generated ones: how many could have been
    generated. Without an interval: it rests on every generated image at once."""

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        x, y = self.both(rows, real)
        value = float(covered(y, x, self.options["neighbours"]).mean())
        return Score(value, len(x), len(y))
