"""Label-map helpers against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sisbench.core.errors import UserError
from sisbench.core.resize import resize_labels_pil, resize_labels_torch
from sisbench.methods.layers.labels import instance_edges, one_hot, read_labels, region_means


@pytest.mark.parametrize("sizes", [(256, 8), (256, 94), (170, 158), (96, 74), (8, 256), (5, 7)])
def test_labels_follow_torchs_nearest_to_the_pixel(sizes: tuple[int, int]) -> None:
    source, target = sizes
    label = torch.randint(0, 19, (2, source, source + 3))
    wanted = F.interpolate(label[:, None].float(), size=(target, target + 1), mode="nearest")
    assert torch.equal(resize_labels_torch(label, (target, target + 1)), wanted[:, 0].long())


@pytest.mark.parametrize("resize", [resize_labels_pil, resize_labels_torch])
def test_both_rules_treat_arrays_and_tensors_alike(resize: Any) -> None:
    label = torch.randint(-1, 400, (3, 37, 52))
    found = resize(label, (16, 75))
    assert found.dtype == label.dtype
    assert (found.numpy() == resize(label.numpy(), (16, 75))).all()
    assert resize(label, (37, 52)) is label
    assert not torch.equal(found, resize_labels_pil(label, (16, 75))) or resize is resize_labels_pil


def test_label_values_are_checked_in_one_place() -> None:
    label = torch.tensor([[[-1, 0, 3, 255]]])
    assert read_labels(label, 5, 4).tolist() == [[[-1, 0, 3, 4]]]
    for classes, dontcare, match in ((5, None, r"-1\.\.255.*0\.\.4"), (3, 2, r"-1\.\.3.*0\.\.2")):
        with pytest.raises(UserError, match=match):
            read_labels(label, classes, dontcare)
    with pytest.raises(UserError, match=r"-2\.\.254"):
        read_labels(label - 1, 300)
    assert read_labels(label[:0], 2).shape == (0, 1, 4)


def test_one_hot_of_a_hole_is_zero() -> None:
    planes = one_hot(torch.tensor([[[0, -1, 2]]]), 3)
    assert planes[0, :, 0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_edges_mark_both_sides() -> None:
    edges = instance_edges(torch.tensor([[[1, 1, 2], [1, 1, 1]]]))
    assert edges[0, 0].tolist() == [[0, 1, 1], [0, 0, 1]]


def test_region_means_are_means_and_zero_where_absent() -> None:
    features = torch.randn(1, 4, 3, 3)
    label = torch.tensor([[[0, 0, 2], [0, 2, 2], [-1, 2, 0]]])
    means = region_means(features, label, 3)
    assert torch.allclose(means[0, 2], features[0][:, label[0] == 2].mean(1), atol=1e-6)
    assert means[0, 1].tolist() == [0] * 4
