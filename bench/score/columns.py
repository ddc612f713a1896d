"""Which scores a cell has, and which row makers they take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sisbench import data, metrics, segmenters
from sisbench.core.adapter_file import as_user_error
from sisbench.core.errors import Broken, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.log import ItemRow
from sisbench.core.tasks import find_task
from sisbench.data import Dataset
from sisbench.metrics.base import Context, Metric, RowMaker
from sisbench.protocol import Protocol
from sisbench.score.given import GivenStatistics
from sisbench.score.scores import describe
from sisbench.score.sources import Photographs

NO_METRIC: Any = Metric
"""Stands for a metric that cannot be had: no title, no row maker."""


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
class Column:
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


def columns_of(
    request: Request,
    task: str,
    photos: Photographs,
    items: Sequence[ItemRow],
    protocol: Protocol,
) -> Iterator[Column]:
    """The scores that a cell has; a metric that cannot be had has one with its fault.

    Raises:
        UserError: an unknown name.
    """
    for name, cls in metrics_of(request, protocol).items():
        fault = reason_of(cls) if isinstance(cls, UserError) else ""
        if isinstance(cls, type):
            try:
                describe(name, cls)  # its class attributes are what they should be
                yield from list(_columns_of(request, name, cls, task, photos, items, protocol))
            except Exception as error:  # a metric of anybody's: its own empty cell
                fault = reason_of(as_user_error(error))
        if fault:
            context = _context(request, protocol, photos.dataset.space)
            yield Column(name, NO_METRIC, context, None, fault)


def _columns_of(
    request: Request,
    name: str,
    cls: type[Metric],
    task: str,
    photos: Photographs,
    items: Sequence[ItemRow],
    protocol: Protocol,
) -> Iterator[Column]:
    """The scores that a cell has of one metric: one a parser where it uses one."""
    space = photos.dataset.space
    if find_task(task).by == "editor":
        maker = metrics.layout_maker_of(cls)
        if maker is not None:  # two label maps, no parser in between
            yield Column(name, cls, _context(request, protocol, space), maker)
        return
    maker = metrics.maker_of(cls)
    if task not in cls.tasks and not _paired(cls, maker, task, photos, items):
        return
    if maker is None or not maker.uses_parser:
        yield Column(name, cls, _context(request, protocol, space), maker)
        return
    for k, parser in enumerate(_parsers(request, space.name, protocol)):
        shown = name if k == 0 else f"{name}@{parser}"
        yield Column(shown, cls, _context(request, protocol, space, parser), maker)


def metrics_of(request: Request, protocol: Protocol) -> dict[str, type[Metric] | UserError]:
    """Metrics that are asked for, or else those that a protocol shows unasked: their classes, or
    why one that is there cannot be had.

    Raises:
        UserError: an unknown name; the nearest one is named.
    """
    if request.metrics is None:
        return metrics_shown(protocol)
    found: dict[str, type[Metric] | UserError] = {}
    for name in request.metrics:
        try:
            found[name] = metrics.registry.get(name)
        except Broken as error:
            found[name] = error
    return found


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


def _parsers(request: Request, space: str, protocol: Protocol) -> list[str]:
    """Parsers of a label space; [""] when none is named: no score, with the reason."""
    given = list(request.parsers.get(space, ()))
    default = protocol.parsers.get(space)
    return given or ([default] if default else [""])


def check_parsers(names: Sequence[str]) -> None:
    """Raises UserError for a name that no parser has; one that is there and broken is none, its
    makers say so in empty cells of their own."""
    for name in names:
        try:
            segmenters.registry.get(name)
        except Broken:
            continue


def _context(request: Request, protocol: Protocol, space: LabelSpace, parser: str = "") -> Context:
    """What the protocol, the configuration and the device decide."""
    return Context(
        fid=protocol.fid,
        dtype=protocol.dtype,
        ssim=protocol.ssim,
        parser=parser,
        space=space,
        device=request.device,
        compile=request.compile,
        weights=request.weights,
    )


def unasked(cls: type[Metric], protocol: Protocol) -> bool:
    """Whether a metric stands in tables without being asked for."""
    if cls.kind != "quality" or cls.on_request:
        return False
    return all(getattr(protocol, name) == value for name, value in cls.shown_where.items())


def closed_columns(
    request: Request, task: str, kind: str, items: Sequence[ItemRow], protocol: Protocol
) -> Iterator[tuple[str, type[Metric]]]:
    """(name, class) of the scores that a cell would have, did its data set of registry name
    ``kind`` open."""
    for name, cls in metrics_of(request, protocol).items():
        if isinstance(cls, UserError):
            yield name, NO_METRIC
            continue
        try:
            describe(name, cls)
            has = task in cls.tasks
            if not has and find_task(task).by != "editor" and _renders_truth(kind):
                has = _compares_pairs(cls, metrics.maker_of(cls), items)
        except Exception:  # a metric of anybody's
            yield name, NO_METRIC
            continue
        if has:
            yield name, cls


def _renders_truth(kind: str) -> bool:
    """Whether data sets of a registry name may have true images of a transfer or an edit."""
    try:
        return data.registry.get(kind).truth is not Dataset.truth
    except UserError:  # not known here
        return False


def _compares_pairs(
    cls: type[Metric], maker: type[RowMaker] | None, items: Sequence[ItemRow]
) -> bool:
    """Whether a metric compares with the true image, where items of two photographs have one."""
    if maker is None or "target" not in maker.needs or not items:
        return False
    return "reconstruct" in cls.tasks and bool(items[0].reference)


def _paired(
    cls: type[Metric],
    maker: type[RowMaker] | None,
    task: str,
    photos: Photographs,
    items: Sequence[ItemRow],
) -> bool:
    """Whether a pair metric is defined because the data set renders the task's true image."""
    if not _compares_pairs(cls, maker, items):
        return False
    row = items[0]
    try:
        truth = photos.dataset.truth(task, row.target, row.reference, row.classes)
    except Exception:  # one bad item; the rows will name it
        return True
    return truth is not None


class Makers:
    """Row makers by class and context, each built once."""

    def __init__(self) -> None:
        self._made: dict[tuple[type[RowMaker], Context], RowMaker | UserError] = {}

    def of(
        self, chosen: Sequence[Column]
    ) -> tuple[dict[str, RowMaker], dict[str, str], dict[str, UserError]]:
        """(key -> maker, column name -> key, column name -> why it has no maker)."""
        makers: dict[str, RowMaker] = {}
        keys: dict[str, str] = {}
        blocked: dict[str, UserError] = {}
        for column in chosen:
            if column.maker is None:
                continue
            maker = self.one(column.maker, column.context)
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

    def one(self, cls: type[RowMaker], context: Context) -> RowMaker | UserError:
        """A maker, or why there is none; one that makes the same rows is taken again."""
        key = (cls, context)
        if key not in self._made:
            try:
                new = cls.from_context(context)
                mark = new.fingerprint()
                same = [m for (c, _), m in self._made.items() if c is cls]
                ready = [m for m in same if not isinstance(m, UserError)]
                alike = [m for m in ready if m.fingerprint() == mark]
                self._made[key] = alike[0] if alike else new
            except Exception as error:  # a maker of anybody's: its own empty cell, and no other's
                self._made[key] = as_user_error(error)
        return self._made[key]


def maker_key(maker: type[RowMaker], context: Context) -> str:
    """Name under which rows of a configured maker are stored."""
    return f"{maker.name}-{context.parser}" if maker.uses_parser else maker.name


def reason_of(error: UserError) -> str:
    return error.message + (f" ({error.hint})" if error.hint else "")
