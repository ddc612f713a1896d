"""Initial weights of the official SPADE code base."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sisbench.methods.key_map import fill_known

if TYPE_CHECKING:
    from sisbench.methods.loadable import Loadable

GAIN = 0.02


@torch.no_grad()
def xavier_method(method: Loadable, gain: float = GAIN, kept: str = "$^") -> None:
    """Xavier-normal weights and zero biases for every convolution and linear layer of
    ``method.net``, drawn in the official shapes (our layers hold some of them in other ones).
    Tensors of one dimension that are no bias of such a layer keep their values, as do those whose
    official key the pattern ``kept`` is found in.
    """
    for keys in method.key_maps().values():
        shapes = keys.official_shapes()
        state: dict[str, Tensor] = {}
        for key, shape in shapes.items():
            if re.search(kept, key):
                continue
            stem = key.removesuffix("_orig").removesuffix("weight")
            if stem == key or len(shape) not in (2, 4):
                continue
            weight = nn.init.xavier_normal_(torch.empty(shape), gain)
            state[f"{stem}weight"] = weight
            if f"{stem}bias" in shapes and not re.search(kept, f"{stem}bias"):
                state[f"{stem}bias"] = torch.zeros(shapes[f"{stem}bias"])
        fill_known(keys, state)


@torch.no_grad()
def xavier_modules(network: nn.Module, gain: float = GAIN, biases: bool = True) -> None:
    """The same for a network in its official form; without ``biases`` these keep their values."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
            original = getattr(module, "parametrizations", None)
            weight = module.weight if original is None else original.weight.original
            nn.init.xavier_normal_(weight, gain)
            if biases and module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def normal_method(method: Loadable, std: float, kept: str = "$^") -> None:
    """Normal weights for every convolution of ``method.net``, drawn in the official shapes; biases
    keep their values, as do the official keys that the pattern ``kept`` is found in."""
    for keys in method.key_maps().values():
        shapes = {k: s for k, s in keys.official_shapes().items() if len(s) == 4}
        drawn = {k: std * torch.randn(s) for k, s in shapes.items() if not re.search(kept, k)}
        fill_known(keys, drawn)


@torch.no_grad()
def normal_modules(network: nn.Module, std: float) -> None:
    """The same for a network in its official form, but for its transposed convolutions."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=std)
