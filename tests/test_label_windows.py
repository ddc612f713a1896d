"""The distinct windows of label maps, and convolutions that compute each of them once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sisbench.methods.layers.conv import Conv2d
from sisbench.methods.layers.label_maps import Level, _distinct
from sisbench.methods.layers.labels import instance_edges
from sisbench.methods.layers.spade import LabelConv, MaskBranch

CLASSES = 5


def maps(cell: int = 8, size: int = 32) -> Tensor:
    """Two maps of blocks, a hole in each, and one that both share."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randint(-1, CLASSES, (2, size // cell, size // cell), generator=generator)
    label = coarse.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    label[1, :12] = label[0, :12]
    return label


def seen(planes: Tensor, reach: int) -> Tensor:
    """(B, N, h, w) -> (B*h*w, numbers): all that lies within ``reach`` of a pixel, -9 outside."""
    padded = F.pad(planes.double(), (reach,) * 4, value=-9)
    side = 2 * reach + 1
    windows = padded.unfold(2, side, 1).unfold(3, side, 1)  # (B, N, h, w, side, side)
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("convs", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("edged", [False, True])
def test_pixels_share_a_window_just_where_they_see_the_same(
    edged: bool, kernel: int, convs: int, per_sample: bool
) -> None:
    label = maps(16)
    edges = instance_edges(label) if edged else None
    with torch.inference_mode():
        level = Level(label, CLASSES, kernel, edges, convs=convs, per_sample=per_sample)
    assert level.windows is not None
    planes = [label[:, None]]
    if edges is not None:
        planes.append(edges)
    if per_sample:
        planes.append(torch.arange(2)[:, None, None, None].expand(2, 1, 32, 32))
    found = seen(torch.cat([p.double() for p in planes], 1), convs * (kernel // 2))
    _, wanted = torch.unique(found, dim=0, return_inverse=True)
    same = level.windows[:, None] == level.windows
    assert torch.equal(same, wanted[:, None] == wanted)
    assert len(level.centre_index) == int(level.windows.max()) + 1


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("edged", [False, True])
def test_a_mask_branch_is_two_convolutions(edged: bool, kernel: int) -> None:
    label = maps(16)
    edges = instance_edges(label) if edged else None
    torch.manual_seed(0)
    branch = MaskBranch(6, CLASSES + edged, 7, kernel)
    torch.nn.init.normal_(branch.shared.bias)  # what lies outside of the map is no hole
    with torch.inference_mode():
        level = Level(label, CLASSES, kernel, edges)
        assert level.windows is not None
        weight = branch.shared.weight.permute(2, 0, 1).unflatten(2, (kernel, kernel))
        hidden = F.conv2d(level.planes(), weight, branch.shared.bias, padding=kernel // 2).relu()
        wanted = F.conv2d(
            hidden, branch.modulation.weight, branch.modulation.bias, padding=kernel // 2
        )
        torch.testing.assert_close(level.spread(branch(level)), wanted, atol=2e-6, rtol=0)


def test_one_convolution_takes_the_centres() -> None:
    label = maps()
    conv = LabelConv(CLASSES, 4, 3)
    with torch.inference_mode():
        level = Level(label, CLASSES, 3, None, convs=1)
        assert level.windows is not None
        weight = conv.weight.permute(2, 0, 1).unflatten(2, (3, 3))
        wanted = F.conv2d(level.planes(), weight, conv.bias, padding=1)
        torch.testing.assert_close(level.spread(conv(level)), wanted, atol=1e-6, rtol=0)


def test_numbers_of_windows_never_collide() -> None:
    """More combinations than 64 bits hold: they are numbered in between."""
    planes = torch.randint(0, 100_000, (9, 500), generator=torch.Generator().manual_seed(0))
    planes[:, 250:] = planes[:, :250]
    numbers, count = _distinct([(p, 100_000) for p in planes])
    assert count == 250
    assert torch.equal(numbers[:250], numbers[250:])
    assert numbers[:250].unique().numel() == 250


@pytest.mark.parametrize(("batch", "side"), [(1, 8), (4, 8), (1, 16), (2, 16)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_convolutions_over_few_pixels_are_convolutions(batch: int, side: int, kernel: int) -> None:
    torch.manual_seed(0)
    conv = Conv2d(5, 7, kernel)
    plain = torch.nn.Conv2d(5, 7, kernel, padding=kernel // 2)
    plain.load_state_dict(conv.state_dict())
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    for form in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(batch, 5, side, side).contiguous(memory_format=form)
        with torch.inference_mode():
            torch.testing.assert_close(conv(x), plain(x), atol=2e-6, rtol=0)
    x.requires_grad_()
    conv(x).square().sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is not None
