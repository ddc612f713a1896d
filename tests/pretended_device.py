"""A pretended accelerator: tensors that lie "there" and compute on the CPU, with a real device's
rule that operands lie in one place, so that code which mixes devices fails here as it would on a
GPU. Values and data-dependent control flow are real."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

_MIXING = frozenset({"index", "_unsafe_index", "index_put", "index_put_", "copy_"})
"""Operators that a GPU lets take a tensor of the CPU: indices, and the source of a copy."""


@cache
def device() -> torch.device:
    """The pretended device, registered on first use."""
    backend = pytest.importorskip("torch.utils.backend_registration")
    register = getattr(backend, "_setup_privateuseone_for_python_backend", None)
    if register is None:
        pytest.skip("this torch cannot register a device from Python")
    register("pretended")
    return torch.device("pretended", 0)


class There(torch.Tensor):
    """A tensor on the pretended device; its values are ``here``, on the CPU."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        found: There = torch.Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            layout=here.layout,
            device=device(),
        )
        found.here = here
        return found

    def __repr__(self, **_: Any) -> str:
        return f"There({self.here!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Sends what makes a tensor from nothing, as ``arange(device=...)``, the same way."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def pretended() -> Iterator[torch.device]:
    """Within it, the yielded device is usable wherever a device is."""
    where = device()
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device) copies as ``to`` does
    try:
        with _Factories():
            yield where
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


@torch.inference_mode(False)
@torch.no_grad()
def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    away = [x for x in tensors if isinstance(x, There)]
    if name == "_has_compatible_shallow_copy_type":  # what Module.to asks
        return len(away) != 1
    if away and name not in _MIXING and any(t.dim() and not isinstance(t, There) for t in tensors):
        shapes = [tuple(t.shape) for t in tensors]
        raise RuntimeError(f"{func}: operands on the device and on the CPU, shapes {shapes}")
    result_away = isinstance(args[0], There) if name == "copy_" else bool(away)
    args, kwargs = list(args), dict(kwargs)
    for place, argument in enumerate(func._schema.arguments):
        if "Device" not in str(argument.type):
            continue
        holder: Any = args if place < len(args) else kwargs
        key: Any = place if place < len(args) else argument.name
        given = args[place] if place < len(args) else kwargs.get(argument.name)
        if given is not None:
            result_away = torch.device(given).type == device().type
            holder[key] = torch.device("cpu")
    result = func(*tree_map_only(There, _here, args), **tree_map_only(There, _here, kwargs))
    if not result_away:
        return result
    known = {id(x.here): x for x in away}  # an operator in place returns what it was given

    def there(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or isinstance(x, There):
            return x
        return known[id(x)] if id(x) in known else There(x)

    return tree_map(there, result)


def _here(x: There) -> torch.Tensor:
    return x.here
