"""From a metric's score to a stored one: the protocol's convention, and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from sisbench.core.log import CellEntry, MetricFacts, ScoreRecord
from sisbench.core.tasks import TASKS
from sisbench.metrics.base import Metric, RowMaker, Rows, Score
from sisbench.protocol import Protocol


def describe(name: str, cls: Any) -> MetricFacts:
    """What a report needs to know of a metric, taken from its class."""
    parser = name.partition("@")[2]
    return MetricFacts(
        title=(cls.title or name) + (f" ({parser})" if parser and cls.title else ""),
        direction=cls.direction,
        bounds=tuple(cls.bounds),
        unit=cls.unit,
        scale=cls.scale,
        digits=cls.digits,
    )


def conventional(metric: Metric, score: Score, rows: Rows, protocol: Protocol) -> Score:
    """A score under the convention that the protocol names: its value, and the values an item that
    paired tests take. Its standard error is then not known; a convention that is not defined for
    these rows is NaN."""
    cls = type(metric)
    wanted = getattr(protocol, cls.convention_field) if cls.convention_field else ""
    if not wanted or wanted == cls.convention:
        return score
    value, values = score.extra.get(wanted, math.nan), metric.values_under(wanted, rows)
    if value == score.value:
        return replace(score, values=values)
    return replace(score, value=value, values=values, se=None, ci=None)


def filled(base: ScoreRecord, score: Score, extra: Mapping[str, Any]) -> ScoreRecord:
    """The record of a score."""
    value, se, ci = score.value, score.se, score.ci
    if not math.isfinite(value):
        return ScoreRecord(**asdict(base) | {"value": None, "reason": f"the score is {value}"})
    return ScoreRecord(
        **asdict(base)
        | {
            "value": float(value),
            "n": score.n,
            "n_real": score.n_real,
            "se": None if se is None or not math.isfinite(se) else float(se),
            "ci": None if ci is None else (float(ci[0]), float(ci[1])),
            "per_class": {k: v if math.isfinite(v) else None for k, v in score.per_class.items()},
            "extra": plain(dict(score.extra) | dict(extra)),
            "marks": (*base.marks, *score.marks),
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


def resized_basis(basis: Mapping[str, str], resized: str) -> dict[str, str]:
    """A basis with what was done to images made elsewhere before anything looked at them."""
    if not resized:
        return dict(basis)
    return dict(basis) | {"resize": "; ".join(filter(None, (resized, basis.get("resize"))))}


def label_map_of(entry: CellEntry) -> str:
    """Which label map a parser's reading of a cell's images is compared with; "" for the target's
    own."""
    if entry.editor is not None:
        return "the layout editor's"
    if TASKS[entry.task.name].edits == "shape":
        return "swapped in pixel space, not the network's own segmentation"
    if entry.generation.get("subject_layout") == "reference":
        return "the reference's"
    return ""


def basis_of(
    maker: RowMaker, cls: type[Metric], protocol: Protocol, size: tuple[int, int]
) -> dict[str, str]:
    """What a score rests on, for captions: extractor with hash, parser, resize, convention."""
    named = getattr(protocol, cls.convention_field) if cls.convention_field else cls.convention
    return dict(maker.basis(size)) | ({"convention": named} if named else {})
