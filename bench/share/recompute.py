"""A score from the rows that a bundle holds: what verify compares the stated one with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from sisbench import metrics
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.log import CEILING, CellEntry, ItemRow, ScoreRecord
from sisbench.metrics.base import Context, Metric, Rows, Score
from sisbench.metrics.reference import FrechetReference
from sisbench.protocol import Protocol
from sisbench.score.given import REAL_ROWS, ROWS
from sisbench.score.scores import conventional, filled
from sisbench.score.sources import in_groups
from sisbench.share.archive import Archive, read_npz

_NOT_COLUMNS = ("ids", "left_out_ids", "left_out_reasons")


@dataclass(frozen=True)
class Again:
    """A recomputed score.

    Attributes:
        record: under the protocol's convention, as scoring would have stored it.
        score: what the metric said; ids: items of its ``values``.
    """

    record: ScoreRecord
    score: Score
    ids: tuple[str, ...]


@lru_cache(maxsize=256)
def metric_class(name: str) -> type[Metric]:
    """The class of a metric that this sisbench knows; a bundle never names code to run.

    Raises:
        UserError: unknown.
    """
    base = name.split("@")[0]
    if base not in metrics.registry.names():
        raise UserError(f"no metric is called '{base}' here", "install the package that has it")
    found: type[Metric] = metrics.registry.get(base)
    return found


def recomputed(
    archive: Archive,
    score: ScoreRecord,
    cell: CellEntry | None,
    items: list[ItemRow],
    protocol: Protocol,
    space: LabelSpace,
) -> Again:
    """``score`` anew from its rows.

    Args:
        cell, items: of the score's cell; None and [] for one of the photographs.

    Raises:
        Unavailable: the rows that came along do not hold what this metric needs.
        UserError: rows that are missing, damaged or of other items.
    """
    cls = metric_class(score.metric)
    real = _real(archive, score.extra)
    if CEILING in score.marks:
        if real is None:
            raise UserError("its rows did not come along")
        own, real = dict(real), None
        ids: tuple[str, ...] = ()
    else:
        assert cell is not None  # only scores of the photographs have none
        own, ids = _rows(archive, score, cell, items, cls)
    metric = cls.from_context(Context(space=space))
    try:
        found = conventional(metric, metric.reduce(own, real, seed=protocol.seed), own, protocol)
    except UserError as error:
        statistics = real is not None and "factor" in real
        kind = Unavailable if statistics and isinstance(error, Unavailable) else UserError
        raise kind(error.message, error.hint) from error
    except Exception as error:  # rows of anybody's: any shape, any type
        raise UserError(f"its rows cannot be reduced: {type(error).__name__}: {error}") from error
    base = ScoreRecord(
        method=score.method,
        title=score.title,
        dataset=score.dataset,
        task=score.task,
        metric=score.metric,
        protocol=score.protocol,
        value=None,
    )
    return Again(filled(base, found, {}), found, ids)


def _rows(
    archive: Archive,
    score: ScoreRecord,
    cell: CellEntry,
    items: list[ItemRow],
    cls: type[Metric],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """(columns, item ids) of a cell's score, as scoring joins them."""
    made = in_groups([row for row in items if not row.error])
    columns: dict[str, np.ndarray] = {}
    if cls.maker or cls.layout_maker:
        named = score.extra.get(ROWS)
        if not isinstance(named, str) or not named:
            raise UserError("its rows did not come along")
        path = f"{cell.folder}/rows/{named}"
        stored = read_npz(archive.read(path), path)
        left_out = set(stored.get("left_out_ids", np.array([], str)).tolist())
        made = [row for row in made if row.id not in left_out]
        ids = stored.get("ids", np.array([], str)).tolist()
        if ids != [row.id for row in made]:
            raise UserError(f"{path} holds rows of other items than the cell's")
        columns = {k: v for k, v in stored.items() if k not in _NOT_COLUMNS}
        if any(len(v) != len(ids) for v in columns.values()):
            raise UserError(f"{path} holds columns of another length than its items")
    for name in cls.columns:
        columns[name] = np.array([getattr(row, name, None) for row in made], np.float64)
    columns["target_id"] = np.array([row.target for row in made])
    return columns, tuple(row.id for row in made)


def _real(archive: Archive, extra: Mapping[str, Any]) -> Rows | None:
    """Rows of the real set: features, or the statistics that stand for them."""
    named = extra.get(REAL_ROWS)
    if not isinstance(named, str) or not named:
        return None
    stored = read_npz(archive.read(named), named)
    if "mu" in stored and "sigma" in stored:
        if "features" in stored:
            return {"features": stored["features"]}
        n = stored.get("n", np.array(0))
        return FrechetReference.of_moments(stored["mu"], stored["sigma"], int(n)).rows()
    return {k: v for k, v in stored.items() if k not in _NOT_COLUMNS}
