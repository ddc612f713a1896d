"""Identity networks: parity with stored embeddings, boxes, crops, bad input."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sisbench.core import weights
from sisbench.core.errors import Unavailable, UserError
from sisbench.methods.seeded import seeded_state
from sisbench.segmenters.identity import Identity, create_identity, subject_boxes
from sisbench.segmenters.identity.reid import crop

FIXTURES = Path(__file__).parent / "fixtures" / "segm"


def read(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(FIXTURES / f"{name}.npz") as stored:
        return json.loads((FIXTURES / f"{name}.json").read_text()), dict(stored)


def noise(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def reid() -> Identity:
    meta, _ = read("reid.backbone")
    network = create_identity("reid", **meta["config"])
    seed = meta["weight_seeds"]["reid"]
    return network.load_state({"reid": seeded_state(network.official_shapes()["reid"], seed)})


@lru_cache(maxsize=1)
def facenet(name: str) -> tuple[Identity, dict[str, np.ndarray]]:
    pytest.importorskip("facenet_pytorch")
    meta, arrays = read(name)
    network = create_identity("facenet", **meta["config"])
    shapes = network.official_shapes()["InceptionResnetV1"]
    state = seeded_state(shapes, meta["weight_seed"])
    for what in ("mean", "var"):
        key = f"last_bn.running_{what}"
        state[key] = torch.from_numpy(arrays[f"override_last_bn_running_{what}"])
    return network.load_state({"InceptionResnetV1": state}), arrays


@pytest.mark.parametrize("case", ["tensor256", "face256to160"])
def test_facenet_parity(case: str) -> None:
    network, arrays = facenet(f"facenet_irv1.{case}")
    a, b = (
        network.embed(torch.from_numpy(arrays[k]).permute(0, 3, 1, 2)) for k in ("image", "image_b")
    )
    np.testing.assert_allclose(a, arrays["embedding"], atol=2e-5)
    np.testing.assert_allclose(b, arrays["embedding_b"], atol=2e-5)
    np.testing.assert_allclose((a * b).sum(1), arrays["cosine"], atol=1e-5)


def test_facenet_crops() -> None:
    network, arrays = facenet("facenet_irv1.face256to160")
    x = torch.from_numpy(arrays["image"]).permute(0, 3, 1, 2)
    boxes = torch.tensor([[10, 210, 30, 230], [0, 256, 0, 256]])
    found = network.embed(x, boxes)
    torch.testing.assert_close(found[:1], network.embed(x[:1, :, 10:210, 30:230]))
    torch.testing.assert_close(found[1:], network.embed(x[1:]))


def test_every_official_key() -> None:
    stored = json.loads((FIXTURES / "reid.manifest.json").read_text())["modules"]["reid"]
    found = create_identity("reid").official_shapes()["reid"]
    assert {k: list(v) for k, v in found.items()} == stored
    pytest.importorskip("facenet_pytorch")
    path = FIXTURES / "facenet_irv1.vggface2.manifest.json"
    (keys,) = json.loads(path.read_text())["modules"].values()
    shapes = create_identity("facenet").official_shapes()["InceptionResnetV1"]
    assert {k: list(v) for k, v in shapes.items()} == {
        k: v["shape"] if isinstance(v, dict) else v for k, v in keys.items()
    }


def test_reid_parity(reid: Identity) -> None:
    _, arrays = read("reid.backbone")
    found = reid.embed(torch.from_numpy(arrays["x"]))
    np.testing.assert_allclose(found, arrays["emb_eval"], atol=2e-5, rtol=1e-4)


def test_reid_boxes_and_cosines(reid: Identity) -> None:
    meta, arrays = read("reid.metrics")
    given = {k: torch.from_numpy(v) for k, v in arrays.items()}
    boxes = {k: subject_boxes(given[k]) for k in ("background_label", "subject_label")}
    stored = meta["boxes_top_bottom_left_right_exclusive"]
    assert {k: v.tolist() for k, v in boxes.items()} == stored
    behind, subject = boxes["background_label"], boxes["subject_label"]
    cropped = crop(given["swap"], behind, (256, 128)) / 127.5 - 1
    np.testing.assert_allclose(cropped[..., ::16, ::16], arrays["swap_crop"], atol=1e-5)
    swap = reid.embed(given["swap"], behind)
    for other, box, key in (
        ("subject", subject, "cos_subject"),
        ("background", behind, "cos_background"),
    ):
        cosine = torch.cosine_similarity(swap, reid.embed(given[other], box))
        np.testing.assert_allclose(cosine, arrays[key], atol=1e-5)


def test_crops_are_torchs() -> None:
    x = noise(5, 3, 40, 30)
    boxes = torch.tensor(
        [[0, 40, 0, 30], [3, 4, 5, 6], [10, 33, 2, 29], [0, 7, 0, 1], [8, 40, 9, 30]]
    )
    found = crop(x, boxes, (24, 16))
    for row, (top, bottom, left, right) in enumerate(boxes.tolist()):
        part = x[row : row + 1, :, top:bottom, left:right].float()
        expected = F.interpolate(part, (24, 16), mode="bilinear", align_corners=False)
        torch.testing.assert_close(found[row : row + 1], expected, atol=1e-3, rtol=0)


def test_subject_boxes_of_empty_maps_and_holes() -> None:
    label = torch.zeros(3, 6, 8, dtype=torch.int64)
    label[1, 2, 3] = 2
    label[1, 5, 0] = -1
    label[2, 0:2, 7] = 5
    assert subject_boxes(label).tolist() == [[0, 6, 0, 8], [2, 3, 3, 4], [0, 2, 7, 8]]
    assert subject_boxes(label, {0, 5})[2].tolist() == [0, 6, 0, 8]


def test_batch_size_does_not_matter(reid: Identity) -> None:
    x = noise(2, 3, 50, 20)
    torch.testing.assert_close(reid.embed(x)[1:], reid.embed(x[1:]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("boxes", "match"),
    [
        (torch.zeros(1, 4), "integers"),
        (torch.zeros(2, 4, dtype=torch.int64), r"\(1, 4\)"),
        (torch.tensor([[0, 9, 0, 8]]), "leaves the 8 x 8 image"),
        (torch.tensor([[3, 3, 0, 8]]), "is empty"),
    ],
)
def test_bad_boxes(reid: Identity, boxes: Tensor, match: str) -> None:
    with pytest.raises(UserError, match=match):
        reid.embed(noise(1, 3, 8, 8), boxes)


def test_bad_input(reid: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="8-bit"):
        reid.embed(torch.rand(1, 3, 8, 8))
    with pytest.raises(UserError, match="no weights yet"):
        create_identity("reid").embed(noise(1, 3, 8, 8))
    with pytest.raises(UserError, match="'last_stride' is 1"):
        create_identity("reid", last_stride=2)
    with pytest.raises(UserError, match="did you mean 'facenet'"):
        create_identity("arcface")
    for name in ("facenet", "reid"):
        assert weights.get(name)
    monkeypatch.setenv("SISBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(Unavailable, match="reid"):
        create_identity("reid").load()


def test_facenet_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "facenet_pytorch", None)
    with pytest.raises(Unavailable, match="identity"):
        create_identity("facenet")
