"""Intervals and tests: against brute force, closed forms and coverage of known cases."""

from __future__ import annotations

import numpy as np
import pytest
from metrics_helpers import arrays, meta

from sisbench.core.errors import UserError
from sisbench.core.estimates import (
    bootstrap_confusion,
    bootstrap_mean,
    mean_estimate,
    paired_difference,
)
from sisbench.metrics.frechet import fid_jackknife, frechet, frechet_influence
from sisbench.metrics.reference import FrechetReference


@pytest.mark.parametrize("case", ["tall", "unequal"])
def test_jackknife_against_golden_brute_force(case):
    stored, expected = arrays("features"), meta("feature_metrics")[case]["jackknife_x"]
    reference = FrechetReference.of(stored[f"{case}_y"])
    estimate, pseudo = fid_jackknife(stored[f"{case}_x"], reference)
    # delete-one and infinitesimal jackknife agree to O(1/n)
    assert estimate.se == pytest.approx(expected["se"], rel=0.06)
    assert pseudo.mean() == pytest.approx(estimate.value, rel=1e-12)


@pytest.mark.parametrize(("n", "d", "m"), [(40, 8, 60), (20, 30, 50), (30, 50, 25)])
def test_influence_is_the_derivative(n, d, m):
    """Numerical derivative of FID of weighted moments, in both branches of the closed form."""
    generator = np.random.default_rng(n)
    x, y = generator.normal(size=(n, d)), generator.normal(size=(m, d)) + 0.3

    def weighted(w):
        mean = w @ x
        centred = x - mean
        covariance = (centred * w[:, None]).T @ centred / (1 - np.sum(w**2))
        reference = FrechetReference.of(y)
        inner = reference.factor.T @ covariance @ reference.factor
        values = np.linalg.eigvalsh(inner)
        root = np.sqrt(np.where(values > 1e-10, values, 0)).sum()
        shift = mean - reference.mean
        return shift @ shift + np.trace(covariance) + reference.trace - 2 * root

    uniform = np.full(n, 1 / n)
    value, influence = frechet_influence(x, FrechetReference.of(y))
    assert weighted(uniform) == pytest.approx(value, rel=1e-9)
    step = 1e-5
    for i in (0, 3, n - 1):
        towards = (np.arange(n) == i) - uniform
        up, down = weighted(uniform + step * towards), weighted(uniform - step * towards)
        assert influence[i] == pytest.approx((up - down) / (2 * step), rel=2e-4)


def test_jackknife_matches_the_spread_of_fresh_samples():
    generator = np.random.default_rng(0)
    reference = FrechetReference.of(generator.normal(size=(400, 10)))
    draws = [generator.normal(size=(200, 10)) * 1.3 + 0.2 for _ in range(60)]
    spread = np.std([frechet(x, reference) for x in draws], ddof=1)
    typical = np.mean([fid_jackknife(x, reference)[0].se for x in draws])
    assert typical == pytest.approx(spread, rel=0.3)


def test_mean_and_bootstrap_agree():
    values = np.random.default_rng(0).gamma(2.0, size=2000)
    exact, drawn = mean_estimate(values), bootstrap_mean(values, seed=3)
    assert exact.se == pytest.approx(values.std(ddof=1) / np.sqrt(2000))
    assert drawn.se == pytest.approx(exact.se, rel=0.03)
    assert drawn.ci == pytest.approx(exact.ci, abs=0.1 * exact.se)
    assert bootstrap_mean(values, seed=3) == drawn
    assert bootstrap_mean(values, seed=4) != drawn


def test_confusion_bootstrap_is_the_mean_bootstrap_for_equal_images():
    """With equally many pixels an image, accuracy is a mean over images."""
    generator = np.random.default_rng(1)
    right = generator.integers(0, 101, size=300)
    confusion = np.zeros((300, 2, 2), int)
    confusion[:, 0, 0], confusion[:, 0, 1] = right, 100 - right
    estimate = bootstrap_confusion(confusion, lambda t, g, p: t.sum(-1) / g.sum(-1), seed=0)
    assert estimate.value == pytest.approx(right.mean() / 100)
    assert estimate.se == pytest.approx(mean_estimate(right / 100).se, rel=0.1)


def test_paired_difference_removes_shared_noise():
    generator = np.random.default_rng(2)
    item = generator.normal(size=500)
    a, b = (
        item + 0.01 * generator.normal(size=500) + 0.005,
        item + 0.01 * generator.normal(size=500),
    )
    found = paired_difference(a, b)
    assert found.value == pytest.approx((a - b).mean())
    assert found.ci[0] > 0
    assert found.p < 0.001
    assert found.se < 0.02 * mean_estimate(a).se + 0.001
    assert paired_difference(b, a).value == -found.value
    null = paired_difference(item, item[::-1])
    assert null.p > 0.05


def test_paired_fid():
    """Two methods on the same items: the pseudo-values' mean difference is the FIDs' difference."""
    generator = np.random.default_rng(3)
    reference = FrechetReference.of(generator.normal(size=(300, 6)))
    a = generator.normal(size=(200, 6)) + 0.2
    b = a + 0.02 * generator.normal(size=a.shape)
    (fid_a, pseudo_a), (fid_b, pseudo_b) = fid_jackknife(a, reference), fid_jackknife(b, reference)
    difference = paired_difference(pseudo_a, pseudo_b)
    assert difference.value == pytest.approx(fid_a.value - fid_b.value, rel=1e-6)
    assert difference.se < 0.5 * fid_a.se


@pytest.mark.parametrize("bad", [np.array([]), np.array([1.0, np.inf]), np.ones((2, 2))])
def test_bad_values(bad):
    for function in (mean_estimate, bootstrap_mean):
        with pytest.raises(UserError):
            function(bad)


def test_bad_pairs_and_confusions():
    with pytest.raises(UserError, match="same items"):
        paired_difference(np.ones(3), np.ones(4))
    with pytest.raises(UserError, match=r"\(n, K, K\)"):
        bootstrap_confusion(np.ones((2, 3, 4)), lambda t, g, p: t)
