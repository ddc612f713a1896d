"""The two guidance branches as one batch: null rows first, and only from where they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def over_branches(
    x: Tensor, terms: Sequence[T], batch: int, function: Callable[[Tensor, T], Tensor]
) -> Tensor:
    """``function`` of each branch's rows of ``x`` and of its term, joined along the batch axis.

    Args:
        x: (batch, ...) while the branches are still one, else (len(terms) * batch, ...).
        terms: one a branch: (conditional,) or (null, conditional).
        batch: number of samples.

    Returns:
        (len(terms) * batch, ...).
    """
    if len(terms) == 1:
        return function(x, terms[0])
    parts = [x] * len(terms) if x.shape[0] == batch else x.chunk(len(terms))
    return torch.cat([function(p, t) for p, t in zip(parts, terms, strict=True)])


def widen(x: Tensor, rows: int) -> Tensor:
    """``x`` (1, rows or a divisor of rows along the batch axis) as ``rows`` rows."""
    if x.shape[0] == rows:
        return x
    if x.shape[0] == 1:
        return x.expand(rows, *x.shape[1:])
    return x.repeat(rows // x.shape[0], *[1] * (x.ndim - 1))


def guided(eps: Tensor, scale: float) -> Tensor:
    """null + scale * (conditional - null): (2B, D, h, w), null rows first -> (B, D, h, w)."""
    null, conditional = eps.chunk(2)
    return torch.lerp(null, conditional, scale)
