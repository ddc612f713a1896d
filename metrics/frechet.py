"""Frechet distances between sets of features: FID under its several names, in float64.

No matrix root is ever taken. With A the centred generated features / sqrt(n - 1) and L any factor
of the reference covariance (S = L L^T), tr sqrt(S1 S) is the nuclear norm of A L, which is found
from the smaller of its two Gram matrices and has no noise floor when n < d.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.estimates import Estimate, normal_interval
from sisbench.metrics.base import Metric, Rows, Score
from sisbench.metrics.reference import FrechetReference, centred, check_features

_SVD_SIDE = 256  # up to here singular values themselves: exact, and no slower
UNSTATED = "the size of the real set is not stated"
"""Mark of a score against statistics that do not say of how many images they are."""
INDICATIVE_BELOW = 5000
"""Sets smaller than this make an extrapolation to infinite n indicative only (the bias of FID is
not linear in 1/n there)."""


def frechet(features: np.ndarray, reference: FrechetReference) -> float:
    """|m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2) in float64, divisor n - 1.

    Args:
        features: (n, d) generated.
        reference: statistics of the real set, same d.

    >>> x = np.random.default_rng(0).normal(size=(50, 8))
    >>> abs(frechet(x + 1.0, FrechetReference.of(x)) - 8.0) < 1e-9
    True
    """
    return _solve(features, reference, influence=False)[0]


def frechet_influence(
    features: np.ndarray, reference: FrechetReference
) -> tuple[float, np.ndarray]:
    """The distance and the derivative of it by the weight of every generated sample.

    ``u_i`` is d FID / d w_i towards sample i from uniform weights (infinitesimal jackknife); it
    sums to 0, and FID + u_i are pseudo-values: their mean is FID and sd(u) / sqrt(n) its standard
    error. Closed form: 2 (x_i - m1).(m1 - m2) + [|x_i - m1|^2 - q_i] n/(n-1), minus its mean, with
    q_i = y_i^T (L^T S1 L)^(-1/2) y_i and y_i = L^T (x_i - m1).

    Returns:
        (value, (n,) float64).
    """
    value, influence = _solve(features, reference, influence=True)
    return value, influence


def _solve(
    features: np.ndarray, reference: FrechetReference, influence: bool
) -> tuple[float, np.ndarray]:
    features = check_features(features, "features")
    n, d = features.shape
    if reference.mean.shape != (d,):
        raise UserError(
            f"features have {d} dimensions, the reference has {reference.mean.shape[0]}",
            "both sides need the same extractor",
        )
    mean = features.mean(axis=0, dtype=np.float64)
    shift = mean - reference.mean
    squares = np.concatenate([np.einsum("ij,ij->i", p, p) for p in centred(features, mean)])
    root, quadratic = _trace_root(features, mean, reference.factor, influence)
    value = float(shift @ shift + squares.sum() / (n - 1) + reference.trace - 2 * root)
    if not influence:
        return value, np.empty(0)
    linear = np.concatenate([p @ shift for p in centred(features, mean)])
    u = 2 * linear + (squares - quadratic) * (n / (n - 1))
    return value, u - u.mean()


def _trace_root(
    features: np.ndarray, mean: np.ndarray, factor: np.ndarray, quadratic: bool
) -> tuple[float, np.ndarray]:
    """(tr sqrt(S1 S2), q) with q_i = y_i^T (L^T S1 L)^(-1/2) y_i, or an empty q."""
    n, r = len(features), factor.shape[1]
    nothing = np.empty(0)
    if n <= r:
        product = ((features - mean) @ factor) / np.sqrt(n - 1)  # (n, r)
        if n <= _SVD_SIDE and not quadratic:
            return float(np.linalg.svd(product, compute_uv=False).sum()), nothing
        if n <= _SVD_SIDE:
            left, singular, _ = np.linalg.svd(product, full_matrices=False)
        else:
            singular, left = _gram_roots(product @ product.T, quadratic)
        if not quadratic:
            return float(singular.sum()), nothing
        return float(singular.sum()), (n - 1) * (left**2 @ singular)
    gram = np.zeros((r, r))
    for part in centred(features, mean):
        y = part @ factor
        gram += y.T @ y
    singular, right = _gram_roots(gram / (n - 1), quadratic)
    if not quadratic:
        return float(singular.sum()), nothing
    inverse = np.divide(1, np.sqrt(singular), out=np.zeros_like(singular), where=singular > 0)
    whiten = factor @ (right * inverse)  # (d, r)
    return float(singular.sum()), np.concatenate(
        [np.sum((part @ whiten) ** 2, axis=1) for part in centred(features, mean)]
    )


def _gram_roots(gram: np.ndarray, vectors: bool) -> tuple[np.ndarray, np.ndarray]:
    """Square roots of the eigenvalues of a Gram matrix; rounding noise of null ones becomes 0."""
    if vectors:
        values, basis = np.linalg.eigh(gram)
    else:
        values, basis = np.linalg.eigvalsh(gram), np.empty(0)
    noise = values[-1] * np.finfo(np.float64).eps
    return np.sqrt(np.where(values > noise, values, 0.0)), basis


def frechet_infinity(
    features: np.ndarray, reference: FrechetReference, seed: int = 0, points: int = 8
) -> float:
    """Intercept of a straight line through FID at ``points`` sizes against 1/n (sizes evenly
    spaced from half of the set to all of it, drawn without replacement).

    Source: Chong & Forsyth, CVPR 2020, section 4, with half of the set as the smallest size.
    """
    n = len(features)
    order = np.random.default_rng(seed).permutation(n)
    sizes = np.unique(np.linspace(max(2, n // 2), n, points).astype(int))
    if len(sizes) < 2:
        raise UserError(f"{n} images are too few to extrapolate from", "take plain FID or KID")
    values = [frechet(features[order[:k]], reference) for k in sizes]
    return float(np.polyfit(1.0 / sizes, values, 1)[1])


def _reference(real: Rows | None, name: str) -> FrechetReference:
    if real is None:
        raise UserError(f"{name} needs the rows of a real set", "map the reference set first")
    if "factor" in real:
        return FrechetReference(real["mean"], real["factor"], int(real["n"]))
    return FrechetReference.of(real["features"])


def _unstated(reference: FrechetReference) -> tuple[str, ...]:
    return () if reference.n else (UNSTATED,)


class FID(Metric):
    """Frechet Inception distance of generated images to the real set.

    FID = |m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)) over 2048 Inception features, mean and
    covariance (n - 1) in float64, no epsilon. Lower is better, bounded by 0. Biased upwards by a
    term that shrinks with n: compare only equal n and equal real sets (both are in the score).
    The standard error is the infinitesimal jackknife over the generated images; it covers neither
    the bias nor the training seed. ``values`` are FID + u_i, its pseudo-values.

    Rows: ``features`` (n, d) float32. Real rows: ``features`` (m, d), or ``FrechetReference.rows``.

    Args:
        interval: compute the standard error, the interval and the values an item.

    Source: Heusel et al., NeurIPS 2017, section 3 (definition); torch-fidelity's
    ``inception-v3-compat`` (network and resize).

    >>> x = np.random.default_rng(0).normal(size=(50, 8))
    >>> round(FID().reduce({"features": x + 1}, {"features": x}).value, 6)
    8.0
    """

    name = "fid"
    title = "FID"
    direction = "down"
    bounds: ClassVar[tuple[float | None, float | None]] = (0.0, None)
    digits = 2
    maker = "inception"
    protocol_fields: ClassVar[tuple[str, ...]] = ("fid", "dtype", "real")
    real = "test"
    tasks: ClassVar[tuple[str, ...]] = (
        "reconstruct",
        "transfer",
        "class_transfer",
        "sample",
        "mixed",
    )
    source = "Heusel et al., NeurIPS 2017, section 3"

    def __init__(self, interval: bool = True) -> None:
        super().__init__(interval=interval)

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        reference = _reference(real, self.name)
        features = rows["features"]
        if not self.options["interval"]:
            value, n_real = frechet(features, reference), reference.n or None
            return Score(value, len(features), n_real, marks=_unstated(reference))
        value, influence = frechet_influence(features, reference)
        se = float(np.sqrt(np.mean(influence**2) / len(influence)))
        return Score(
            value=value,
            n=len(features),
            n_real=reference.n or None,
            se=se,
            ci=normal_interval(value, se, low=0.0),
            extra=self._extra(features, reference),
            marks=_unstated(reference),
            values=value + influence,
        )

    def _extra(self, features: np.ndarray, reference: FrechetReference) -> dict[str, Any]:
        shift = features.mean(axis=0, dtype=np.float64) - reference.mean
        return {"mean_term": float(shift @ shift)}


class RFID(FID):
    """FID of reconstructed test images to the *training* photographs (SCAM's R-FID).

    Same formula as ``fid``; only the real set differs.

    >>> RFID.real
    'train'
    """

    name = "r_fid"
    title = "R-FID"
    real = "train"
    tasks = ("reconstruct",)
    source = "Dufour et al. (SCAM), ECCV 2022, section 4"


class SFID(FID):
    """FID of style-swapped images to the test photographs (SCAM's S-FID as its paper says it; its
    code takes the training photographs: a protocol may name that set).

    >>> SFID.real
    'test'
    """

    name = "s_fid"
    title = "S-FID"
    real = "test"
    tasks = ("transfer", "subject_transfer")
    source = "Dufour et al. (SCAM), ECCV 2022, section 4"


class FIDSh(FID):
    """FID of images whose layout took one part from another sample (shape transfer).

    >>> FIDSh.tasks
    ('shape_transfer',)
    """

    name = "fid_sh"
    title = "FID-Sh"
    real = "test"
    tasks = ("shape_transfer",)
    source = "Fontanini et al. (CA2-SIS), shape transfer"


class FIDInfinity(FID):
    """FID extrapolated to infinitely many generated images: intercept of a line against 1/n.

    Marked indicative below 5000 images, where the bias is not linear in 1/n.

    >>> x = np.random.default_rng(0).normal(size=(400, 4))
    >>> score = FIDInfinity().reduce({"features": x[:200]}, {"features": x[200:]})
    >>> score.marks
    ('indicative',)
    """

    name = "fid_infinity"
    title = "FID∞"
    on_request = True
    bounds = (None, None)
    tasks = FID.tasks
    source = "Chong & Forsyth, CVPR 2020, section 4"

    def __init__(self) -> None:
        super().__init__(interval=False)

    def reduce(self, rows: Rows, real: Rows | None = None, *, seed: int = 0) -> Score:
        reference = _reference(real, self.name)
        n = len(rows["features"])
        value = frechet_infinity(rows["features"], reference, seed)
        small = min(n, reference.n or n) < INDICATIVE_BELOW
        marks = (*(("indicative",) if small else ()), *_unstated(reference))
        return Score(value, n, reference.n or None, marks=marks)


def fid_jackknife(features: np.ndarray, reference: FrechetReference) -> tuple[Estimate, np.ndarray]:
    """FID with its infinitesimal-jackknife standard error, and the pseudo-values (n,) whose mean is
    FID: ``paired_difference`` of two methods' pseudo-values compares their FIDs on the same items.

    Source: Jaeckel 1972 (infinitesimal jackknife); closed form in ``frechet_influence``.
    """
    value, influence = frechet_influence(features, reference)
    se = float(np.sqrt(np.mean(influence**2) / len(influence)))
    return Estimate(value, se, normal_interval(value, se, low=0.0)), value + influence
