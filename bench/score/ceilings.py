"""Scores of the photographs themselves: what a parser gives them is the most a method can reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sisbench.core.adapter_file import as_user_error
from sisbench.core.errors import UserError
from sisbench.core.log import CEILING, ScoreRecord
from sisbench.core.store import CellView
from sisbench.core.tasks import TASKS
from sisbench.metrics.base import Score
from sisbench.protocol import Protocol
from sisbench.score.columns import Column, Makers, columns_of, maker_key, reason_of
from sisbench.score.given import rows_of
from sisbench.score.real_sets import RealSets
from sisbench.score.scores import basis_of, conventional, filled
from sisbench.score.sources import Photographs

CEILING_LABEL, CEILING_TITLE = "(photographs)", "Real photographs"


def ceilings(
    cells: Sequence[CellView], protocol: Protocol, sets: RealSets, makers: Makers
) -> Iterator[ScoreRecord]:
    """The parser's own score on the real photographs, above each column of a parser's."""
    seen = set()
    for cell in cells:
        if isinstance(sets.opened(cell), UserError):
            continue
        place = cell.entry.place[1:]
        task = TASKS.get(cell.entry.task.name)
        if place in seen or task is None or not task.own_label:
            continue
        seen.add(place)
        photos = sets.photographs(cell.entry.dataset.config)
        for column in columns_of(sets.request, cell.entry.task.name, photos, [], protocol):
            if column.maker is None or not column.maker.uses_parser:
                continue
            found = _ceiling(cell, protocol, column, photos, sets, makers)
            if found is None:
                continue
            score, basis = found
            base = ScoreRecord(
                CEILING_LABEL,
                CEILING_TITLE,
                *place,
                metric=column.name,
                protocol=protocol.id,
                value=None,
                marks=(CEILING,),
            )
            yield filled(base, score, basis)


def _ceiling(
    cell: CellView,
    protocol: Protocol,
    column: Column,
    photos: Photographs,
    sets: RealSets,
    makers: Makers,
) -> tuple[Score, dict[str, str]] | None:
    """Score of the photographs and its basis; None where the cells' scores say why not."""
    assert column.maker is not None  # the caller has asked
    maker = makers.one(column.maker, column.context)
    if isinstance(maker, UserError):
        return None
    rows = sets.rows(cell, "test", maker_key(column.maker, column.context), maker)
    if rows is None or isinstance(rows, UserError):
        return None
    try:
        metric = column.cls.from_context(column.context)
        score = metric.reduce(rows.columns, seed=protocol.seed)
        score = conventional(metric, score, rows.columns, protocol)
    except Exception as error:  # a metric of anybody's
        sets.progress.say(f"{column.name} of the photographs: {reason_of(as_user_error(error))}")
        return None
    basis = basis_of(maker, column.cls, protocol, photos.dataset.size)
    return score, basis | rows_of(None, rows)
