"""Single steps against their usual form: Frechet distance, KID, SSIM, LPIPS diversity."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from sisbench.metrics.frechet import frechet
from sisbench.metrics.kid import kid, kid_subsets
from sisbench.metrics.perceptual import LPIPSNetwork, pairwise
from sisbench.metrics.pixel import _ssim_cv
from sisbench.metrics.reference import FrechetReference
from sisbench.perf.samples import degraded, pictures
from sisbench.perf.timing import Timed, interleaved

_DIM = 2048
_FRECHET_N = (64, 250, 500, 1000, 2000)
_KID_N = 2000
_SAMPLES = 10


def micro_comparisons(alex: Path, size: int, rounds: int, out: TextIO) -> bool:
    """Print every comparison; False where values disagree."""
    good = [
        *(_frechet(n, out) for n in _FRECHET_N),
        _kid(out),
        _ssim(size, rounds, out),
        _diversity(alex, size, rounds, out),
    ]
    return all(good)


def _features(n: int, seed: int) -> np.ndarray:
    """(n, 2048) float32 with a power-law spectrum, as Inception's."""
    generator = np.random.default_rng(seed)
    scale = np.arange(1, _DIM + 1) ** -0.45
    return np.asarray(generator.normal(size=(n, _DIM)) * scale + 0.3, np.float32)


def _print(title: str, timed: Mapping[str, Timed], difference: float, out: TextIO) -> None:
    ours = timed["sisbench"]
    print(f"\n{title}", file=out)
    for name, one in timed.items():
        ratio = one.median / ours.median
        print(f"  {name:44}{1000 * one.median:12.2f} core-ms{ratio:10.1f} x", file=out)
    print(f"  largest difference of the values: {difference:.2e}", file=out)


def _frechet(n: int, out: TextIO) -> bool:
    from scipy import linalg
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    x, y = _features(n, 0), _features(n, 1)
    reference = FrechetReference.of(y)  # the real set is cached on every side
    real = fid_features_to_statistics(torch.from_numpy(y))

    def eigenvalues() -> float:
        stats = fid_features_to_statistics(torch.from_numpy(x))
        found = fid_statistics_to_metric(stats, real, verbose=False)
        return float(found["frechet_inception_distance"])

    def square_root() -> float:
        first, second = x.mean(0), y.mean(0)
        s1, s2 = np.cov(x, rowvar=False), real["sigma"]
        root = linalg.sqrtm(s1 @ s2).real
        shift = (first - second).astype(np.float64)
        return float(shift @ shift + np.trace(s1) + np.trace(s2) - 2 * np.trace(root))

    candidates: dict[str, Callable[[], float]] = {
        "sisbench": lambda: frechet(x, reference),
        "torch-fidelity (eigvals of the product)": eigenvalues,
        "scipy sqrtm (pytorch-fid, clean-fid, pyiqa)": square_root,
    }
    frechet(x, reference)  # warm: the peers run once, they take seconds
    timed = interleaved(candidates, 1)
    value = timed["sisbench"].result
    difference = max(abs(t.result / value - 1) for t in timed.values())
    _print(f"Frechet distance, n = {n} on both sides, d = {_DIM}", timed, difference, out)
    return difference < 1e-4


def _kid(out: TextIO) -> bool:
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = _features(_KID_N, 0), _features(_KID_N, 1) + np.float32(0.01)

    def usual() -> float:
        with contextlib.redirect_stderr(io.StringIO()):
            found = kid_features_to_metric(
                torch.from_numpy(x), torch.from_numpy(y), kid_subset_size=1000, verbose=False
            )
        return float(found["kernel_inception_distance_mean"])

    candidates: dict[str, Callable[[], Any]] = {
        "sisbench": lambda: kid(x, y)[0],
        "torch-fidelity (100 subsets of 1000)": usual,
    }
    timed = interleaved(candidates, 1)
    theirs = timed["torch-fidelity (100 subsets of 1000)"].result
    difference = abs(kid_subsets(x, y)[0] - theirs)  # the same subsets: the values must agree
    _print(f"KID, n = {_KID_N}: all pairs once, with a standard error", timed, difference, out)
    return difference < 1e-4


def _ssim(size: int, rounds: int, out: TextIO) -> bool:
    from skimage.metrics import structural_similarity

    reals = pictures(16, size, 0)
    pairs = list(zip(degraded(reals, 1), reals, strict=True))
    options: dict[str, Any] = {"channel_axis": 2, "data_range": 255, "gaussian_weights": True}

    def usual() -> np.ndarray:
        return np.array(
            [structural_similarity(a, b, use_sample_covariance=False, **options) for a, b in pairs]
        )

    candidates: dict[str, Callable[[], np.ndarray]] = {
        "sisbench": lambda: np.array([_ssim_cv(a, b, "gauss11") for a, b in pairs]),
        "scikit-image": usual,
    }
    timed = interleaved(candidates, rounds + 2)
    difference = float(np.abs(timed["sisbench"].result - timed["scikit-image"].result).max())
    _print(f"SSIM of 16 pairs of {size} x {size}", timed, difference, out)
    return difference < 1e-5


def _diversity(alex: Path, size: int, rounds: int, out: TextIO) -> bool:
    import lpips

    ours = LPIPSNetwork("alex", alex)
    with contextlib.redirect_stdout(io.StringIO()):
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    state = torch.load(alex, weights_only=True)
    names = {k: "features." + k.split(".", 1)[1] for k in network.net.state_dict()}
    network.net.load_state_dict({k: state[v] for k, v in names.items()})
    images = torch.from_numpy(pictures(_SAMPLES, size, 0)).permute(0, 3, 1, 2).contiguous()
    first, second = map(list, zip(*combinations(range(_SAMPLES), 2), strict=True))

    def usual() -> float:
        x = images / 127.5 - 1
        with torch.no_grad():
            return float(network(x[first], x[second]).mean())

    def embedded() -> float:
        with torch.inference_mode():
            return float(pairwise(ours.embed(images))[first, second].mean())

    timed = interleaved({"sisbench": embedded, "lpips, every pair": usual}, rounds + 1)
    difference = abs(timed["sisbench"].result / timed["lpips, every pair"].result - 1)
    title = f"LPIPS diversity of {_SAMPLES} samples ({len(first)} pairs), {size} x {size}"
    _print(title, timed, difference, out)
    return difference < 1e-4
