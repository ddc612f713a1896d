"""How the tensors of a file fit a network: the one comparison, its likely cause, and folding."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from sisbench.core.errors import UserError
from sisbench.core.state_dict import plain_state

if TYPE_CHECKING:
    from torch import Tensor, nn

Shape = tuple[int, ...]
State = Mapping[str, "Tensor"]

_SHOWN = 6
_COUNTER = re.compile(r"(^|\.)num_batches_tracked$")  # absent in files from before PyTorch 0.4.1


def require_fit(
    found: State,
    expected: Mapping[str, Shape],
    where: str,
    *,
    may_lack: Callable[[str], bool] = lambda key: False,
    may_hold: Callable[[str], bool] = lambda key: False,
    whole_numbers: Collection[str] = (),
) -> None:
    """Compare the tensors of a file with the ones that are expected.

    Args:
        found: tensors of the file.
        expected: shape of every key.
        where: file or module, as the error names it.
        may_lack, may_hold: keys that may be missing, or there beyond the expected ones; those of
            batch norm's counters (``num_batches_tracked``) always may.
        whole_numbers: expected keys that may hold integers.

    Raises:
        UserError: lists missing, unexpected, mis-shaped and mistyped keys with the likely cause.
    """
    missing = [k for k in expected if k not in found and not _COUNTER.search(k) and not may_lack(k)]
    extra = [k for k in found if k not in expected and not _COUNTER.search(k) and not may_hold(k)]
    shared = [k for k in found if k in expected]
    shaped = [
        f"{k}: expected {tuple(expected[k])}, file has {tuple(found[k].shape)}"
        for k in shared
        if tuple(found[k].shape) != tuple(expected[k])
    ]
    typed = [
        f"{k}: expected floats, file has {found[k].dtype}"
        for k in shared
        if not (found[k].is_floating_point() or _COUNTER.search(k) or k in whole_numbers)
    ]
    groups = {"missing": missing, "unexpected": extra, "mis-shaped": shaped, "mistyped": typed}
    if any(groups.values()):
        report = "\n".join(_listing(title, rows) for title, rows in groups.items() if rows)
        raise UserError(f"{where} does not fit:\n{report}", likely_cause(found, expected))


def _listing(title: str, rows: list[str]) -> str:
    shown = "\n".join(f"    {row}" for row in rows[:_SHOWN])
    rest = f"\n    ... and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"  {title} ({len(rows)}):\n{shown}{rest}"


def likely_cause(found: State, expected: Mapping[str, Shape]) -> str:
    """One sentence on why a state dict does not fit, from the pattern of the misfit."""
    if not found.keys() & expected.keys():
        return _of_another_network(found, expected)
    wrong = {
        k: (tuple(v.shape), tuple(expected[k]))
        for k, v in found.items()
        if k in expected and tuple(v.shape) != tuple(expected[k])
    }
    if not wrong:
        return "the file is of another version of the network, or a part of it: check the options"
    if all(len(a) == len(b) and a[1:] == b[1:] for a, b in wrong.values()):
        return "only numbers of outputs differ: trained for another number of classes"
    key, (shape, want) = next(iter(wrong.items()))
    if len(shape) != len(want):
        return (
            f"{key} has {len(shape)} axes where {len(want)} are expected: another variant of "
            "the network; check the options (as use_vae)"
        )
    axes = [i for i, (a, b) in enumerate(zip(shape, want, strict=True)) if a != b]
    if axes == [1] and len(shape) == 4:
        return (
            f"{key} takes {shape[1]} channels where {want[1]} are expected: "
            "trained for another number of classes (label space, don't-care, instances)"
        )
    return "the file was trained at another width, depth or size: check the options (ngf, ...)"


def _of_another_network(found: State, expected: Mapping[str, Shape]) -> str:
    for prefix in sorted({k.split(".", 1)[0] + "." for k in found}):
        if any(k.removeprefix(prefix) in expected for k in found):
            return f"every key carries the prefix '{prefix}': give the state dict without it"
    if any(k.startswith("discriminator") for k in found):
        return "this is a discriminator; the generator's file is needed"
    return "no key matches: this is the file of another network or method"


def fill(
    network: nn.Module,
    state: State,
    where: str,
    *,
    unused: Mapping[str, Shape] | None = None,
    dropped: str = r"(?!)",
) -> None:
    """Fill a network, which may have been built on the meta device, with copies of a file's
    tensors.

    Args:
        network: its state dict has the file's keys, those of ``unused`` and ``dropped`` apart.
        state: tensors by key; floats of another width become float32.
        where: file or module, as the error names it.
        unused: keys that the file may hold and inference does not need, with their shapes.
        dropped: regular expression of further keys that may be there.

    Raises:
        UserError: see ``require_fit``.
    """
    import torch

    spare = unused or {}
    own = network.state_dict()
    state = {k: v for k, v in plain_state(state).items() if not re.search(dropped, k)}
    expected = {k: tuple(v.shape) for k, v in own.items()} | dict(spare)
    whole = {k for k, v in own.items() if not v.is_floating_point()}
    require_fit(state, expected, where, may_lack=lambda k: k in spare, whole_numbers=whole)
    network.load_state_dict(
        {
            k: state[k].detach().to(v.dtype, copy=True)
            if k in state
            else torch.zeros(v.shape, dtype=v.dtype)  # a counter: nothing else may be missing
            for k, v in own.items()
        },
        assign=True,
    )


def fold_batch_norms(network: nn.Module) -> None:
    """Fold every batch norm in eval mode into the convolution registered just before it, in place.

    The networks register the two in the order in which they are applied. Computed in float64, so
    the result differs from the unfolded one by float32 rounding only.

    Raises:
        ValueError: a batch norm without running statistics.
    """
    from torch import nn

    for parent in list(network.modules()):
        for (_, conv), (name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                _fold(conv, norm)
                setattr(parent, name, nn.Identity())


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    import torch
    from torch import nn

    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    with torch.no_grad():
        scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        bias = 0.0 if conv.bias is None else conv.bias.double()
        shift = norm.bias.double() + (bias - norm.running_mean.double()) * scale
        weight = conv.weight.double() * scale[:, None, None, None]
        dtype, learns = conv.weight.dtype, conv.weight.requires_grad
    conv.weight = nn.Parameter(weight.to(dtype), requires_grad=learns)
    conv.bias = nn.Parameter(shift.to(dtype), requires_grad=learns)
