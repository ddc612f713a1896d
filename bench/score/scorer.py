"""Scoring a run: its cells' rows, made or read again, and their reduction to scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sisbench.core.adapter_file import as_user_error
from sisbench.core.errors import UserError
from sisbench.core.log import SEEDED, ItemRow, ScoreRecord
from sisbench.core.progress import Progress
from sisbench.core.store import CellView, RunStore, write_values
from sisbench.metrics.base import Metric, RowMaker, Score
from sisbench.protocol import Protocol
from sisbench.score.ceilings import ceilings
from sisbench.score.columns import (
    Column,
    Makers,
    Request,
    closed_columns,
    columns_of,
    reason_of,
)
from sisbench.score.given import rows_of
from sisbench.score.match import cells_under
from sisbench.score.real_sets import NAMED, RealSets
from sisbench.score.rows import Mapped, map_rows
from sisbench.score.scores import (
    basis_of,
    conventional,
    filled,
    label_map_of,
    resized_basis,
)
from sisbench.score.sources import cell_source, in_groups, replaced


class Scorer:
    """Scores a run; makers and decoded photographs are shared by all of its cells."""

    def __init__(self, run: RunStore, request: Request, progress: Progress) -> None:
        self.run, self.request, self.progress = run, request, progress
        self.sets, self.makers = RealSets(request, progress), Makers()
        self._named: set[tuple[str, str]] = set()
        self._replaced: dict[str, list[str]] = {}
        self.used: dict[str, type[Metric]] = {}

    def scores(self) -> list[ScoreRecord]:
        """Every score of every cell under every protocol, empty cells included, in plan order.

        Raises:
            UserError: a data set is not the one that the images were made from; under ``strict``,
                the first score that cannot be had.
        """
        found: list[ScoreRecord] = []
        for fault in (fault for cell in self.run.cells() for fault in cell.faults()):
            self.progress.say(fault)
        for protocol in self.request.protocols:
            cells = cells_under(self.run.cells(), protocol)
            for cell in cells:
                found.extend(self._cell(cell, cells, protocol))
            found.extend(ceilings(cells, protocol, self.sets, self.makers))
        if self.request.strict:
            absent = next((s for s in found if s.value is None), None)
            if absent is not None:
                where = f"{absent.method}, {absent.task} on {absent.dataset}: {absent.metric}"
                raise UserError(f"{where}: {absent.reason}", "leave out --strict to go on")
        return found

    def map_share(self, share: tuple[int, int]) -> None:
        """Keep the rows of the k-th of n equal shares of every cell and of the photographs that
        they are compared with, (k, n) = ``share``: ``scores`` then joins them.

        Raises:
            UserError: as ``scores``.
        """
        for protocol in self.request.protocols:
            cells = cells_under(self.run.cells(), protocol)
            for cell in cells:
                self._map_cell(cell, cells, protocol, share)

    def _map_cell(
        self,
        cell: CellView,
        cells: Sequence[CellView],
        protocol: Protocol,
        share: tuple[int, int],
    ) -> None:
        photos = self.sets.opened(cell)
        items = in_groups([r for r in cell.item_rows() if not r.error])
        if not items or isinstance(photos, UserError):
            return
        self.sets.check(cell, photos)
        chosen = list(columns_of(self.request, cell.entry.task.name, photos, items, protocol))
        makers, keys, _ = self.makers.of(chosen)
        source = cell_source(cell, items, photos, _sibling(cell, cells))
        map_rows(source, makers, self.progress, self.request.workers, share)
        for column in chosen:
            key = keys.get(column.name)
            if key is None:
                continue
            split = protocol.real.get(column.cls.name, column.cls.real)
            self.sets.rows(cell, split, key, makers[key], share)
            if makers[key].uses_parser:  # the parser's own score on the photographs
                self.sets.rows(cell, "test", key, makers[key], share)

    def _cell(
        self, cell: CellView, cells: Sequence[CellView], protocol: Protocol
    ) -> Iterator[ScoreRecord]:
        entry = cell.entry
        photos = self.sets.opened(cell)
        items = in_groups([r for r in cell.item_rows() if not r.error])
        if isinstance(photos, UserError):
            task, kind = entry.task.name, entry.dataset.config["name"]
            for name, cls in closed_columns(self.request, task, kind, items, protocol):
                self.used.setdefault(name, cls)
                yield self._record(cell, protocol, name, None, reason_of(photos))
            return
        chosen = list(columns_of(self.request, entry.task.name, photos, items, protocol))
        for column in chosen:
            self.used.setdefault(column.name, column.cls)
        if entry.status in ("impossible", "failed") or not items:
            reason = entry.reason or next(iter(cell.faults()), "no images yet")
            for column in chosen:
                yield self._record(cell, protocol, column.name, None, reason)
            return
        self.sets.check(cell, photos)
        makers, keys, blocked = self.makers.of(chosen)
        source = cell_source(cell, items, photos, _sibling(cell, cells))
        rows = map_rows(source, makers, self.progress, self.request.workers)
        self._tell(cell, rows.values())
        self._tell_replaced(cell, items)
        everything = Mapped(tuple(r.id for r in items), {}, {})
        for column in chosen:
            if column.fault:
                yield self._record(cell, protocol, column.name, None, column.fault)
                continue
            if column.maker is None:
                yield self._reduce(cell, protocol, column, None, everything, items)
                continue
            key = keys.get(column.name, "")
            own = blocked.get(column.name) or rows[key]
            if isinstance(own, UserError):
                yield self._record(cell, protocol, column.name, None, reason_of(own))
                continue
            yield self._reduce(cell, protocol, column, (key, makers[key]), own, items)

    def _tell(self, cell: CellView, found: Iterable[Mapped | UserError]) -> None:
        """Name the items that are left out, once a cell."""
        left: dict[str, str] = {}
        for one in found:
            left |= {} if isinstance(one, UserError) else dict(one.left_out)
        new = [i for i in left if (cell.key, i) not in self._named]
        self._named |= {(cell.key, i) for i in new}
        where = f"{cell.entry.method.label} {cell.entry.task.slug}"
        for item in new[:NAMED]:
            self.progress.say(f"left out of {where}: {item}: {left[item]}")
        if len(new) > NAMED:
            self.progress.say(f"left out of {where}: {len(new) - NAMED} more items")

    def _tell_replaced(self, cell: CellView, items: Sequence[ItemRow]) -> None:
        """Name the items whose files are no longer those that were drawn, once a cell; scores are
        those of the files that are there, and say it."""
        if cell.key in self._replaced:
            return
        found = self._replaced[cell.key] = replaced(cell, items)
        if found:
            where = f"{cell.entry.method.label} {cell.entry.task.slug}"
            shown = ", ".join(found[:NAMED]) + (", ..." if len(found) > NAMED else "")
            self.progress.say(
                f"note: {where}: {len(found)} of {len(items)} images are not the files that the "
                f"run drew ({shown}): sisbench run draws them anew"
            )

    def _reduce(
        self,
        cell: CellView,
        protocol: Protocol,
        column: Column,
        made_by: tuple[str, RowMaker] | None,
        rows: Mapped,
        items: Sequence[ItemRow],
    ) -> ScoreRecord:
        cls, name = column.cls, column.name
        split = protocol.real.get(cls.name, cls.real) if made_by is not None else ""
        real = None if made_by is None else self.sets.rows(cell, split, *made_by)
        if isinstance(real, UserError):
            return self._record(cell, protocol, name, None, reason_of(real))
        mapped = [r for r in items if r.id not in rows.left_out]
        columns = dict(rows.columns) | _item_columns(mapped, cls.columns)
        columns["target_id"] = np.array([r.target for r in mapped])
        try:
            metric = cls.from_context(column.context)
            seed = protocol.seed
            score = metric.reduce(columns, None if real is None else real.columns, seed=seed)
            if not isinstance(score, Score):
                raise TypeError(f"reduce returned {type(score).__name__}, expected a Score")
            score = conventional(metric, score, columns, protocol)
        except Exception as error:  # a metric of anybody's: its own empty cell, and no other's
            return self._record(cell, protocol, name, None, reason_of(as_user_error(error)))
        size = self.sets.photographs(cell.entry.dataset.config).dataset.size
        extra = {} if made_by is None else basis_of(made_by[1], cls, protocol, size)
        if made_by is not None and made_by[1].uses_parser and (drawn := label_map_of(cell.entry)):
            extra["label_map"] = drawn
        extra = resized_basis(extra, cell.entry.method.resized) | rows_of(rows, real)
        if split:
            extra["real_split"] = split
        lost = _lost(cell, items, rows, real)
        if made_by is not None and (others := self._replaced.get(cell.key)):
            lost += (f"{len(others)} of {len(items)} images are not those that the run drew",)
        try:
            record = self._record(cell, protocol, name, score, "", extra, lost)
            if score.values is not None and len(score.values) == len(rows.ids):
                self._keep_values(cell, name, protocol, rows.ids, score.values)
        except Exception as error:  # as above
            return self._record(cell, protocol, name, None, reason_of(as_user_error(error)))
        return record

    def _keep_values(
        self,
        cell: CellView,
        name: str,
        protocol: Protocol,
        ids: Sequence[str],
        values: np.ndarray,
    ) -> None:
        try:
            write_values(cell, name, protocol.id, ids, values)
        except OSError as error:
            self.progress.say(f"values of single items are not kept: {error}")

    def _record(
        self,
        cell: CellView,
        protocol: Protocol,
        name: str,
        score: Score | None,
        reason: str,
        extra: Mapping[str, Any] | None = None,
        marks: tuple[str, ...] = (),
    ) -> ScoreRecord:
        editor = cell.entry.editor
        if cell.entry.method.seeded or (editor is not None and editor.seeded):
            marks = (SEEDED, *marks)
        method, dataset, task = cell.entry.place
        marks = (*cell.entry.remarks, *marks)
        base = ScoreRecord(
            method=method,
            title=cell.entry.method.title,
            dataset=dataset,
            task=task,
            metric=name,
            protocol=protocol.id,
            value=None,
            reason=reason,
            marks=marks,
            cell=cell.key,
        )
        return base if score is None else filled(base, score, extra or {})


def _item_columns(items: Sequence[ItemRow], names: Sequence[str]) -> dict[str, np.ndarray]:
    """What the run recorded of each item, as rows."""
    return {name: np.array([getattr(r, name, None) for r in items], np.float64) for name in names}


def _lost(
    cell: CellView, items: Sequence[ItemRow], rows: Mapped, real: Mapped | None
) -> tuple[str, ...]:
    """Remarks on items that a score does not cover."""
    total, marks = cell.entry.items, []
    if total > len(items):
        done = cell.entry.status == "done"  # then they were there, and their rows are gone
        marks.append(f"{total - len(items)} of {total} items {'are gone' if done else 'failed'}")
    if rows.left_out:
        marks.append(f"{len(rows.left_out)} of {total} items left out: their files are bad")
    if real is not None and real.left_out:
        n = len(real.ids) + len(real.left_out)
        marks.append(f"{len(real.left_out)} of {n} photographs left out: their files are bad")
    return tuple(marks)


def _sibling(cell: CellView, cells: Sequence[CellView]) -> CellView | None:
    """The same method's reconstructions on the same data set, unless the cell is that itself or
    there are none."""
    for other in cells:
        alike = other.entry.place[:2] == cell.entry.place[:2]
        if alike and other.entry.task.name == "reconstruct":
            without = other.entry.status in ("impossible", "failed")
            return None if without or other.key == cell.key else other
    return None
