"""toyfaces: determinism, resolution, classes, and the truths of the transfers."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from sisbench.core.errors import UserError
from sisbench.data.toyfaces import ToyFaces
from sisbench.data.toyfaces.dataset import ACCESSORIES, worn
from sisbench.data.toyfaces.labels import LAYERS, label_map
from sisbench.data.toyfaces.layout import draw_layout
from sisbench.data.toyfaces.render import fine, oversampling, render, render_label
from sisbench.data.toyfaces.shapes import BACKGROUND, CLOTH, HAIR, HAT, NOSE, SKIN

PAIRS = [("test-00000", "test-00001"), ("test-00002", "test-00009"), ("test-00006", "test-00007")]


@pytest.fixture(scope="module")
def faces() -> ToyFaces:
    return ToyFaces(size=64)


def away_from(region: np.ndarray) -> np.ndarray:
    """Pixels that do not touch ``region``: averaging at its border cannot reach them."""
    return cv2.dilate(region.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0


# ---- samples -----------------------------------------------------------------------------------


def test_sample_has_the_promised_form(faces):
    sample = faces.load("test-00017")
    assert sample.image.shape == (64, 64, 3)
    assert sample.image.dtype == np.uint8
    assert sample.label.shape == (64, 64)
    assert sample.label.dtype == np.int64
    assert len(faces) == 200
    assert (len(ToyFaces("train")), len(ToyFaces("val"))) == (2000, 100)


def test_same_sample_in_another_process_and_for_another_n(faces):
    code = (
        "import hashlib; from sisbench.data.toyfaces import ToyFaces;"
        "s = ToyFaces(n=8).load('test-00007');"
        "print(hashlib.sha256(s.image.tobytes() + s.label.tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    faces.load("test-00150")
    sample = faces.load("test-00007")
    here = hashlib.sha256(sample.image.tobytes() + sample.label.tobytes()).hexdigest()
    assert done.stdout.strip() == here


def test_splits_and_seeds_share_no_sample():
    datasets = [ToyFaces(s, n=30) for s in ("train", "val", "test")] + [ToyFaces(n=30, seed=1)]
    drawn = [(d.layout(i), d.appearance(i)) for d in datasets for i in d.ids]
    assert len({layout for layout, _ in drawn}) == len(drawn)
    assert len({looks for _, looks in drawn}) == len(drawn)
    assert not set(datasets[0].ids) & set(datasets[2].ids)


def test_fingerprint_tells_every_parameter():
    variants = [ToyFaces(), ToyFaces("val"), ToyFaces(size=32), ToyFaces(n=3), ToyFaces(seed=1)]
    assert len({d.fingerprint() for d in variants}) == len(variants)
    assert ToyFaces(size=(64, 64)).fingerprint() == ToyFaces(size=64).fingerprint()


def test_every_class_occurs_and_accessories_are_rare(faces):
    seen = np.array(
        [
            np.bincount(label_map(faces.layout(i), (64, 64)).ravel(), minlength=19) > 0
            for i in faces.ids
        ]
    )
    share = dict(zip(faces.space.classes, seen.mean(0)))
    assert min(share.values()) > 0.08
    for name, expected in {"hat": 0.15, "eye_g": 0.20, "ear_r": 0.25, "neck_l": 0.20}.items():
        assert abs(share[name] - expected) < 0.09, name
    for name in ("l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "u_lip", "l_lip"):
        assert share[name] > 0.85, name


def test_classes_are_the_side_of_the_picture_that_their_names_say(faces):
    for sample_id in faces.ids[:20]:
        label = label_map(faces.layout(sample_id), (64, 64))
        columns = [np.nonzero(label == c)[1].mean() for c in (4, 5)]
        assert columns[0] < columns[1]


# ---- resolution --------------------------------------------------------------------------------


def test_labels_of_two_resolutions_agree(faces):
    shares = []
    for sample_id in faces.ids[:20]:
        small = label_map(faces.layout(sample_id), (64, 64))
        large = label_map(faces.layout(sample_id), (128, 128))
        shares.append((large[::2, ::2] == small).mean())
        # the middle of three points a side is the pixel's centre
        assert (label_map(faces.layout(sample_id), (192, 192))[1::3, 1::3] == small).mean() > 0.999
    # nearest reduction by 2 looks a quarter pixel beside the centre, which costs border pixels
    assert np.mean(shares) > 0.97
    assert min(shares) > 0.96


def test_pictures_of_two_resolutions_agree(faces):
    large = ToyFaces(size=256)
    for sample_id in faces.ids[:6]:
        reduced = cv2.resize(large.load(sample_id).image, (64, 64), interpolation=cv2.INTER_AREA)
        error = np.abs(reduced.astype(int) - faces.load(sample_id).image).mean()
        assert error < 2.0


def test_longer_side_only_shows_more(faces):
    square = faces.load("test-00003")
    wide = ToyFaces(size=(64, 96)).load("test-00003")
    tall = ToyFaces(size=[96, 64]).load("test-00003")
    np.testing.assert_array_equal(wide.label[:, 16:80], square.label)
    np.testing.assert_array_equal(tall.label[16:80], square.label)
    assert np.abs(tall.image[16:80].astype(int) - square.image).max() <= 1


@pytest.mark.parametrize("size", [16, 17, (16, 45), 161])
def test_any_size(size):
    sample = ToyFaces(size=size, n=1).load("test-00000")
    assert sample.image.shape[:2] == sample.label.shape
    assert 0 <= sample.label.min() <= sample.label.max() < 19


# ---- label maps --------------------------------------------------------------------------------


def test_lifting_a_class_off_changes_its_own_pixels_alone(faces):
    for sample_id in faces.ids[:10]:
        face = faces.layout(sample_id)
        label = label_map(face, (64, 64))
        for class_id in {c for c, _ in LAYERS}:
            lifted = label_map(face, (64, 64), without=[class_id])
            assert not (lifted == class_id).any()
            np.testing.assert_array_equal((lifted != label), label == class_id)


def test_face_is_under_the_nose(faces):
    face = faces.layout("test-00000")
    nose = label_map(face, (64, 64)) == NOSE
    assert (label_map(face, (64, 64), without=[NOSE])[nose] == SKIN).all()


# ---- truths ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task", ["transfer", "class_transfer", "shape_transfer", "subject_transfer"]
)
def test_a_sample_with_itself_is_itself(faces, task):
    for sample_id in faces.ids[:5]:
        truth = faces.truth(task, sample_id, sample_id, [HAIR, NOSE, HAT, CLOTH])
        np.testing.assert_array_equal(truth, faces.load(sample_id).image)


@pytest.mark.parametrize("pair", PAIRS)
def test_all_classes_are_a_transfer_but_for_the_light(faces, pair):
    face, other = (faces.layout(i) for i in pair)
    own, theirs = (faces.appearance(i) for i in pair)
    everything = range(19)
    known = set(everything) - (ACCESSORIES - worn(other))
    relit = replace(own.lend(theirs, known, light=True), light=own.light)
    truth = faces.truth("class_transfer", *pair, list(everything))
    np.testing.assert_array_equal(truth, render(face, relit, (64, 64)))
    # under equal lights the two tasks are one
    full = faces.truth("transfer", *pair)
    lit = replace(own.lend(theirs, known, light=False), light=theirs.light)
    np.testing.assert_array_equal(full, render(face, lit, (64, 64)))
    np.testing.assert_array_equal(full, faces.truth("subject_transfer", *pair, list(everything)))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("classes", [[HAIR], [BACKGROUND, CLOTH], [SKIN, NOSE], []])
def test_class_transfer_stays_within_its_classes(faces, pair, classes):
    sample = faces.load(pair[0])
    truth = faces.truth("class_transfer", *pair, classes)
    edited = np.isin(label_map(faces.layout(pair[0]), fine((64, 64))), classes)
    k = oversampling((64, 64))
    touched = edited.reshape(64, k, 64, k).any((1, 3))
    np.testing.assert_array_equal(truth[~touched], sample.image[~touched])
    if classes:
        assert np.abs(truth[touched].astype(int) - sample.image[touched]).mean() > 3


@pytest.mark.parametrize("pair", PAIRS)
def test_subject_transfer_keeps_the_background(faces, pair):
    sample = faces.load(pair[0])
    truth = faces.truth("subject_transfer", *pair)
    background = away_from(sample.label != BACKGROUND)
    np.testing.assert_array_equal(truth[background], sample.image[background])
    subject = away_from(sample.label == BACKGROUND)
    full = faces.truth("transfer", *pair)
    np.testing.assert_array_equal(truth[subject], full[subject])


@pytest.mark.parametrize("classes", [[HAIR], [NOSE], [4, 5, 6, 7], [10, 11, 12], [HAT, CLOTH]])
def test_shape_transfer_is_layout_swap_with_holes_filled(faces, classes):
    torch = pytest.importorskip("torch")
    from sisbench.methods.base import Layout, present_classes

    for target, reference in PAIRS:
        labels = [torch.from_numpy(faces.load(i).label)[None] for i in (target, reference)]
        layouts = [Layout(label, present_classes(label, 19)) for label in labels]
        swapped = layouts[0].swap(layouts[1], classes).label[0].numpy()
        truth = faces.truth_layout(target, reference, classes)
        hole = swapped < 0
        np.testing.assert_array_equal(truth[~hole], swapped[~hole])
        assert (truth >= 0).all()
        assert not np.isin(truth[hole], classes).any()


def test_shape_transfer_draws_the_target_elsewhere(faces):
    for target, reference in PAIRS:
        before, after = faces.load(target), faces.truth("shape_transfer", target, reference, [NOSE])
        changed = faces.truth_layout(target, reference, [NOSE]) != before.label
        same = away_from(changed | (before.label == NOSE))
        same &= away_from(faces.truth_layout(target, reference, [NOSE]) == NOSE)
        np.testing.assert_array_equal(after[same], before.image[same])
        assert (after != before.image).any()


def test_looks_that_the_reference_cannot_tell_stay_the_targets(faces):
    hats = {i: faces.layout(i).hat for i in faces.ids[:60]}
    target = next(i for i, hat in hats.items() if hat)
    bare = next(i for i, hat in hats.items() if not hat)
    unchanged = faces.truth("class_transfer", target, bare, [HAT])
    np.testing.assert_array_equal(unchanged, faces.load(target).image)
    # and a hat that comes to a bare head brings its own look
    hat = faces.truth_layout(bare, target, [HAT]) == HAT
    inner = away_from(~hat)
    brought = faces.truth("shape_transfer", bare, target, [HAT])[inner].astype(int)
    looks = faces.appearance(bare).lend(faces.appearance(target), [HAT], light=False)
    worn_there = render(faces.layout(target), looks, (64, 64))
    np.testing.assert_array_equal(brought, worn_there[inner])


def test_any_label_map_can_be_drawn(faces):
    face, looks = faces.layout("test-00000"), faces.appearance("test-00000")
    rng = np.random.default_rng(0)
    label = cv2.resize(
        rng.integers(0, 19, (8, 8), dtype=np.uint8), fine((64, 64)), interpolation=cv2.INTER_NEAREST
    )
    image = render_label(label, looks, face, (64, 64))
    assert image.shape == (64, 64, 3)
    np.testing.assert_array_equal(
        image, render_label(label.astype(np.int64), looks, face, (64, 64))
    )


def test_shading_is_finite_for_many_faces():
    with np.errstate(all="raise", under="ignore"):
        for seed in range(40):
            faces = ToyFaces("train", size=24, n=1, seed=seed)
            faces.load("train-00000")


def test_other_tasks_have_no_truth(faces):
    assert faces.truth("interpolate_style", *PAIRS[0]) is None
    assert faces.truth("sample", "test-00000", "") is None


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"split": "tests"}, "did you mean 'test'"),
        ({"size": 15}, "from 16 on"),
        ({"size": (64, 8)}, "from 16 on"),
        ({"size": (64, 64, 3)}, "height, width"),
        ({"size": "64"}, "whole number"),
        ({"size": 64.0}, "size"),
        ({"n": 0}, "from 1 on"),
        ({"n": True}, "whole number"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        ToyFaces(**options)


def test_unknown_ids_and_classes_are_refused(faces):
    with pytest.raises(UserError, match="test-00000 to test-00199"):
        faces.load("test-00200")
    with pytest.raises(UserError, match="no sample"):
        faces.truth("transfer", "test-00000", "train-00000")
    with pytest.raises(UserError, match="no class"):
        faces.truth("class_transfer", *PAIRS[0], [19])


def test_a_layout_is_plain_numbers():
    face = draw_layout(np.random.default_rng(0))
    assert {type(v) for v in vars(face).values()} <= {int, float, bool}
