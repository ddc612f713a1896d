"""Building networks without drawing random values that a file overwrites at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sisbench.core.errors import UserError

_CONSTANT = ("zeros_", "ones_", "constant_", "eye_", "dirac_")
_IN_PLACE = (Tensor.uniform_, Tensor.normal_)
_NEW = (torch.rand, torch.randn)


class UnsetError(UserError):
    """Tensors of a network that nothing filled."""


class UnsetParameters(TorchFunctionMode):
    """Within it, whatever would be drawn at random stays unset: its first value is NaN, the others
    are what the memory held. What is computed (tables, constants) is computed as ever.

    ``require_set`` must follow once the weights are in: it finds what nothing filled.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        name = getattr(func, "__name__", "")
        fills = getattr(func, "__module__", "") == "torch.nn.init" and name.endswith("_")
        if func in _IN_PLACE or (fills and name not in _CONSTANT):
            return _unset(args[0] if args else given["tensor"])
        if func in _NEW:
            return _unset(torch.empty(*args, **given))
        return func(*args, **given)


def _unset(tensor: Tensor) -> Tensor:
    if tensor.numel() and not tensor.is_meta:
        with torch.no_grad():
            tensor[(0,) * tensor.ndim] = math.nan
    return tensor


def require_set(network: nn.Module, where: str) -> None:
    """Check that weights were loaded into everything that was left unset.

    Raises:
        UnsetError: names the tensors that no key of the file filled.
    """
    state = network.state_dict(keep_vars=True)
    unset = [
        k
        for k, v in state.items()
        if v.is_floating_point() and v.numel() and bool(v[(0,) * v.ndim].isnan())
    ]
    if unset:
        raise UnsetError(
            f"{where}: no values for {len(unset)} tensors of the network: {', '.join(unset[:6])}",
            "no key of the file fills them, or the file holds NaN (training that diverged)",
        )
