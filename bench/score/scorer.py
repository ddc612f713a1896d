"""Scoring: which scores a cell has, the rows that they need, and their reduction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sisbench import metrics, segmenters
from sisbench.config import DatasetConfig
from sisbench.core.adapter_file import as_user_error
from sisbench.core.errors import Broken, Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.log import CEILING, SEEDED, ItemRow, ScoreRecord
from sisbench.core.progress import Progress
from sisbench.core.store import CellView, RunStore, write_values
from sisbench.core.tasks import TASKS, find_task
from sisbench.data import open_dataset
from sisbench.metrics.base import Context, Metric, RowMaker, Score
from sisbench.protocol import Protocol
from sisbench.score.given import GivenStatistics, rows_of
from sisbench.score.match import cells_under
from sisbench.score.rows import Mapped, map_rows
from sisbench.score.scores import basis_of, conventional, describe, filled, resized_basis
from sisbench.score.sources import Photographs, cell_source, in_groups, real_source

CEILING_LABEL, CEILING_TITLE = "(photographs)", "Real photographs"
NO_METRIC: Any = Metric
"""Stands for a metric that cannot be had: no title, no row maker."""
_NAMED = 5
"""Left-out items that the console names for a cell; more are counted."""


@dataclass(frozen=True)
class Request:
    """What to score, and with what.

    Attributes:
        protocols: one or several; each gets its own scores.
        metrics: names; None takes every one that a task defines.
        parsers: parser names by label space, beyond the protocol's; the first is the table's.
        weights: paths of metric weights by registry name.
        device: torch device of the feature networks.
        compile: run Inception through torch.compile.
        workers: threads that decode images ahead.
        strict: a score that cannot be had is an error.
        real_stats: by label of the data set, statistics in the place of its photographs.
    """

    protocols: Sequence[Protocol]
    metrics: Sequence[str] | None = None
    parsers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    compile: bool = False
    workers: int = 0
    strict: bool = False
    real_stats: Mapping[str, Sequence[GivenStatistics]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Column:
    """A score that a cell has.

    Attributes:
        name: of its column: the metric's, with ``@PARSER`` for a parser beyond the first.
        cls, context: the metric, and what it and its row maker may know.
        maker: class of its row maker, or None.
        fault: why the metric cannot be had at all, "" where it can.
    """

    name: str
    cls: type[Metric]
    context: Context
    maker: type[RowMaker] | None
    fault: str = ""


class Scorer:
    """Scores a run; makers and decoded photographs are shared by all of its cells."""

    def __init__(self, run: RunStore, request: Request, progress: Progress) -> None:
        self.run, self.request, self.progress = run, request, progress
        self._photos: dict[str, Photographs] = {}
        self.closed: dict[str, UserError] = {}
        self._makers: dict[tuple[type[RowMaker], Context], RowMaker | UserError] = {}
        self._reals: dict[tuple[str, str, str], Mapped | UserError | None] = {}
        self._named: set[tuple[str, str]] = set()
        self._classes: dict[str, dict[str, type[Metric] | UserError]] = {}
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
            found.extend(self._ceilings(cells, protocol))
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
        photos = self._opened(cell)
        items = in_groups([r for r in cell.item_rows() if not r.error])
        if not items or isinstance(photos, UserError):
            return
        self._check_data(cell, photos)
        chosen = list(self._chosen(cell.entry.task.name, photos, items, protocol))
        makers, keys, _ = self._makers_of(chosen)
        source = cell_source(cell, items, photos, _sibling(cell, cells))
        map_rows(source, makers, self.progress, self.request.workers, share)
        for column in chosen:
            key = keys.get(column.name)
            if key is None:
                continue
            split = protocol.real.get(column.cls.name, column.cls.real)
            self._real(cell, split, key, makers[key], share)
            if makers[key].uses_parser:  # the parser's own score on the photographs
                self._real(cell, "test", key, makers[key], share)

    def _cell(
        self, cell: CellView, cells: Sequence[CellView], protocol: Protocol
    ) -> Iterator[ScoreRecord]:
        entry = cell.entry
        photos = self._opened(cell)
        if isinstance(photos, UserError):
            for name, cls in self._names(protocol).items():
                if isinstance(cls, UserError) or entry.task.name in cls.tasks:
                    yield self._record(cell, protocol, name, None, reason_of(photos))
            return
        items = in_groups([r for r in cell.item_rows() if not r.error])
        chosen = list(self._chosen(entry.task.name, photos, items, protocol))
        if entry.status in ("impossible", "failed") or not items:
            reason = entry.reason or next(iter(cell.faults()), "no images yet")
            for column in chosen:
                yield self._record(cell, protocol, column.name, None, reason)
            return
        self._check_data(cell, photos)
        makers, keys, blocked = self._makers_of(chosen)
        source = cell_source(cell, items, photos, _sibling(cell, cells))
        rows = map_rows(source, makers, self.progress, self.request.workers)
        self._tell(cell, rows.values())
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

    def _makers_of(
        self, chosen: Sequence[_Column]
    ) -> tuple[dict[str, RowMaker], dict[str, str], dict[str, UserError]]:
        """(key -> maker, column name -> key, column name -> why it has no maker)."""
        makers: dict[str, RowMaker] = {}
        keys: dict[str, str] = {}
        blocked: dict[str, UserError] = {}
        for column in chosen:
            if column.maker is None:
                continue
            maker = self._maker(column.maker, column.context)
            if isinstance(maker, UserError):
                blocked[column.name] = maker
                continue
            key = base = maker_key(column.maker, column.context)
            count = 1
            while makers.setdefault(key, maker) is not maker:  # two makers of one name
                count += 1
                key = f"{base}-{count}"
            keys[column.name] = key
        return makers, keys, blocked

    def _chosen(
        self, task: str, photos: Photographs, items: Sequence[ItemRow], protocol: Protocol
    ) -> Iterator[_Column]:
        """The scores that a cell has."""
        for name, cls in self._names(protocol).items():
            fault = reason_of(cls) if isinstance(cls, UserError) else ""
            if isinstance(cls, type):
                try:
                    describe(name, cls)  # its class attributes are what they should be
                    yield from list(self._columns_of(name, cls, task, photos, items, protocol))
                except Exception as error:  # a metric of anybody's: its own empty cell
                    fault = reason_of(as_user_error(error))
            if fault:
                self.used[name] = NO_METRIC
                context = self._context(protocol, photos.dataset.space)
                yield _Column(name, NO_METRIC, context, None, fault)

    def _columns_of(
        self,
        name: str,
        cls: type[Metric],
        task: str,
        photos: Photographs,
        items: Sequence[ItemRow],
        protocol: Protocol,
    ) -> Iterator[_Column]:
        """The scores that a cell has of one metric: one a parser where it uses one."""
        space = photos.dataset.space
        if find_task(task).by == "editor":
            maker = metrics.layout_maker_of(cls)
            if maker is not None:  # two label maps, no parser in between
                yield _Column(name, cls, self._context(protocol, space), maker)
            return
        maker = metrics.maker_of(cls)
        if task not in cls.tasks and not _paired(cls, maker, task, photos, items):
            return
        if maker is None or not maker.uses_parser:
            yield _Column(name, cls, self._context(protocol, space), maker)
            return
        for k, parser in enumerate(self._parsers(space.name, protocol)):
            shown = name if k == 0 else f"{name}@{parser}"
            yield _Column(shown, cls, self._context(protocol, space, parser), maker)

    def _names(self, protocol: Protocol) -> dict[str, type[Metric] | UserError]:
        """The metrics that are asked for, or else those that are shown unasked: their classes, or
        why one that is there cannot be had.

        Raises:
            UserError: an unknown name.
        """
        if protocol.id not in self._classes:
            found: dict[str, type[Metric] | UserError] = {}
            for name in self.request.metrics or ():
                try:
                    found[name] = metrics.registry.get(name)
                except Broken as error:
                    found[name] = error
            shown = self.request.metrics is None
            self._classes[protocol.id] = metrics_shown(protocol) if shown else found
        return self._classes[protocol.id]

    def _parsers(self, space: str, protocol: Protocol) -> list[str]:
        """Parsers of a label space; [""] when none is named: no score, with the reason."""
        given = list(self.request.parsers.get(space, ()))
        for name in given:
            try:
                segmenters.registry.get(name)  # an unknown one ends here, with the nearest one
            except Broken:  # its makers say so, each in its own empty cell
                continue
        default = protocol.parsers.get(space)
        return given or ([default] if default else [""])

    def _context(self, protocol: Protocol, space: LabelSpace, parser: str = "") -> Context:
        """What the protocol, the configuration and the device decide."""
        return Context(
            fid=protocol.fid,
            dtype=protocol.dtype,
            ssim=protocol.ssim,
            parser=parser,
            space=space,
            device=self.request.device,
            compile=self.request.compile,
            weights=self.request.weights,
        )

    def _maker(self, cls: type[RowMaker], context: Context) -> RowMaker | UserError:
        """A maker, or why there is none; one that makes the same rows is taken again."""
        key = (cls, context)
        if key not in self._makers:
            try:
                new = cls.from_context(context)
                mark = new.fingerprint()
                same = [m for (c, _), m in self._makers.items() if c is cls]
                ready = [m for m in same if not isinstance(m, UserError)]
                alike = [m for m in ready if m.fingerprint() == mark]
                self._makers[key] = alike[0] if alike else new
            except Exception as error:  # a maker of anybody's: its own empty cell, and no other's
                self._makers[key] = as_user_error(error)
        return self._makers[key]

    def _opened(self, cell: CellView) -> Photographs | UserError:
        """The photographs of a cell; a data set that cannot be opened is the reason why its scores
        are not made, and no other's."""
        label = cell.entry.dataset.label
        if label not in self.closed:
            try:
                return self._photographs(cell.entry.dataset.config)
            except Exception as error:  # a data set is anybody's
                self.closed[label] = as_user_error(error)
        return self.closed[label]

    def _photographs(self, config: Mapping[str, Any]) -> Photographs:
        parsed = DatasetConfig.model_validate(config)
        if parsed.shown not in self._photos:
            dataset = open_dataset(parsed.name, **parsed.arguments)
            self._photos[parsed.shown] = Photographs(dataset, dataset.fingerprint())
        return self._photos[parsed.shown]

    def _check_data(self, cell: CellView, photos: Photographs) -> None:
        """Refuse to compare images with other photographs than they were made from."""
        before = cell.entry.dataset.fingerprint
        if before and before != photos.fingerprint:
            raise UserError(
                f"the data set '{cell.entry.dataset.label}' changed since its images were "
                f"made: its content was {before[:12]} and is {photos.fingerprint[:12]}",
                "bring the former files back, or make the images anew: sisbench run CONFIG",
            )

    def _tell(self, cell: CellView, found: Iterable[Mapped | UserError]) -> None:
        """Name the items that are left out, once a cell."""
        left: dict[str, str] = {}
        for one in found:
            left |= {} if isinstance(one, UserError) else dict(one.left_out)
        new = [i for i in left if (cell.key, i) not in self._named]
        self._named |= {(cell.key, i) for i in new}
        where = f"{cell.entry.method.label} {cell.entry.task.slug}"
        for item in new[:_NAMED]:
            self.progress.say(f"left out of {where}: {item}: {left[item]}")
        if len(new) > _NAMED:
            self.progress.say(f"left out of {where}: {len(new) - _NAMED} more items")

    def _real(
        self,
        cell: CellView,
        split: str,
        name: str,
        maker: RowMaker,
        share: tuple[int, int] = (0, 1),
    ) -> Mapped | UserError | None:
        """Rows of the real set that a metric compares with; None where it has none, or where only
        a share of them was mapped."""
        if not split:
            return None
        config = DatasetConfig.model_validate(cell.entry.dataset.config)
        for given in self.request.real_stats.get(cell.entry.dataset.label, ()):
            if (given.split, given.maker) == (split, maker.name):
                return given.rows_for(maker)
        if split == "train":
            if config.train is None:
                return Unavailable(
                    "the protocol compares with the training photographs, and none are configured",
                    "add 'train: {root: ..., split: train}' to the data set",
                )
            merged = config.arguments | config.train
            label = f"{config.shown} (train)"
            config = DatasetConfig(name=config.name, label=label, arguments=merged, train=None)
        key = (config.shown, name, maker.fingerprint())
        if key not in self._reals:
            try:
                photos = self._photographs(config.model_dump())
            except Exception as error:  # a data set is anybody's: its own empty cells
                self._reals[key] = as_user_error(error)
                return self._reals[key]
            source, workers = real_source(photos), self.request.workers
            found = map_rows(source, {name: maker}, self.progress, workers, share).get(name)
            self._reals[key] = found
            for item, reason in list(getattr(found, "left_out", {}).items())[:_NAMED]:
                self.progress.say(f"left out of {source.label}: {item}: {reason}")
        return self._reals[key]

    def _reduce(
        self,
        cell: CellView,
        protocol: Protocol,
        column: _Column,
        made_by: tuple[str, RowMaker] | None,
        rows: Mapped,
        items: Sequence[ItemRow],
    ) -> ScoreRecord:
        cls, name = column.cls, column.name
        split = protocol.real.get(cls.name, cls.real) if made_by is not None else ""
        real = None if made_by is None else self._real(cell, split, *made_by)
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
        self.used[name] = cls
        size = self._photographs(cell.entry.dataset.config).dataset.size
        extra = {} if made_by is None else basis_of(made_by[1], cls, protocol, size)
        extra = resized_basis(extra, cell.entry.method.resized) | rows_of(rows, real)
        if split:
            extra["real_split"] = split
        lost = _lost(cell, items, rows, real)
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
        if name not in self.used:
            found = self._names(protocol).get(name.split("@")[0])
            self.used[name] = found if isinstance(found, type) else NO_METRIC
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

    def _ceilings(self, cells: Sequence[CellView], protocol: Protocol) -> Iterator[ScoreRecord]:
        """The parser's own score on the real photographs, above each column of a parser's."""
        seen = set()
        for cell in cells:
            if isinstance(self._opened(cell), UserError):
                continue
            place = cell.entry.place[1:]
            task = TASKS.get(cell.entry.task.name)
            if place in seen or task is None or not task.own_label:
                continue
            seen.add(place)
            photos = self._photographs(cell.entry.dataset.config)
            for column in self._chosen(cell.entry.task.name, photos, [], protocol):
                if column.maker is None or not column.maker.uses_parser:
                    continue
                found = self._ceiling(cell, protocol, column, photos)
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
        self, cell: CellView, protocol: Protocol, column: _Column, photos: Photographs
    ) -> tuple[Score, dict[str, str]] | None:
        """Score of the photographs and its basis; None where the cells' scores say why not."""
        assert column.maker is not None  # the caller has asked
        maker = self._maker(column.maker, column.context)
        if isinstance(maker, UserError):
            return None
        rows = self._real(cell, "test", maker_key(column.maker, column.context), maker)
        if rows is None or isinstance(rows, UserError):
            return None
        try:
            metric = column.cls.from_context(column.context)
            score = metric.reduce(rows.columns, seed=protocol.seed)
            score = conventional(metric, score, rows.columns, protocol)
        except Exception as error:  # a metric of anybody's
            self.progress.say(
                f"{column.name} of the photographs: {reason_of(as_user_error(error))}"
            )
            return None
        basis = basis_of(maker, column.cls, protocol, photos.dataset.size)
        return score, basis | rows_of(None, rows)


def metrics_shown(protocol: Protocol) -> dict[str, type[Metric] | UserError]:
    """The metrics that are shown unasked: their classes, or why one of a package cannot be had."""
    classes, broken = metrics.registry.all()
    shown: dict[str, type[Metric] | UserError] = {}
    for name, cls in classes.items():
        try:
            if unasked(cls, protocol):
                shown[name] = cls
        except Exception as error:  # a metric of anybody's
            broken[name] = as_user_error(error)
    return shown | broken


def unasked(cls: type[Metric], protocol: Protocol) -> bool:
    """Whether a metric stands in tables without being asked for."""
    if cls.kind != "quality" or cls.on_request:
        return False
    return all(getattr(protocol, name) == value for name, value in cls.shown_where.items())


def _paired(
    cls: type[Metric],
    maker: type[RowMaker] | None,
    task: str,
    photos: Photographs,
    items: Sequence[ItemRow],
) -> bool:
    """Whether a pair metric is defined because the data set renders the task's true image."""
    if maker is None or "target" not in maker.needs or not items:
        return False
    if "reconstruct" not in cls.tasks:
        return False
    row = items[0]
    if not row.reference:
        return False
    try:
        truth = photos.dataset.truth(task, row.target, row.reference, row.classes)
    except Exception:  # one bad item; the rows will name it
        return True
    return truth is not None


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


def maker_key(maker: type[RowMaker], context: Context) -> str:
    """Name under which rows of a configured maker are stored."""
    return f"{maker.name}-{context.parser}" if maker.uses_parser else maker.name


def reason_of(error: UserError) -> str:
    return error.message + (f" ({error.hint})" if error.hint else "")


def _sibling(cell: CellView, cells: Sequence[CellView]) -> CellView | None:
    """The same method's reconstructions on the same data set, unless the cell is that itself or
    there are none."""
    for other in cells:
        alike = other.entry.place[:2] == cell.entry.place[:2]
        if alike and other.entry.task.name == "reconstruct":
            without = other.entry.status in ("impossible", "failed")
            return None if without or other.key == cell.key else other
    return None
