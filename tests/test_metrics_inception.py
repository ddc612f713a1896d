"""The Inception row maker: golden features, torch-fidelity on the same files, invariance."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from metrics_helpers import CASES, arrays, image_batch, meta, noise_images, pictures, seeded
from PIL import Image
from torch import nn
from torch.nn import functional

from sisbench import metrics
from sisbench.core.errors import Unavailable, UserError
from sisbench.metrics.extractors import Compiled, resize_tf1
from sisbench.metrics.frechet import frechet
from sisbench.metrics.inception import Inception, trunk
from sisbench.metrics.kid import kid
from sisbench.metrics.reference import FrechetReference


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    net = trunk()
    net.fc = nn.Linear(2048, 1008)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(seeded(net), path)
    return path


@pytest.fixture(scope="module")
def maker(weights):
    return metrics.create_maker("inception", weights=weights)


@pytest.fixture(scope="module")
def features(maker):
    sides = [(case, side) for case in CASES for side in "ab"]
    return {key: maker.features(pictures(*key)) for key in sides}


def test_golden(features):
    golden = arrays("inception_features")
    results = meta("inception_fid")["results"]
    step = meta("inception_fid")["subsample"]["2048"]
    for case in CASES:
        a, b = features[case, "a"], features[case, "b"]
        assert np.abs(a[:, ::step] - golden[f"{case}_a_2048"]).max() < 5e-6
        assert np.abs(b[:, ::step] - golden[f"{case}_b_2048"]).max() < 5e-6
        fid = frechet(a, FrechetReference.of(b))
        exact = results[case]["frechet"]["frechet_f64_nuclear_norm"]
        assert fid == pytest.approx(exact, rel=1e-5)
        assert kid(a, b)[0] == pytest.approx(results[case]["kid_unbiased_full"], abs=1e-8)


def test_equals_torch_fidelity_on_the_same_files(tmp_path, weights, features):
    import torch_fidelity

    for side in "ab":
        (tmp_path / side).mkdir()
        for i, picture in enumerate(pictures("sq64", side)):
            image = Image.fromarray(picture.permute(1, 2, 0).numpy())
            image.save(tmp_path / side / f"{i}.png")
    theirs = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "a"),
        input2=str(tmp_path / "b"),
        fid=True,
        cuda=False,
        verbose=False,
        cache=False,
        batch_size=8,
        feature_extractor_weights_path=str(weights),
    )
    rows, real = ({"features": features["sq64", side]} for side in "ab")
    ours = metrics.create("fid").reduce(rows, real)
    assert ours.value == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)


def test_batch_order_and_repeat(maker):
    images = noise_images(3, 40, 56, 0)
    whole = maker.rows(image_batch(images))["features"]
    assert whole.dtype == np.float32
    assert np.abs(maker.features(images[[2, 0]]) - whole[[2, 0]]).max() < 1e-5
    assert np.abs(maker.features(images[1:2]) - whole[1:2]).max() < 1e-5
    assert maker.features(images[:0]).shape == (0, 2048)


def test_compiled_network_fills_short_batches():
    calls = []

    def doubled(x):
        calls.append(len(x))
        return 2 * x

    compiled = Compiled(nn.Identity(), 4)
    compiled._call = doubled
    x = torch.rand(3, 2, 5, 5)
    assert torch.equal(compiled(x), 2 * x)
    assert torch.equal(compiled(x[:1]), 2 * x[:1])
    assert calls == [4, 4]


def test_a_compiler_that_does_not_work_is_explained(tmp_path):
    """In a process of its own: torch remembers which compilers it has tried."""
    code = """
import torch
from torch import nn
from sisbench.core.errors import UserError
from sisbench.metrics.extractors import Compiled
network = Compiled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), 2)
try:
    with torch.inference_mode():
        network(torch.rand(2, 3, 9, 9))
except UserError as error:
    print(error)
"""
    own = {"CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    environment = {**os.environ, **own}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert "install a C++ compiler (g++), or leave out 'compile'" in done.stdout, done.stderr


@pytest.mark.slow
def test_compiled_features(weights, maker):
    images = noise_images(5, 40, 56, 0)
    fast = metrics.create_maker("inception", weights=weights, batch=4, compile=True)
    assert np.abs(fast.features(images) - maker.features(images)).max() < 1e-5
    assert fast.fingerprint() == maker.fingerprint()


def test_bf16_is_near_and_named(weights, maker, features):
    low = metrics.create_maker("inception", weights=weights, dtype="bf16")
    a = low.features(pictures("rect", "a"))
    assert a.dtype == np.float32
    error = np.linalg.norm(a - features["rect", "a"]) / np.linalg.norm(features["rect", "a"])
    assert 0 < error < 0.02
    assert low.fingerprint() != maker.fingerprint()


def test_preprocessing(weights):
    """Each against the library call that defines it."""
    images = noise_images(1, 64, 80, 3)
    half_pixel = Inception(weights, preprocess="pytorch_fid")._prepare(images)
    expected = functional.interpolate(images / 255, (299, 299), mode="bilinear") * 2 - 1
    assert torch.allclose(half_pixel, expected, atol=1e-6)
    clean = Inception(weights, preprocess="clean")._prepare(images)
    plane = Image.fromarray(images[0, 1].float().numpy()).resize((299, 299), Image.BICUBIC)
    expected = (torch.from_numpy(np.array(plane)).clamp(0, 255) - 128) / 128
    assert torch.allclose(clean[0, 1], expected, atol=1e-6)


def test_tf1_resize_by_its_definition():
    x = torch.rand(1, 1, 5, 7, dtype=torch.float64)
    found = resize_tf1(x, 12)
    for i, j in ((0, 0), (5, 3), (11, 11)):
        y, z = i * 5 / 12, j * 7 / 12
        top, left = int(y), int(z)
        bottom, right = min(top + 1, 4), min(left + 1, 6)
        upper = x[0, 0, top, left] * (1 - (z - left)) + x[0, 0, top, right] * (z - left)
        lower = x[0, 0, bottom, left] * (1 - (z - left)) + x[0, 0, bottom, right] * (z - left)
        expected = upper * (1 - (y - top)) + lower * (y - top)
        assert float(found[0, 0, i, j]) == pytest.approx(float(expected), rel=1e-6)


def test_bad_input(tmp_path, weights, monkeypatch):
    with pytest.raises(UserError, match="preprocess"):
        Inception(weights, preprocess="tf2")
    with pytest.raises(UserError, match="dtype"):
        Inception(weights, dtype="fp16")
    with pytest.raises(Unavailable, match=r"no weights file.*absent\.pth"):
        Inception(tmp_path / "absent.pth")
    monkeypatch.setenv("SISBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(Unavailable, match="sisbench weights fetch inception"):
        Inception()
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"missing \("):
        Inception(tmp_path / "other.pth").features(noise_images(1, 32, 32, 0))
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(UserError, match="a plain text"):
        Inception(tmp_path / "text.pth").features(noise_images(1, 32, 32, 0))
