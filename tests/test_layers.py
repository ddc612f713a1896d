"""Label-map helpers against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sisbench.methods.layers.labels import instance_edges, one_hot, region_means, resize_labels


@pytest.mark.parametrize("sizes", [(256, 8), (256, 94), (170, 158), (96, 74), (8, 256), (5, 7)])
def test_labels_follow_torchs_nearest_to_the_pixel(sizes: tuple[int, int]) -> None:
    source, target = sizes
    label = torch.randint(0, 19, (2, source, source + 3))
    wanted = F.interpolate(label[:, None].float(), size=(target, target + 1), mode="nearest")
    assert torch.equal(resize_labels(label, (target, target + 1)), wanted[:, 0].long())


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
