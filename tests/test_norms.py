"""Normalisation layers against float64: channels-last maps keep the digits of the plain form."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.methods.layers import norms
from sisbench.methods.layers.norms import GroupNorm

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (2, 64, 24, 40)
Layer = Callable[[Tensor], Tensor]


def var_mean(x: Tensor) -> Tensor:
    """As SCAM's generator normalises."""
    variance, mean = torch.var_mean(x.permute(0, 2, 3, 1), dim=(1, 2), correction=0)
    return (x - mean[..., None, None]) * torch.rsqrt(variance + 1e-5)[..., None, None]


def layer_norm(x: Tensor) -> Tensor:
    """As transformers normalise tokens that are a view of a map."""
    return F.layer_norm(x.flatten(2).transpose(1, 2), (x.shape[1],))


def affine(channels: int) -> GroupNorm:
    layer = GroupNorm(4, channels)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(2))
    return layer


@pytest.mark.parametrize(
    ("layer", "plain"),
    [
        (GroupNorm(32, 64), nn.GroupNorm.forward),
        (GroupNorm(32, 64, affine=False), nn.GroupNorm.forward),
        (affine(64), nn.GroupNorm.forward),
        (F.instance_norm, None),
        (nn.InstanceNorm2d(64), None),
        (layer_norm, None),
        (var_mean, None),
    ],
    ids=["group", "group plain", "group affine", "instance", "instance layer", "layer", "var_mean"],
)
@pytest.mark.parametrize("mean", [0, 3, 30])
def test_channels_last_is_as_exact_as_the_plain_form(
    layer: Layer, plain: Callable[[Layer, Tensor], Tensor] | None, mean: float
) -> None:
    generator = torch.Generator().manual_seed(mean)
    x = torch.randn(SHAPE, generator=generator) * 0.01 + mean
    last = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        double = layer.double() if isinstance(layer, nn.Module) else layer
        exact = plain(double, x.double()) if plain else double(x.double())
        if isinstance(layer, nn.Module):
            layer.float()
        contiguous = plain(layer, x) if plain else layer(x)
        error = (layer(last).double() - exact).abs().max()
        allowed = 2 * (contiguous.double() - exact).abs().max()
    assert error <= allowed


def test_group_norm_keeps_gradients_and_memory_format() -> None:
    layer, reference = affine(64), nn.GroupNorm(4, 64)
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    last = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    x = x.clone().requires_grad_()
    y = layer(last)
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.square().sum().backward()
    reference(x).square().sum().backward()
    torch.testing.assert_close(last.grad, x.grad, atol=1e-4, rtol=1e-4)
    for mine, theirs in zip(layer.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("block", [1, 1000, 1 << 16])
def test_blocks_are_the_whole_map(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "_BLOCK", block)
    x = torch.randn(3, 64, 5, 7, generator=torch.Generator().manual_seed(0)) + 2
    last = x.contiguous(memory_format=torch.channels_last)
    part = torch.cat([last, last], 1)[:, 64:]  # a view that is neither contiguous nor dense
    for layer in (affine(64), GroupNorm(32, 64, affine=False)):
        wanted = layer(last).detach()
        with torch.inference_mode():
            for view in (last, part):
                torch.testing.assert_close(layer(view), wanted, atol=2e-6, rtol=0)
            assert layer(last).is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(layer(last)[1:2], layer(last[1:2]))


def test_every_group_norm_of_methods_and_parsers_is_the_exact_one() -> None:
    found = [
        str(path.relative_to(ROOT))
        for folder in ("methods", "segmenters")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"(nn\.GroupNorm|F\.group_norm)\(", path.read_text())
    ]
    assert not [f for f in found if f != "methods/layers/norms.py"]
