"""LPIPS against golden values and the lpips package; diversity against all pairs."""

from __future__ import annotations

import lpips
import numpy as np
import pytest
import torch
from metrics_helpers import CASES, image_batch, meta, noise_images, pictures, seeded
from torch import nn

from sisbench import metrics
from sisbench.core.errors import Unavailable, UserError
from sisbench.metrics.perceptual import LPIPSNetwork, _features, pairwise


def make_trunk(folder, net):
    holder = nn.Module()
    holder.features = _features(net)
    torch.save(seeded(holder), folder / net)


@pytest.fixture(scope="module")
def trunks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trunks")
    for net in ("alex", "squeeze"):
        make_trunk(folder, net)
    return folder


@pytest.mark.parametrize("net", ["alex", "squeeze", pytest.param("vgg", marks=pytest.mark.slow)])
def test_golden(trunks, net):
    if net == "vgg":
        make_trunk(trunks, net)
    maker = metrics.create_maker(f"lpips-{net}", weights=trunks / net)
    golden = meta("image_metrics")["cases"]
    for case in CASES:
        expected = golden[case]["lpips"][net]
        batch = image_batch(pictures(case, "a"), pictures(case, "b"))
        found = maker.rows(batch)["lpips"]
        assert found == pytest.approx(expected["lpips_float64"], rel=5e-6)
        same = maker.rows(image_batch(batch.image, batch.image))["lpips"]
        assert np.abs(same).max() == 0
        with torch.inference_mode():
            matrix = pairwise(maker.network.embed(batch.image)).numpy()
        assert matrix == pytest.approx(np.array(expected["pairwise_first_set_float64"]), abs=5e-7)


def test_equals_the_lpips_package(trunks):
    oracle = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    state = torch.load(trunks / "alex", weights_only=True)
    names = {k: "features." + k.split(".", 1)[1] for k in oracle.net.state_dict()}
    oracle.net.load_state_dict({k: state[v] for k, v in names.items()})
    a, b = noise_images(2, 64, 48, 0), noise_images(2, 64, 48, 1)
    with torch.inference_mode():
        expected = oracle(a / 127.5 - 1, b / 127.5 - 1).flatten().numpy()
    found = metrics.create_maker("lpips-alex", weights=trunks / "alex").rows(image_batch(a, b))
    assert found["lpips"] == pytest.approx(expected, rel=1e-5)


def test_laws(trunks):
    maker = metrics.create_maker("lpips-alex", weights=trunks / "alex", batch=2)
    a, b = noise_images(5, 40, 40, 0), noise_images(5, 40, 40, 1)
    whole = maker.rows(image_batch(a, b))["lpips"]
    assert maker.rows(image_batch(b, a))["lpips"] == pytest.approx(whole, rel=1e-5)
    part = maker.rows(image_batch(a[3:4], b[3:4]))["lpips"]
    assert part == pytest.approx(whole[3:4], rel=1e-5)
    low = metrics.create_maker("lpips-alex", weights=trunks / "alex", dtype="bf16")
    assert low.rows(image_batch(a, b))["lpips"] == pytest.approx(whole, rel=0.02)
    assert low.fingerprint() != maker.fingerprint()


def test_diversity_is_the_mean_over_all_pairs(trunks):
    """Rows made in any order and batch: mean over pairs of a label map, then over label maps."""
    maker = metrics.create_maker("lpips-embedding", weights=trunks / "alex", batch=2)
    images = noise_images(8, 32, 32, 0)
    groups = np.array(list("abababab"))
    members = [torch.tensor([j for j in range(8) if j % 2 == i % 2 and j != i]) for i in range(8)]
    siblings = torch.stack([images[m] for m in members])
    rows = [
        maker.rows(image_batch(images[part], siblings=siblings[part]))["distance"]
        for part in (slice(0, 3), slice(3, 8))
    ]
    score = metrics.create("lpips_diversity").reduce(
        {"distance": np.concatenate(rows), "target_id": groups}
    )
    network = LPIPSNetwork("alex", trunks / "alex")
    expected = []
    with torch.inference_mode():
        for g in range(2):
            own = [i for i in range(8) if i % 2 == g]
            pairs = [(i, j) for i in own for j in own if i < j]
            first, second = (torch.stack([images[p[s]] for p in pairs]) for s in (0, 1))
            expected.append(float(network.distances(first, second).mean()))
    assert score.value == pytest.approx(np.mean(expected), rel=1e-5)
    assert score.extra == {"label_maps": 2, "images_per_label_map": 4.0}
    assert score.n == 8


def test_diversity_forgets(trunks):
    maker = metrics.create_maker("lpips-embedding", weights=trunks / "alex")
    images = noise_images(6, 32, 32, 2)
    siblings = images.roll(1, 0)[:, None]
    whole = maker.rows(image_batch(images, siblings=siblings))["distance"]
    maker = metrics.create_maker("lpips-embedding", weights=trunks / "alex", remember=1)
    again = maker.rows(image_batch(images, siblings=siblings))["distance"]
    assert again == pytest.approx(whole, rel=1e-5)
    assert len(maker._kept) == 2


def test_bad_input(trunks, tmp_path, monkeypatch):
    monkeypatch.setenv("SISBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(Unavailable, match=r"alexnet-owt-7be5be79\.pth.*\n.*fetch lpips-alex"):
        metrics.create_maker("lpips-alex")
    maker = metrics.create_maker("lpips-alex", weights=trunks / "alex")
    a = noise_images(2, 40, 40, 0)
    with pytest.raises(UserError, match="uint8"):
        maker.rows(image_batch(a / 127.5 - 1, a))
    with pytest.raises(UserError, match="targets"):
        maker.rows(image_batch(a, a[:, :, :30]))
    wrong = metrics.create_maker("lpips-alex", weights=trunks / "squeeze")
    with pytest.raises(UserError, match="does not fit"):
        wrong.rows(image_batch(a, a))
    diversity = metrics.create_maker("lpips-embedding", weights=trunks / "alex")
    with pytest.raises(Unavailable, match="siblings"):
        diversity.rows(image_batch(a))
    with pytest.raises(UserError, match="at least two"):
        diversity.rows(image_batch(a, siblings=a[:, None][:, :0]))
