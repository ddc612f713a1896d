"""PSNR and SSIM against scikit-image, golden values and laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from metrics_helpers import CASES, arrays, image_batch, meta, noise_images, pictures
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sisbench import metrics
from sisbench.core.errors import Unavailable, UserError
from sisbench.metrics.pixel import _ssim_torch, psnr_of


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    expected = meta("image_metrics")["cases"][case]["pair"]
    batch = image_batch(pictures(case, "a"), pictures(case, "b"))
    rows = metrics.create_maker("psnr").rows(batch)
    values = psnr_of(rows["sse"], rows["count"])
    assert values == pytest.approx(expected["psnr_rgb_dr255"], rel=1e-12)
    pooled = metrics.create("psnr_pooled").reduce(rows).value
    assert pooled == pytest.approx(expected["psnr_pooled_over_set"], abs=1e-5)
    for window, name in (("gauss11", "gauss11_pop"), ("uniform7", "uniform7_sample")):
        found = metrics.create_maker("ssim", window=window).rows(batch)["ssim"]
        assert found == pytest.approx(expected[f"ssim_{name}_rgb"], abs=2e-6)
        torch_way = _ssim_torch(batch.image, batch.target, window)
        assert torch_way == pytest.approx(expected[f"ssim_{name}_rgb"], abs=3e-6)


def test_against_skimage():
    a, b = noise_images(2, 40, 33, 0), noise_images(2, 40, 33, 1)
    b[0] = (a[0].int() + 3).clamp(max=255).to(torch.uint8)
    rows = metrics.create_maker("ssim").rows(image_batch(a, b))["ssim"]
    squares = metrics.create_maker("psnr").rows(image_batch(a, b))
    for i in range(2):
        x, y = (z[i].permute(1, 2, 0).numpy() for z in (a, b))
        options = {"channel_axis": 2, "data_range": 255, "gaussian_weights": True}
        oracle = structural_similarity(x, y, use_sample_covariance=False, **options)
        assert rows[i] == pytest.approx(oracle, abs=1e-5)
        oracle = peak_signal_noise_ratio(y, x, data_range=255)
        assert psnr_of(squares["sse"], squares["count"])[i] == pytest.approx(oracle, rel=1e-12)


def test_pooled_as_scam_accumulates_it():
    stored, expected = arrays("protocol.psnr"), meta("protocol.psnr")["expected"]
    pred, target = stored["pred"].astype(np.float64), stored["target"].astype(np.float64)
    observed = max(0, target.max()) - min(0, target.min())
    value = psnr_of(((pred - target) ** 2).sum(), pred.size, observed)
    assert value == pytest.approx(expected["psnr_two_updates"], abs=1e-4)
    shifted = target[:1] * 0.25 + 0.5
    value = psnr_of(((pred[:1] - shifted) ** 2).sum(), shifted.size, max(0, shifted.max()))
    assert value == pytest.approx(expected["psnr_shifted_target"], abs=1e-4)


def test_observed_range():
    a, b = noise_images(2, 16, 16, 0), noise_images(2, 16, 16, 1).clamp(min=200)
    score = metrics.create("psnr_pooled").reduce(
        metrics.create_maker("psnr").rows(image_batch(a, b))
    )
    highest = int(b.max()) / 127.5 - 1  # all targets are above 0: the range starts at 0
    x, y = a.double() / 127.5 - 1, b.double() / 127.5 - 1
    expected = 10 * np.log10(highest**2 / float(((x - y) ** 2).mean()))
    assert score.extra["observed_range"] == pytest.approx(expected, rel=1e-9)


def test_laws():
    a, b = noise_images(4, 32, 32, 0), noise_images(4, 32, 32, 1)
    maker = metrics.create_maker("ssim")
    both = maker.rows(image_batch(a, b))["ssim"]
    assert maker.rows(image_batch(a, a))["ssim"] == pytest.approx(1, abs=1e-6)
    assert maker.rows(image_batch(b, a))["ssim"] == pytest.approx(both, abs=1e-6)
    assert maker.rows(image_batch(a[2:3], b[2:3]))["ssim"] == pytest.approx(both[2:3], abs=0)
    psnr = metrics.create("psnr")
    rows = metrics.create_maker("psnr").rows(image_batch(a, b))
    pooled = metrics.create("psnr_pooled").reduce(rows).value
    assert pooled <= psnr.reduce(rows).value


def test_identical_images_do_not_destroy_the_mean():
    a, b = noise_images(3, 16, 16, 0), noise_images(3, 16, 16, 1)
    b[0] = a[0]
    rows = metrics.create_maker("psnr").rows(image_batch(a, b))
    score = metrics.create("psnr").reduce(rows)
    rest = metrics.create("psnr").reduce({k: v[1:] for k, v in rows.items()})
    assert score.value == rest.value
    assert score.n == 3
    assert score.extra["identical"] == 1
    assert "left out" in score.marks[0]
    same = metrics.create_maker("psnr").rows(image_batch(a, a))
    for name in ("psnr", "psnr_pooled"):
        with pytest.raises(Unavailable, match="infinite"):
            metrics.create(name).reduce(same)


def test_pooled_interval_matches_bootstrap():
    generator = np.random.default_rng(0)
    sse, count = generator.gamma(3, 1e6, size=400), np.full(400, 3 * 64 * 64)
    rows = {"sse": sse, "count": count, "low": np.zeros(400), "high": np.full(400, 255)}
    score = metrics.create("psnr_pooled").reduce(rows)
    drawn = [
        psnr_of(sse[i].sum(), count[i].sum()) for i in generator.integers(0, 400, size=(500, 400))
    ]
    assert score.se == pytest.approx(np.std(drawn), rel=0.12)


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_bad_input(name):
    a = noise_images(2, 16, 16, 0)
    maker = metrics.create_maker(name)
    with pytest.raises(Unavailable, match="target"):
        maker.rows(image_batch(a))
    with pytest.raises(UserError, match="uint8"):
        maker.rows(image_batch(a.float(), a))
    with pytest.raises(UserError, match="targets"):
        maker.rows(image_batch(a, noise_images(2, 16, 18, 0)))


def test_bad_options():
    with pytest.raises(UserError, match="window"):
        metrics.create_maker("ssim", window="gauss")
    with pytest.raises(UserError, match="no option 'sigma'"):
        metrics.create_maker("ssim", sigma=1.5)
    small = noise_images(1, 8, 8, 0)
    with pytest.raises(UserError, match="at least 11"):
        metrics.create_maker("ssim").rows(image_batch(small, small))
