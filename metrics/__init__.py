"""Metrics: row makers (map) and figures (reduce). Importing a metric does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.registry import Registry

if TYPE_CHECKING:
    from metrics.base import Metric, RowMaker

registry = Registry("sisbench.metrics", {})
makers = Registry("sisbench.row_makers", {})


def create(name: str, **options: Any) -> Metric:
    """The metric called ``name``, or ``"./file.py:Class"``.

    Raises:
        UserError: unknown name; the nearest one is named.
    """
    found: Metric = registry.get(name)(**options)
    return found


def create_maker(name: str, **options: Any) -> RowMaker:
    """The row maker called ``name``, as ``"inception"``."""
    found: RowMaker = makers.get(name)(**options)
    return found
