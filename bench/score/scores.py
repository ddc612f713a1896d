"""From a reduced figure to a stored score: the protocol's convention, and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sisbench.core.store import Score
from sisbench.metrics.base import Figure, Metric, RowMaker
from sisbench.protocol import Protocol


def filled(base: Score, figure: Figure, extra: Mapping[str, Any], protocol: Protocol) -> Score:
    """A figure as a score, under the convention that the protocol names."""
    wanted = {"miou": protocol.miou, "accuracy": protocol.accuracy}.get(base.metric.split("@")[0])
    value, se, ci = figure.value, figure.se, figure.ci
    if wanted and wanted in figure.extra and figure.extra[wanted] != value:
        value, se, ci = figure.extra[wanted], None, None
    if not math.isfinite(value):
        return Score(**asdict(base) | {"value": None, "reason": f"the figure is {value}"})
    return Score(
        **asdict(base)
        | {
            "value": float(value),
            "n": figure.n,
            "n_real": figure.n_real,
            "se": None if se is None or not math.isfinite(se) else float(se),
            "ci": None if ci is None else (float(ci[0]), float(ci[1])),
            "per_class": {k: v if math.isfinite(v) else None for k, v in figure.per_class.items()},
            "extra": plain(dict(figure.extra) | dict(extra)),
            "marks": (*base.marks, *figure.marks),
        }
    )


def plain(value: Any) -> Any:
    """JSON-able: NumPy scalars and arrays become Python's, non-finite numbers None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def basis_of(
    maker: RowMaker, cls: type[Metric], protocol: Protocol, size: tuple[int, int]
) -> dict[str, str]:
    """What a figure rests on, for captions: extractor with hash, parser, resize, convention."""
    basis: dict[str, str] = {}
    sha = str(getattr(maker, "sha256", ""))
    parser = getattr(maker, "parser", None)
    if maker.name == "layout":
        basis["convention"] = protocol.accuracy if cls.name == "accuracy" else protocol.miou
    elif parser is not None:
        basis["parser"] = f"{parser.name} {parser.fingerprint()[:12]}"
        basis["convention"] = protocol.accuracy if cls.name == "accuracy" else protocol.miou
        basis["resize"] = "label maps by PIL's nearest rule"
        basis["compare_at"] = "x".join(map(str, parser.compare_size(size)))
    elif sha:
        parts = (maker.name, f"sha256 {sha[:12]}", getattr(maker, "preprocess", ""))
        basis["extractor"] = " ".join(
            (*(p for p in parts if p), getattr(maker, "dtype", "float32"))
        )
    elif maker.name == "ssim":
        basis["convention"] = protocol.ssim
    return basis
