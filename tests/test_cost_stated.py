"""The count of operations of whole networks, layer by layer, against what is stated of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import plain_ca2sis
import plain_maskgan
import plain_spade
import pytest
import torch
from torch import Tensor

from sisbench import methods
from sisbench.core.cost import operations

Weights = dict[str, Tensor]


def network(name: str, space: str, **options: Any) -> tuple[Any, Weights]:
    """A method at its official size and the official weights of its generator, without values."""
    method: Any = methods.create(name, space, **options)
    shapes = method.key_maps()["netG"].official_shapes()
    return method, {k: torch.empty(s) for k, s in shapes.items()}


def spade(space: str, channels: int, **options: Any) -> Callable[[], Tensor]:
    method, weights = network("spade", space, **options)
    seg = torch.empty(1, channels, 256, 256)
    z = torch.empty(1, 256) if method.options.use_vae else None
    return lambda: plain_spade.generate(weights, seg, method.net.netG.start, z=z)


def sean() -> Callable[[], Tensor]:
    """Without the style encoder."""
    method, weights = network("sean", "celebamask_hq")
    seg, codes = torch.empty(1, 19, 256, 256), torch.empty(1, 19, 512)
    return lambda: plain_spade.generate(weights, seg, method.net.netG.start, codes)


def ca2sis() -> Callable[[], Tensor]:
    """Without style encoder and mask embedder."""
    method, _ = network("ca2sis", "celebamask_hq")
    net = method.net
    embedding = torch.empty(1, net.embedded, net.base[0] * net.base[1])
    return lambda: plain_ca2sis.generate(net, embedding, torch.empty(1, 19, 1280))


def maskgan(side: int) -> Callable[[], Tensor]:
    method, weights = network("maskgan", "celebamask_hq", size=[side, side])
    o, seg, image = method.options, torch.empty(1, 19, side, side), torch.empty(1, 3, side, side)

    def draw() -> Tensor:
        code = plain_maskgan.style(weights, image, seg)
        return plain_maskgan.draw(weights, seg, code, o.n_downsample_global, o.n_blocks_global)

    return draw


STATED: dict[str, tuple[Callable[[], Callable[[], Tensor]], float]] = {
    "SPADE, 19 classes": (lambda: spade("celebamask_hq", 19), 141),
    "SPADE, 151 classes": (lambda: spade("ade20k", 151), 181),
    "SEAN, without its encoder": (sean, 342 - 21),
    "CA2-SIS, decoder": (ca2sis, 124.4),
    "MaskGAN at 256": (lambda: maskgan(256), 35.4),
    "MaskGAN at 512": (lambda: maskgan(512), 141.7),
}
"""GMAC of a forward pass of the official networks at 256 x 256, batch 1, as the methods'
specifications state them (counted on the official code), in as many digits."""


@pytest.mark.parametrize("case", STATED)
def test_operations_are_those_that_are_stated(case: str) -> None:
    build, stated = STATED[case]
    with torch.device("meta"):  # shapes alone: nothing is computed
        call = build()
        counted = operations(call) / 2e9
    digit = 0.1 if stated % 1 else 1.0
    assert abs(counted - stated) < digit, counted
