"""Scoring: which figures a cell has, the rows that they need, and their reduction to scores."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sisbench import metrics
from sisbench.config import DatasetConfig
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.progress import Progress
from sisbench.core.store import CEILING, SEEDED, CellView, RunStore, Score, write_values
from sisbench.core.tasks import TASKS, find_task
from sisbench.data import open_dataset
from sisbench.metrics.base import Figure, Metric, RowMaker, Rows
from sisbench.protocol import Protocol
from sisbench.score.match import cells_under
from sisbench.score.rows import Photographs, cell_source, in_groups, map_rows, real_source
from sisbench.score.scores import basis_of, filled

CEILING_LABEL, CEILING_TITLE = "(photographs)", "Real photographs"
EFFICIENCY = frozenset({"seconds", "peak_memory", "parameters", "flops"})
"""Figures of a machine, not of images: they stand in timing.csv, apart from the quality tables."""
ON_REQUEST = frozenset({"class_iou", "fid_infinity", "lpips_vgg", "lpips_squeeze"})
"""Figures that stand in a table only where they are asked for by name."""


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
        strict: a figure that cannot be had is an error.
    """

    protocols: Sequence[Protocol]
    metrics: Sequence[str] | None = None
    parsers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    compile: bool = False
    workers: int = 0
    strict: bool = False


class Scorer:
    """Scores a run; makers and decoded photographs are shared by all of its cells."""

    def __init__(self, run: RunStore, request: Request, progress: Progress) -> None:
        self.run, self.request, self.progress = run, request, progress
        self._photos: dict[str, Photographs] = {}
        self._makers: dict[tuple[str, str], RowMaker | Unavailable] = {}
        self._reals: dict[tuple[str, str, str], Rows | Unavailable] = {}
        self.used: dict[str, type[Metric]] = {}

    def scores(self) -> list[Score]:
        """Every figure of every cell under every protocol, dashes included, in plan order."""
        found: list[Score] = []
        for protocol in self.request.protocols:
            cells = cells_under(self.run.cells(), protocol)
            for cell in cells:
                found.extend(self._cell(cell, cells, protocol))
            found.extend(self._ceilings(cells, protocol))
        if self.request.strict:
            absent = next((s for s in found if s.value is None), None)
            if absent is not None:
                where = f"{absent.method}, {absent.task} on {absent.dataset}: {absent.metric}"
                raise UserError(f"{where}: {absent.reason}", "leave out --strict to get a dash")
        return found

    def _cell(
        self, cell: CellView, cells: Sequence[CellView], protocol: Protocol
    ) -> Iterator[Score]:
        about, task = cell.about, cell.about["task"]["name"]
        photos = self._photographs(about["dataset"]["config"])
        items = in_groups([r for r in cell.items() if not r["error"]])
        chosen = list(self._chosen(task, photos, items, protocol))
        if about["status"] in ("impossible", "failed") or not items:
            reason = about["reason"] or "no images yet"
            for name, _cls, _options in chosen:
                yield self._score(cell, protocol, name, None, reason)
            return
        makers: dict[str, RowMaker] = {}
        blocked: dict[str, Unavailable] = {}
        for name, cls, options in chosen:
            if not cls.maker:
                continue
            maker = self._maker(cls.maker, options)
            if isinstance(maker, Unavailable):
                blocked[name] = maker
            else:
                makers[_key(cls.maker, options)] = maker
        rows = map_rows(
            cell_source(cell, items, photos, _sibling(cell, cells)),
            makers,
            self.progress,
            self.request.workers,
        )
        for name, cls, options in chosen:
            if not cls.maker:
                yield self._reduce(cell, protocol, name, cls, None, item_columns(items), items)
                continue
            key = _key(cls.maker, options)
            own = blocked.get(name) or rows[key]
            if isinstance(own, Unavailable):
                yield self._score(cell, protocol, name, None, _reason(own))
                continue
            yield self._reduce(cell, protocol, name, cls, makers[key], own, items)

    def _chosen(
        self, task: str, photos: Photographs, items: Sequence[Mapping[str, Any]], protocol: Protocol
    ) -> Iterator[tuple[str, type[Metric], dict[str, Any]]]:
        """(column name, metric class, maker options) of the figures that a cell has."""
        for name in self._names(protocol):
            cls = metrics.registry.get(name)
            if find_task(task).by == "editor":
                if cls.maker == "confusion":  # two label maps, no parser in between
                    yield name, cls, {"layout": True}
                continue
            if task not in cls.tasks and not self._paired(cls, task, photos, items):
                continue
            if not cls.maker:
                yield name, cls, {}
                continue
            if cls.maker != "confusion":
                yield name, cls, self._options(cls.maker, protocol)
                continue
            for k, parser in enumerate(self._parsers(photos.dataset.space.name, protocol)):
                options = self._options("confusion", protocol)
                options |= {"parser": parser, "space": photos.dataset.space}
                options |= {"weights": self.request.weights.get(parser)}
                yield (name if k == 0 else f"{name}@{parser}"), cls, options

    def _names(self, protocol: Protocol) -> list[str]:
        names = list(self.request.metrics or metrics.registry.names())
        for name in names:
            metrics.registry.get(name)  # an unknown name ends here, with the nearest one
        if self.request.metrics is None:
            names = [n for n in names if n not in EFFICIENCY]
            unwanted = "psnr" if protocol.psnr == "pooled" else "psnr_pooled"
            names = [n for n in names if n != unwanted and n not in ON_REQUEST]
        return names

    def _paired(
        self,
        cls: type[Metric],
        task: str,
        photos: Photographs,
        items: Sequence[Mapping[str, Any]],
    ) -> bool:
        """Whether a pair metric is defined because the data set renders the task's true image."""
        if not cls.maker or "target" not in metrics.makers.get(cls.maker).needs or not items:
            return False
        if "reconstruct" not in cls.tasks:
            return False
        row = items[0]
        if not row["reference"]:
            return False
        truth = photos.dataset.truth(task, row["target"], row["reference"], row["classes"])
        return truth is not None

    def _parsers(self, space: str, protocol: Protocol) -> list[str]:
        """Parsers of a label space; [""] when none is named, which gives a dash with its reason."""
        given = list(self.request.parsers.get(space, ()))
        default = protocol.parsers.get(space)
        return given or ([default] if default else [""])

    def _options(self, maker: str, protocol: Protocol) -> dict[str, Any]:
        """The options of a maker that the protocol, the configuration and the device decide."""
        known = {
            "preprocess": protocol.fid,
            "dtype": protocol.dtype,
            "window": protocol.ssim,
            "device": self.request.device,
            "compile": self.request.compile,
            "weights": self.request.weights.get(metrics.makers.get(maker).weights),
        }
        accepted = inspect.signature(metrics.makers.get(maker).__init__).parameters
        return {k: v for k, v in known.items() if k in accepted}

    def _maker(self, name: str, options: Mapping[str, Any]) -> RowMaker | Unavailable:
        if "layout" in options:
            return metrics.create_maker("layout")
        key = (name, _key(name, options))
        if key not in self._makers:
            try:
                if options.get("parser") == "":
                    raise Unavailable(
                        f"no parser is known for '{options['space'].name}'",
                        "name one under 'parsers'",
                    )
                self._makers[key] = metrics.create_maker(name, **options)
            except Unavailable as error:
                self._makers[key] = error
        return self._makers[key]

    def _photographs(self, config: Mapping[str, Any]) -> Photographs:
        parsed = DatasetConfig.model_validate(config)
        if parsed.shown not in self._photos:
            dataset = open_dataset(parsed.name, **parsed.arguments)
            self._photos[parsed.shown] = Photographs(dataset, dataset.fingerprint())
        return self._photos[parsed.shown]

    def _real(
        self, cell: CellView, split: str, name: str, maker: RowMaker
    ) -> Rows | Unavailable | None:
        """Rows of the real set that a metric compares with; None where it has none."""
        if not split:
            return None
        config = DatasetConfig.model_validate(cell.about["dataset"]["config"])
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
            photos = self._photographs(config.model_dump())
            source, workers = real_source(photos), self.request.workers
            self._reals[key] = map_rows(source, {name: maker}, self.progress, workers)[name]
        return self._reals[key]

    def _reduce(
        self,
        cell: CellView,
        protocol: Protocol,
        name: str,
        cls: type[Metric],
        maker: RowMaker | None,
        rows: Rows,
        items: Sequence[Mapping[str, Any]],
    ) -> Score:
        split = protocol.real.get(cls.name, cls.real) if maker is not None else ""
        real = None if maker is None else self._real(cell, split, cls.maker, maker)
        if isinstance(real, Unavailable):
            return self._score(cell, protocol, name, None, _reason(real))
        options = inspect.signature(cls.__init__).parameters
        known = {"space": self._photographs(cell.about["dataset"]["config"]).dataset.space}
        try:
            metric = cls(**{k: v for k, v in known.items() if k in options})
            targets = np.array([r["target"] for r in items])
            figure = metric.reduce(dict(rows) | {"target_id": targets}, real, seed=protocol.seed)
            values = metric.values(rows, real)
        except UserError as error:
            return self._score(cell, protocol, name, None, _reason(error))
        self.used[name] = cls
        size = self._photographs(cell.about["dataset"]["config"]).dataset.size
        extra = {} if maker is None else basis_of(maker, cls, protocol, size)
        if split:
            extra["real_split"] = split
        if values is not None and len(values) == len(items):
            write_values(cell, name, protocol.id, [r["id"] for r in items], values)
        failed = cell.about["items"] - len(items)
        marks = (f"{failed} of {cell.about['items']} items failed",) if failed else ()
        return self._score(cell, protocol, name, figure, "", extra, marks)

    def _score(
        self,
        cell: CellView,
        protocol: Protocol,
        name: str,
        figure: Figure | None,
        reason: str,
        extra: Mapping[str, Any] | None = None,
        marks: tuple[str, ...] = (),
    ) -> Score:
        about = cell.about
        self.used.setdefault(name, metrics.registry.get(name.split("@")[0]))
        editor = about.get("editor") or {}
        sources = (about["method"]["weights"].get("source"), editor.get("weights"))
        if any(str(source or "").startswith("seeded:") for source in sources):
            marks = (SEEDED, *marks)
        base = Score(
            method=about["method"]["label"],
            title=about["method"]["title"],
            dataset=about["dataset"]["label"],
            task=about["task"]["slug"],
            metric=name,
            protocol=protocol.id,
            value=None,
            reason=reason,
            marks=marks,
            cell=cell.key,
        )
        return base if figure is None else filled(base, figure, extra or {}, protocol)

    def _ceilings(self, cells: Sequence[CellView], protocol: Protocol) -> Iterator[Score]:
        """The parser's own score on the real photographs, above every mIoU column."""
        seen = set()
        for cell in cells:
            about = cell.about
            place = (about["dataset"]["label"], about["task"]["slug"])
            task = TASKS.get(about["task"]["name"])
            if place in seen or task is None or not task.own_label:
                continue
            seen.add(place)
            photos = self._photographs(about["dataset"]["config"])
            for name, cls, options in self._chosen(about["task"]["name"], photos, [], protocol):
                maker = self._maker(cls.maker, options) if cls.maker == "confusion" else None
                if maker is None or isinstance(maker, Unavailable):
                    continue
                rows = self._real(cell, "test", _key(cls.maker, options), maker)
                if rows is None or isinstance(rows, Unavailable):
                    continue
                figure = cls(space=photos.dataset.space).reduce(rows, seed=protocol.seed)
                base = Score(
                    CEILING_LABEL,
                    CEILING_TITLE,
                    *place,
                    metric=name,
                    protocol=protocol.id,
                    value=None,
                    marks=(CEILING,),
                )
                size = photos.dataset.size
                yield filled(base, figure, basis_of(maker, cls, protocol, size), protocol)


def item_columns(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the run recorded of each item, as rows of the efficiency figures."""
    return {
        name: np.array([r.get(name) for r in items], np.float64)  # None becomes NaN
        for name in sorted(EFFICIENCY)
    }


def _key(maker: str, options: Mapping[str, Any]) -> str:
    """Name of a configured maker, unique within a run."""
    if "layout" in options:
        return "layout"
    parser = options.get("parser")
    return f"{maker}-{parser}" if parser else maker


def _reason(error: UserError) -> str:
    return error.message + (f" ({error.hint})" if error.hint else "")


def _sibling(cell: CellView, cells: Sequence[CellView]) -> CellView | None:
    """The same method's reconstructions on the same data set, unless the cell is that itself or
    there are none."""
    mine = (cell.about["method"]["label"], cell.about["dataset"]["label"])
    for other in cells:
        theirs = (other.about["method"]["label"], other.about["dataset"]["label"])
        if theirs == mine and other.about["task"]["name"] == "reconstruct":
            lacking = other.about["status"] in ("impossible", "failed")
            return None if lacking or other.key == cell.key else other
    return None
