"""FRS, REIDSim and REIDAcc on golden embeddings; boxes; locality of edits; machine scores."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from metrics_helpers import arrays, image_batch, meta, noise_images

from sisbench import metrics
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.methods.seeded import seeded_state
from sisbench.metrics.extractors import ByContent
from sisbench.metrics.identity import cosine
from sisbench.report.heat import heat_map

THREE = LabelSpace("three", ("ground", "body", "hair"))


class MeanColour:
    """An "embedding network": mean colour of the box."""

    def embed(self, images, boxes=None):
        if boxes is None:
            return images.float().mean(dim=(2, 3))
        crops = [i[:, t:b, le:r] for i, (t, b, le, r) in zip(images, boxes.tolist(), strict=True)]
        return torch.stack([c.float().mean(dim=(1, 2)) for c in crops])

    def fingerprint(self):
        return "mean colour"


def test_reid_golden_embeddings():
    stored, expected = arrays("reid.embeddings"), meta("reid.embeddings")["expected"]
    subject = cosine(stored["swap"], stored["subject"])
    background = cosine(stored["swap"], stored["background"])
    assert subject == pytest.approx(stored["cos_subject"], abs=1e-6)
    assert background == pytest.approx(stored["cos_background"], abs=1e-6)
    # a tie in exact arithmetic is one in float32 too, as the official code compares
    rows = {
        "subject": subject,
        "background": background,
        "whole_frame": np.zeros(len(subject), bool),
    }
    assert metrics.create("reidsim").reduce(rows).value == pytest.approx(
        expected["REIDSim"], abs=1e-6
    )
    assert metrics.create("reidacc").reduce(rows).value == expected["REIDAcc"]


class Counting(MeanColour):
    """Counts the pictures that it is given."""

    seen = 0

    def embed(self, images, boxes=None):
        self.seen += len(images)
        return super().embed(images, boxes)


def test_photographs_are_embedded_once():
    targets, network = noise_images(5, 16, 16, 0), Counting()
    maker = metrics.create_maker("identity", network=network)
    for seed in (1, 2, 3):  # three methods on the same photographs
        fakes = noise_images(5, 16, 16, seed)
        rows = maker.rows(image_batch(fakes, targets))
        assert np.array_equal(rows["embedding"], MeanColour().embed(fakes))
        assert np.array_equal(rows["target_embedding"], MeanColour().embed(targets))
    assert network.seen == 3 * 5 + 5


def test_boxes_are_part_of_what_is_kept():
    images, kept = noise_images(2, 16, 16, 0), ByContent(8)
    network = Counting()
    for bottom in (8, 16, 8):
        boxes = torch.tensor([[0, bottom, 0, 16]] * 2)
        found = torch.stack(kept.of(images, network.embed, boxes))
        assert torch.equal(found, MeanColour().embed(images, boxes))
    assert network.seen == 4
    assert len(kept) == 4


def test_frs_golden_embeddings():
    stored, expected = arrays("frs"), meta("frs")
    score = metrics.create("frs").reduce(
        {"embedding": stored["emb_b"], "target_embedding": stored["emb_a"]}
    )
    assert score.value == pytest.approx(np.mean(expected["cosine"]), abs=1e-5)
    assert score.extra["median"] == pytest.approx(np.median(expected["cosine"]), abs=1e-5)
    a = stored["emb_a"]
    floor = np.mean([a[0] @ a[1], a[1] @ a[2], a[2] @ a[0]])
    assert score.extra["floor"] == pytest.approx(floor, abs=1e-6)


def test_reid_rows():
    """The transfer shows the subject's colour where its own label map has the subject."""
    black = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    red, blue = black.clone(), black.clone()
    red[:, 0], blue[:, 2] = 200, 200
    drawn, other = torch.zeros(2, 1, 8, 8, dtype=torch.int64)
    drawn[:, :4], other[:, 4:] = 1, 1
    swap = blue.clone()
    swap[:, :, :4] = red[:, :, :4]
    batch = image_batch(
        swap,
        label=drawn,
        space=THREE,
        reference=red,
        reference_label=other,
        photograph=blue,
        target_label=drawn,
    )
    rows = metrics.create_maker("reid", network=MeanColour()).rows(batch)
    assert rows["subject"] == pytest.approx([1.0])
    assert rows["background"] == pytest.approx([0.0])
    assert metrics.create("reidacc").reduce(rows).value == 1
    assert rows["whole_frame"].tolist() == [False]
    empty = dataclasses.replace(batch, reference_label=torch.zeros_like(drawn))
    assert metrics.create_maker("reid", network=MeanColour()).rows(empty)["whole_frame"].all()
    with pytest.raises(Unavailable, match="photograph, reference, reference_label, target_label"):
        metrics.create_maker("reid", network=MeanColour()).rows(image_batch(swap))


def test_reid_golden_network():
    """Boxes, crops, network and cosines together, with seeded weights."""
    from sisbench.segmenters.identity import create_identity

    stored, about = arrays("reid.metrics"), meta("reid.metrics")
    network = create_identity("reid")
    shapes = network.official_shapes()
    seed = about["weight_seeds"]["reid"]
    network.load_state({m: seeded_state(s, seed) for m, s in shapes.items()})
    images = {k: torch.from_numpy(stored[k]) for k in ("swap", "background", "subject")}
    labels = {k: torch.from_numpy(stored[f"{k}_label"]).long() for k in ("background", "subject")}
    batch = image_batch(
        images["swap"],
        label=labels["background"],
        space=THREE,
        reference=images["subject"],
        reference_label=labels["subject"],
        photograph=images["background"],
        target_label=labels["background"],
    )
    rows = metrics.create_maker("reid", network=network).rows(batch)
    assert rows["subject"] == pytest.approx(stored["cos_subject"], abs=2e-5)
    assert rows["background"] == pytest.approx(stored["cos_background"], abs=2e-5)
    expected = about["expected"]
    assert metrics.create("reidsim").reduce(rows).value == pytest.approx(
        expected["ReidSubjectSimilarity_eval"], abs=2e-5
    )
    assert metrics.create("reidacc").reduce(rows).value == expected["ReidSubjectSuperiority_eval"]


def test_identity_rows():
    a, b = noise_images(3, 16, 16, 0), noise_images(3, 16, 16, 1)
    maker = metrics.create_maker("identity", network=MeanColour())
    rows = maker.rows(image_batch(a, b))
    assert np.array_equal(rows["embedding"], a.float().mean(dim=(2, 3)).numpy())
    assert np.array_equal(rows["target_embedding"], b.float().mean(dim=(2, 3)).numpy())
    with pytest.raises(Unavailable, match="target"):
        maker.rows(image_batch(a))


def edit():
    """Class 1 is edited by 51 levels, and 10.2 leak into a quarter of what is left."""
    label = torch.zeros(1, 4, 4, dtype=torch.int64)
    label[:, :2], label[:, 2, :] = 1, 2
    original = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    edited = original.clone()
    edited[:, :, :2] += 51
    edited[:, :, 3] += 10
    classes = torch.tensor([[False, True, False]])
    return edited, original, label, classes


def test_locality():
    edited, original, label, classes = edit()
    maker = metrics.create_maker("locality")
    batch = image_batch(edited, original=original, label=label, classes=classes, space=THREE)
    rows = maker.rows(batch)
    score = metrics.create("locality", space=THREE).reduce(rows)
    assert score.value == pytest.approx(5 / 255)
    assert score.extra["inside"] == pytest.approx(0.2)
    assert score.extra["outside_over_inside"] == pytest.approx(5 / 51)
    assert score.per_class["ground"] == pytest.approx(10 / 255)
    assert score.per_class["hair"] == 0
    assert np.isnan(score.per_class["body"])


def test_locality_of_a_moved_shape():
    """Pixels of the class in the target's own label map belong to the edit too."""
    edited, original, label, classes = edit()
    own = label.clone()
    own[:, 3] = 1
    batch = image_batch(
        edited, original=original, label=label, classes=classes, space=THREE, target_label=own
    )
    score = metrics.create("locality").reduce(metrics.create_maker("locality").rows(batch))
    assert score.value == 0


def test_locality_undefined():
    edited, original, label, _ = edit()
    maker = metrics.create_maker("locality")
    none = torch.zeros(1, 3, dtype=torch.bool)
    rows = maker.rows(image_batch(edited, original=original, label=label, classes=none))
    with pytest.raises(UserError, match="inside and outside"):
        metrics.create("locality").reduce(rows)
    with pytest.raises(Unavailable, match="original"):
        maker.rows(image_batch(edited, label=label, classes=none))


def test_heat_map():
    original = noise_images(1, 5, 6, 0)[0].permute(1, 2, 0).numpy()
    edits = noise_images(4, 5, 6, 1).permute(0, 2, 3, 1).numpy()
    expected = np.abs(edits.astype(float) - original.astype(float)).mean(axis=(0, 3)) / 255
    assert heat_map(edits, original) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(UserError, match="do not fit"):
        heat_map(edits[:, :4], original)


def test_machine_figures():
    rows = {
        "seconds": np.array([8.0, 1.0, 2.0, 1.0, 2.0]),
        "peak_memory": np.array([2.0**20, 2.0**21]),
        "parameters": np.array([3e6, 3e6]),
    }
    seconds = metrics.create("seconds").reduce(rows)
    assert seconds.value == 2
    assert seconds.extra["quartiles"] == [1, 2]
    memory = metrics.create("peak_memory")
    assert memory.reduce(rows).value * memory.scale == 2
    assert metrics.create("parameters").reduce(rows).value == 3e6
    with pytest.raises(Unavailable, match=r"no operations"):
        metrics.create("flops").reduce(rows)
