"""Confusions and their conventions: golden values, torchmetrics, resize rules, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from metrics_helpers import arrays, image_batch, meta, noise_images
from torchmetrics.classification import MulticlassJaccardIndex

from sisbench import metrics
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.metrics.confusion import confusion_counts
from sisbench.metrics.segmentation import conventions, values_under

GOLDEN = ("worked2x4", "k6_ignore255", "k19_noignore")


class Oracle:
    """A parser that gives fixed label maps."""

    def __init__(self, space, found):
        self.space, self.found = space, found

    def __call__(self, images):
        return self.found

    def fingerprint(self):
        return "oracle"


def counts(name):
    stored, about = arrays(f"segmetric.{name}"), meta(f"segmetric.{name}")
    truth, found = (torch.from_numpy(stored[k]).long() for k in ("gt", "pred"))
    matrix, ignored = confusion_counts(truth, found, about["num_classes"], about["ignore_label"])
    return matrix.numpy(), ignored.numpy(), stored, about


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_conventions(name):
    matrix, ignored, stored, about = counts(name)
    assert np.array_equal(matrix, stored["confusion_per_image"])
    assert np.array_equal(matrix.sum(0), stored["confusion"])
    found = conventions(matrix, ignored)
    assert found == pytest.approx(about["expected"], abs=1e-12)
    rows = {"confusion": matrix, "ignored": ignored}
    iou = metrics.create("class_iou").reduce(rows).per_class
    expected = np.where(stored["iou_per_class"] < 0, np.nan, stored["iou_per_class"])
    assert list(iou.values()) == pytest.approx(list(expected), abs=1e-12, nan_ok=True)


def test_golden_pooled():
    stored, about = arrays("segmentation"), meta("segmentation")
    truth, found = (torch.from_numpy(stored[k]).long() for k in ("gt", "pred"))
    matrix, ignored = confusion_counts(truth, found, about["num_classes"], about["ignore"])
    assert matrix.sum(0).tolist() == about["confusion"]
    named = conventions(matrix.numpy(), ignored.numpy())
    pairs = {
        "miou_dataset_union": "miou_union",
        "miou_dataset_gt": "miou_gt_present",
        "acc_pixel_dataset": "pixel_acc",
        "acc_class_mean_gt": "mean_class_acc_gt_present",
        "fwiou": "fwiou",
    }
    for ours, theirs in pairs.items():
        assert named[ours] == pytest.approx(about[theirs], abs=1e-12)


def test_against_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 6, (3, 20, 20), generator=generator)
    found = torch.randint(0, 5, (3, 20, 20), generator=generator)
    peer = MulticlassJaccardIndex(6, average="macro", ignore_index=5)(found, truth)
    matrix, ignored = confusion_counts(truth, found, 6, 5)
    ours = conventions(matrix.numpy(), ignored.numpy(), ignore=5)["miou_dataset_union"]
    assert ours == pytest.approx(float(peer), abs=1e-6)


def test_ignore_label_that_is_a_class():
    """ADE20K's 0: neither a row nor a class of any mean, and a wrong prediction elsewhere."""
    space = LabelSpace("ade", ("unknown", "wall", "sky"), ignore=0)
    truth = torch.tensor([[[0, 1, 1, 2]]])
    found = torch.tensor([[[1, 1, 0, 2]]])
    matrix, ignored = confusion_counts(truth, found, 3, 0)
    rows = {"confusion": matrix.numpy(), "ignored": ignored.numpy()}
    score = metrics.create("miou", space=space).reduce(rows)
    assert score.value == pytest.approx((0.5 + 1) / 2)
    assert score.per_class == {"wall": 0.5, "sky": 1.0}
    assert score.extra["ignored_share"] == 0.25
    assert metrics.create("accuracy", space=space).reduce(rows).value == pytest.approx(2 / 3)


def test_holes_are_left_out():
    matrix, ignored = confusion_counts(torch.tensor([[[-1, 0]]]), torch.tensor([[[1, 0]]]), 2, None)
    assert matrix.tolist() == [[[1, 0], [0, 0]]]
    assert ignored.tolist() == [[0, 1]]


def test_label_resize_golden():
    stored, about = arrays("label_resize.half"), meta("label_resize.half")
    small = torch.from_numpy(stored["pred_small"]).long()
    space = LabelSpace("k19", tuple(map(str, range(19))))
    maker = metrics.create_maker("confusion", parser=Oracle(space, small))
    full = torch.from_numpy(stored["gt"]).long()
    rows = maker.rows(image_batch(noise_images(2, 96, 96, 0), label=full, space=space))
    expected = about["expected"]["pil_nearest"]
    miou, accuracy = (metrics.create(n, space=space).reduce(rows) for n in ("miou", "accuracy"))
    assert miou.value == pytest.approx(expected["miou_dataset_union"], abs=1e-12)
    assert accuracy.value == pytest.approx(expected["acc_pixel_dataset"], abs=1e-12)
    assert miou.ci[0] <= miou.value <= miou.ci[1]


def test_batches_add_up():
    matrix, ignored, stored, _ = counts("k6_ignore255")
    truth, found = (torch.from_numpy(stored[k]).long() for k in ("gt", "pred"))
    for i in range(len(truth)):
        one, left = confusion_counts(truth[i : i + 1], found[i : i + 1], 6, 255)
        assert np.array_equal(one[0], matrix[i])
        assert np.array_equal(left[0], ignored[i])


def test_bad_input():
    with pytest.raises(UserError, match="class 7"):
        confusion_counts(torch.full((1, 2, 2), 7), torch.zeros(1, 2, 2, dtype=torch.long), 3, None)
    with pytest.raises(UserError, match="parser: class 3"):
        confusion_counts(torch.zeros(1, 2, 2, dtype=torch.long), torch.full((1, 2, 2), 3), 3, None)
    with pytest.raises(UserError, match="label space"):
        metrics.create_maker("confusion", parser="celebamask_unet")
    three = LabelSpace("three", ("a", "b", "c"))
    maker = metrics.create_maker("confusion", parser=Oracle(three, None))
    with pytest.raises(UserError, match="three"):
        maker.rows(image_batch(noise_images(1, 8, 8, 0)))
    rows = {"confusion": np.zeros((1, 2, 2), int), "ignored": np.zeros((1, 2), int)}
    with pytest.raises(UserError, match="has 3"):
        metrics.create("miou", space=three).reduce(rows)


NAMES = sorted(conventions(np.ones((2, 3, 3), int), np.zeros((2, 3), int)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ignore", [None, 0])
def test_values_of_images_under_each_convention(name, ignore):
    """Their mean is the convention's value; those of pooled pixels are the jackknife's, by leaving
    each image out in turn."""
    rng = np.random.default_rng(3)
    confusion = rng.integers(0, 30, (6, 4, 4)) * (rng.random((6, 4, 4)) < 0.6)
    ignored = rng.integers(0, 9, (6, 4))
    value = conventions(confusion, ignored, ignore)[name]
    values = values_under(name, confusion, ignored, ignore)
    np.testing.assert_allclose(values.mean(), value, rtol=1e-12)
    left = [
        conventions(np.delete(confusion, k, 0), np.delete(ignored, k, 0), ignore)[name]
        for k in range(6)
    ]
    pseudo = 6 * value - 5 * np.array(left)
    if name != "miou_pooled_pairs":  # a ratio: the values are linear in its two sums
        np.testing.assert_allclose(values, pseudo + value - pseudo.mean(), rtol=1e-9)
    spread = np.corrcoef(values, pseudo)[0, 1]
    assert spread > 0.99
    assert np.ptp(values) > 0


def test_one_image_has_no_values_of_pooled_pixels():
    one = np.ones((1, 2, 2), int)
    assert values_under("miou_dataset_gt", one, np.zeros((1, 2), int)) is None
    assert values_under("miou_image_gt", one, np.zeros((1, 2), int)).tolist() == [1 / 3]
