"""Whole networks in their plain form, on the weights and batch of a method: what
``python -m sisbench.perf methods --plain tests`` times beside it.

The official implementations are no part of this repository; the plain forms do the same operations,
layer by layer as the papers write them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import plain_ca2sis
import plain_maskgan
import plain_scam
import plain_spade
from torch import Tensor

from sisbench.core.batch import Batch
from sisbench.core.noise import ZeroNoise
from sisbench.methods.layers.labels import one_hot

Official = Mapping[str, Mapping[str, Tensor]]
"""Official state dicts by module."""


def spade(method: Any, official: Official, batch: Batch) -> Tensor:
    """SPADE with its encoder, which has no plain form of its own."""
    seg = one_hot(method.encode_layout(batch).label, method.num_classes)
    mu = method.encode_style(batch).codes
    return plain_spade.generate(official["netG"], seg, method.net.netG.start, z=mu)


def sean(method: Any, official: Official, batch: Batch) -> Tensor:
    """SEAN with its style encoder, which has no plain form of its own."""
    seg = one_hot(method.encode_layout(batch).label, method.num_classes)
    codes = method.encode_style(batch).codes
    return plain_spade.generate(official["netG"], seg, method.net.netG.start, codes)


def scam(method: Any, _: Official, batch: Batch) -> Tensor:
    """SCAM: dense masked attention."""
    tokens = plain_scam.encode(method.net.encoder, method.config, batch.image, batch.label)
    return plain_scam.generate(
        method.net.generator, method.config, batch.label, tokens, ZeroNoise()
    )


def maskgan(method: Any, official: Official, batch: Batch) -> Tensor:
    """MaskGAN with its style network."""
    o, weights, seg = method.options, official["netG"], one_hot(batch.label, method.num_classes)
    code = plain_maskgan.style(weights, batch.image, seg)
    return plain_maskgan.draw(weights, seg, code, o.n_downsample_global, o.n_blocks_global)


def ca2sis(method: Any, _: Official, batch: Batch) -> Tensor:
    """CA2-SIS with its style encoder, which has no plain form of its own."""
    layout, codes = method.encode_layout(batch), method.encode_style(batch).codes
    return plain_ca2sis.generate(method.net, layout.embedding, codes)


FORMS: dict[str, Callable[[Any, Official, Batch], Tensor]] = {
    "spade": spade,
    "sean": sean,
    "scam": scam,
    "maskgan": maskgan,
    "ca2sis": ca2sis,
}
"""By the method's name."""
