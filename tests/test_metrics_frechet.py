"""FID and KID on features: golden values, closed forms, laws, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from metrics_helpers import arrays, meta

from sisbench import metrics
from sisbench.core.errors import UserError
from sisbench.metrics.frechet import FID, frechet, frechet_infinity, frechet_influence
from sisbench.metrics.kid import kid, kid_subsets
from sisbench.metrics.reference import FrechetReference

CASES = ("tall", "wide_lowrank", "unequal")


@pytest.fixture(scope="module")
def golden():
    stored = arrays("features")
    return {c: (stored[f"{c}_x"], stored[f"{c}_y"], meta("feature_metrics")[c]) for c in CASES}


@pytest.mark.parametrize("case", CASES)
def test_frechet_golden(golden, case):
    x, y, expected = golden[case]
    reference = FrechetReference.of(y)
    exact = expected["frechet"]["frechet_f64_nuclear_norm"]
    assert frechet(x, reference) == pytest.approx(exact, rel=1e-10)
    assert frechet_influence(x, reference)[0] == pytest.approx(exact, rel=1e-10)
    assert frechet(y, FrechetReference.of(x)) == pytest.approx(exact, rel=1e-10)
    for peer, value in expected["frechet"].items():
        if peer.startswith(("torch_fidelity", "pytorch_fid", "torchmetrics")):
            assert frechet(x, reference) == pytest.approx(value, rel=1e-6)


def test_scam_protocol_values():
    stored, expected = arrays("protocol.fid"), meta("protocol.fid")["expected"]
    reference = FrechetReference.of(stored["reference_features"])
    generated = stored["generated_features"]
    assert frechet(generated, reference) == pytest.approx(expected["fid"], rel=1e-6)
    few = frechet(generated[:10], reference)
    assert few == pytest.approx(expected["fid_first10_generated"], rel=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_prefixes_and_line(golden, case):
    x, y, expected = golden[case]
    reference = FrechetReference.of(y)
    line = expected["prefix_frechet"]
    values = [frechet(x[:n], reference) for n in line["n"]]
    assert values == pytest.approx(line["value"], rel=1e-10)
    intercept = np.polyfit(1 / np.array(line["n"]), values, 1)[1]
    assert intercept == pytest.approx(line["intercept_fit_vs_1_over_n"], rel=1e-8)
    assert frechet_infinity(x, reference) < frechet(x, reference)


@pytest.mark.parametrize("case", CASES)
def test_kid_golden(golden, case):
    x, y, expected = golden[case]
    assert kid(x, y)[0] == pytest.approx(expected["kid_unbiased_full"], abs=1e-12)
    peer = expected["kid_torch_fidelity"]
    mean, deviation = kid_subsets(x, y, peer["subsets"], peer["subset_size"], peer["rng_seed"])
    assert mean == pytest.approx(peer["mean"], abs=1e-6)  # float32 there
    assert deviation == pytest.approx(peer["std"], abs=1e-6)


def test_gaussian_closed_form():
    """Axis-aligned Gaussians: |m1 - m2|^2 + sum (s1 - s2)^2, with exact sample moments."""
    generator = np.random.default_rng(0)
    white = generator.normal(size=(60, 5))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T))).T
    s1, s2 = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 2, 1, 1, 7])
    shift = np.array([0.5, 0, -1, 0, 0])
    expected = np.sum(shift**2) + np.sum((s1 - s2) ** 2)
    value = frechet(white * s1 + shift, FrechetReference.of(white * s2))
    assert value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "m", "d"), [(30, 40, 64), (500, 300, 16), (450, 30, 500)])
def test_against_eigenvalues_of_the_product(n, m, d):
    generator = np.random.default_rng(n)
    mixing = generator.normal(size=(d, d)) / np.sqrt(d)
    x = generator.normal(size=(n, d)) @ mixing + 0.2
    y = generator.normal(size=(m, d)) @ mixing
    s1, s2 = np.cov(x.T), np.cov(y.T)
    root = np.sqrt(np.linalg.eigvals(s1 @ s2).astype(complex)).real.sum()
    shift = x.mean(0) - y.mean(0)
    expected = shift @ shift + np.trace(s1) + np.trace(s2) - 2 * root
    assert frechet(x, FrechetReference.of(y)) == pytest.approx(expected, rel=1e-6)


def test_identity_symmetry_order(golden):
    x, y, _ = golden["unequal"]
    assert frechet(x, FrechetReference.of(x)) == pytest.approx(0, abs=1e-10)
    order = np.random.default_rng(0).permutation(len(x))
    reference = FrechetReference.of(y)
    assert frechet(x[order], reference) == pytest.approx(frechet(x, reference), rel=1e-12)
    assert kid(x[order], y)[0] == pytest.approx(kid(x, y)[0], abs=1e-14)
    assert kid(x, y)[0] == pytest.approx(kid(y, x)[0], abs=1e-14)


def test_dead_feature_does_not_matter(golden):
    """A constant feature makes the covariance singular; the distance must not change."""
    x, y, _ = golden["unequal"]
    wide = [np.concatenate([z, np.full((len(z), 1), 3.0)], axis=1) for z in (x, y)]
    assert frechet(wide[0], FrechetReference.of(wide[1])) == pytest.approx(
        frechet(x, FrechetReference.of(y)), rel=1e-8
    )


def test_reference_file(tmp_path, golden):
    x, y, _ = golden["tall"]
    reference = FrechetReference.of(y)
    reference.save(tmp_path / "reference.npz")
    again = FrechetReference.load(tmp_path / "reference.npz")
    assert again.n == len(y)
    assert frechet(x, again) == frechet(x, reference)
    score = FID().reduce({"features": x}, again.rows())
    assert score.value == frechet_influence(x, reference)[0]
    with pytest.raises(UserError, match="no reference statistics"):
        FrechetReference.load(tmp_path / "absent.npz")
    (tmp_path / "other.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="holds no reference statistics"):
        FrechetReference.load(tmp_path / "other.npz")


def test_figures(golden):
    x, y, expected = golden["tall"]
    rows, real = {"features": x}, {"features": y}
    score = metrics.create("fid").reduce(rows, real)
    assert (score.n, score.n_real) == (300, 260)
    assert score.ci[0] < score.value < score.ci[1]
    assert score.extra["mean_term"] == pytest.approx(expected["frechet"]["mean_term"])
    assert metrics.create("fid", interval=False).reduce(rows, real).se is None
    names = ("r_fid", "s_fid", "fid_sh")
    assert all(metrics.create(n).reduce(rows, real).value == score.value for n in names)
    assert metrics.create("r_fid").real == "train"
    assert metrics.create("fid_infinity").reduce(rows, real).marks == ("indicative",)
    score = metrics.create("kid", subsets=5, subset_size=50).reduce(rows, real)
    assert {"se_generated", "subsets_mean", "subsets_sd"} == score.extra.keys()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 4)), "n >= 2"),
        (np.zeros(4), "must be"),
        (np.full((3, 4), np.nan), "NaN"),
        (np.zeros((3, 5)), "dimensions"),
    ],
)
def test_bad_features(x, message):
    y = np.random.default_rng(0).normal(size=(5, 4))
    with pytest.raises(UserError, match=message):
        frechet(x, FrechetReference.of(y))
    with pytest.raises(UserError, match=message):
        kid(x, y)


def test_missing_real_set():
    rows = {"features": np.zeros((3, 4))}
    with pytest.raises(UserError, match="real set"):
        metrics.create("fid").reduce(rows)
    with pytest.raises(UserError, match="real set"):
        metrics.create("kid").reduce(rows)
    with pytest.raises(UserError, match="subsets of 1000"):
        metrics.create("kid", subsets=2).reduce(
            {"features": np.eye(4)}, {"features": np.eye(4) + 1}
        )
