"""Scoring two folders of images without a run: pairs by stem, or whole sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from sisbench import metrics, segmenters
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.log import ScoreRecord
from sisbench.core.progress import Progress
from sisbench.metrics.base import Context, Metric, RowMaker
from sisbench.score.columns import maker_key, reason_of, unasked
from sisbench.score.folder_files import BARE, FolderRequest, Folders
from sisbench.score.rows import Mapped, as_user_error, map_rows
from sisbench.score.scores import basis_of, conventional, filled, resized_basis

TASK = "images"
"""The task of scores of two folders: which one it was, nobody knows."""
_NAMED = 5


@dataclass(frozen=True)
class _Column:
    """A score that is wanted: its name, with its maker or the reason why there is none."""

    name: str
    cls: type[Metric]
    context: Context
    key: str
    maker: RowMaker | UserError


def score_folders(request: FolderRequest, progress: Progress) -> list[ScoreRecord]:
    """The scores of two folders, in the order of their metrics.

    Raises:
        UserError: what ``Folders`` refuses; an unknown metric or parser.
    """
    folders = Folders(request)
    columns = list(_columns(request, folders, progress))
    for note in folders.notes:
        progress.say(note)
    makers = {c.key: c.maker for c in columns if isinstance(c.maker, RowMaker)}
    groups: dict[tuple[str, ...], dict[str, RowMaker]] = {}
    for key, maker in makers.items():
        stems = tuple(s for s in folders.images if all(folders.has(s, n) for n in maker.needs))
        groups.setdefault(stems, {})[key] = maker
    rows: dict[str, Mapped | UserError] = {}
    for stems, group in groups.items():
        if stems:
            rows |= map_rows(folders.source(stems), group, progress, request.workers)
        else:
            rows |= {key: _lacks(maker, folders) for key, maker in group.items()}
    compared = {c.key: makers[c.key] for c in columns if _real(c, request) and _mapped(rows, c.key)}
    source = folders.real_source() if compared else None
    real = {} if source is None else map_rows(source, compared, progress, request.workers)
    _tell(rows, real, progress)
    return [_record(c, rows.get(c.key), real, folders) for c in columns]


def _mapped(rows: Mapping[str, Mapped | UserError], key: str) -> bool:
    return isinstance(rows.get(key), Mapped)


def _columns(request: FolderRequest, folders: Folders, progress: Progress) -> Iterator[_Column]:
    """The metrics that are asked for, or those that may be defined for images without a task."""
    protocol, space = request.protocol, request.space
    made: dict[tuple[type[RowMaker], str], tuple[str, RowMaker | UserError]] = {}
    for parser in request.parsers:
        segmenters.registry.get(parser)  # an unknown one ends here, with the nearest one
    default = protocol.parsers.get(space.name, "") if space is not None else ""
    broken: dict[str, UserError] = {}
    if request.metrics is None:
        classes, broken = metrics.registry.all()
    else:
        classes = {name: metrics.registry.get(name) for name in request.metrics}
    for name, error in broken.items():
        progress.say(f"{name}: {reason_of(error)}")
    for name, cls in classes.items():
        shown = unasked(cls, protocol) and _defined(cls, folders)
        if request.metrics is None and not shown:
            continue
        maker = metrics.maker_of(cls)
        uses_parser = maker is not None and maker.uses_parser
        for k, parser in enumerate((request.parsers or (default,)) if uses_parser else ("",)):
            context = Context(
                fid=protocol.fid,
                dtype=protocol.dtype,
                ssim=protocol.ssim,
                parser=parser,
                space=space or BARE,
                device=request.device,
                compile=request.compile,
                weights=request.weights,
            )
            shown_as = name if k == 0 else f"{name}@{parser}"
            if maker is None:
                none = Unavailable("nothing was measured while these images were made")
                yield _Column(shown_as, cls, context, name, none)
                continue
            if "label" in maker.needs and request.labels is None:
                none = Unavailable(f"{name} needs label maps", "give --labels DIR --space NAME")
                yield _Column(shown_as, cls, context, name, none)
                continue
            if (maker, parser) not in made:
                key, taken = maker_key(maker, context), {key for key, _ in made.values()}
                key += f"-{len(made)}" if key in taken else ""  # two makers of one name
                made[maker, parser] = key, _built(maker, context)
            yield _Column(shown_as, cls, context, *made[maker, parser])


def _built(maker: type[RowMaker], context: Context) -> RowMaker | UserError:
    try:
        return maker.from_context(context)
    except Exception as error:  # a maker of anybody's: its own empty cell, and no other's
        return as_user_error(error)


def _defined(cls: type[Metric], folders: Folders) -> bool:
    """Whether a metric that nobody asked for has a meaning for these folders."""
    maker = metrics.maker_of(cls)
    there = {"image"} | ({"target"} if folders.paired else set())
    there |= {"label"} if folders.labels else set()
    if maker is None or "reconstruct" not in cls.tasks or cls.real == "train":
        return False
    return maker.needs <= there and bool(cls.real or maker.needs & {"target", "label"})


def _lacks(maker: RowMaker, folders: Folders) -> UserError:
    lacking = [n for n in sorted(maker.needs) if not any(folders.has(s, n) for s in folders.images)]
    if lacking == ["target"]:
        return Unavailable(
            "it compares pairs, and no image shares its stem with a photograph",
            "name both alike, or give a pattern as '{id}_fake'",
        )
    return Unavailable(f"it needs {', '.join(lacking)}, and two folders have none")


def _real(column: _Column, request: FolderRequest) -> bool:
    return bool(request.protocol.real.get(column.cls.name, column.cls.real))


def _tell(
    rows: Mapping[str, Mapped | UserError], real: Mapping[str, Mapped | UserError], to: Progress
) -> None:
    """Name what could not be read, once."""
    for what, found in (("images", rows), ("photographs", real)):
        left: dict[str, str] = {}
        for one in found.values():
            left |= dict(one.left_out) if isinstance(one, Mapped) else {}
        for item, reason in list(left.items())[:_NAMED]:
            to.say(f"left out of the {what}: {item}: {reason}")
        if len(left) > _NAMED:
            to.say(f"left out of the {what}: {len(left) - _NAMED} more")


def _record(
    column: _Column,
    rows: Mapped | UserError | None,
    reals: Mapping[str, Mapped | UserError],
    folders: Folders,
) -> ScoreRecord:
    request, cls = folders.request, column.cls
    protocol, name = request.protocol, request.images.resolve().name

    def base(reason: str = "", marks: tuple[str, ...] = ()) -> ScoreRecord:
        return ScoreRecord(
            method=name,
            title=name,
            dataset=request.reference.resolve().name,
            task=TASK,
            metric=column.name,
            protocol=protocol.id,
            value=None,
            reason=reason,
            marks=marks,
        )

    own = column.maker if isinstance(column.maker, UserError) else rows
    if not isinstance(own, Mapped):
        return base(reason_of(own) if own is not None else "")
    assert isinstance(column.maker, RowMaker)
    real = reals.get(column.key) if _real(column, request) else None
    if isinstance(real, UserError):
        return base(reason_of(real))
    columns = dict(own.columns) | {"target_id": np.array(own.ids)}
    try:
        metric = cls.from_context(column.context)
        against = None if real is None else real.columns
        score = metric.reduce(columns, against, seed=protocol.seed)
        score = conventional(metric, score, columns, protocol)
    except Exception as error:  # a metric of anybody's: its own empty cell, and no other's
        return base(reason_of(as_user_error(error)))
    basis = basis_of(column.maker, cls, protocol, folders.size)
    extra = resized_basis(basis, folders.resized)
    if real is not None:
        extra["real_split"] = "given"
    marks = _marks(column.maker, own, real, folders)
    return filled(base(marks=marks), score, extra)


def _marks(maker: RowMaker, own: Mapped, real: Mapped | None, folders: Folders) -> tuple[str, ...]:
    total, marks = len(folders.images), []
    for field_, what in (("target", "a photograph"), ("label", "a label map")):
        having = sum(folders.has(stem, field_) for stem in folders.images)
        if field_ in maker.needs and having < total:
            marks.append(f"{having} of {total} images have {what}")
    if own.left_out:
        marks.append(f"{len(own.left_out)} of {total} images left out: their files are bad")
    if real is not None and real.left_out:
        n = len(real.ids) + len(real.left_out)
        marks.append(f"{len(real.left_out)} of {n} photographs left out: their files are bad")
    return tuple(marks)
