"""Scoring two folders of images without a run: pairs by stem, or whole sets."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from sisbench import metrics, segmenters
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.file_hash import file_hashes
from sisbench.core.label_space import LabelSpace
from sisbench.core.log import ScoreRecord
from sisbench.core.progress import Progress
from sisbench.data.elsewhere import (
    check_filter,
    counted,
    read_at,
    resize_basis,
    shown,
    sizes_of,
    some,
)
from sisbench.data.images import IMAGE_SUFFIXES, LABEL_SUFFIXES, check_aspect, check_label, read_ids
from sisbench.data.paired import by_stem
from sisbench.metrics.base import Context, Metric, RowMaker
from sisbench.protocol import Protocol
from sisbench.score.rows import Mapped, as_user_error, map_rows
from sisbench.score.scorer import maker_key, reason_of, unasked
from sisbench.score.scores import basis_of, filled, resized_basis
from sisbench.score.sources import Source, cache_dir

TASK = "images"
"""The task of scores of two folders: which one it was, nobody knows."""
_NAMED = 5
_BARE = LabelSpace("none", ("everything",))


@dataclass(frozen=True)
class FolderRequest:
    """Two folders, and with what they are scored.

    Attributes:
        images, reference: generated images and photographs; pairs share their stem, or that by
            ``pattern``, as "{id}_fake" for an image of the photograph ``id``.
        labels, space: label maps by the stem of the photograph, and their classes.
        metrics: names; None takes those that are defined here.
        parsers: names; () takes the protocol's for ``space``.
        weights: files of metric weights by registry name.
        size: (H, W) of every image; None takes that of the photographs.
        resize: filter for images of another size; None refuses them.
        missing: what a stem without a partner is: "skip" (left out of pairs) or "error".
    """

    images: Path
    reference: Path
    protocol: Protocol
    labels: Path | None = None
    space: LabelSpace | None = None
    metrics: Sequence[str] | None = None
    parsers: Sequence[str] = ()
    weights: Mapping[str, str | Path] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    resize: str | None = None
    missing: str = "skip"
    pattern: str = "{id}"
    device: str = "cpu"
    compile: bool = False
    workers: int = 0


class Folders:
    """The files of a request.

    Attributes:
        images, real: files by stem; labels: label maps by the id of an image.
        ids: stem of an image -> the stem of its photograph, or its own where it has none.
        size: (H, W) of all; resized: how they come to it, or "".
        notes: what a user must know, one line each.

    Raises:
        UserError: empty or unreadable folders, images of other sizes without a filter, stems
            without a partner where that is an error, labels without their space.
    """

    def __init__(self, request: FolderRequest) -> None:
        check_filter(request.resize)
        if request.missing not in ("skip", "error"):
            raise UserError(f"'missing' is skip or error, got '{request.missing}'")
        self.request, self.notes = request, list[str]()
        self.images = by_stem(request.images, IMAGE_SUFFIXES)
        self.real = by_stem(request.reference, IMAGE_SUFFIXES)
        self.ids = self._partners()
        self.labels = self._label_maps()
        self.size, self.resized = self._one_size()

    @property
    def paired(self) -> list[str]:
        """Stems of the images that have a photograph."""
        return [stem for stem, partner in self.ids.items() if partner in self.real]

    def _partners(self) -> dict[str, str]:
        request = self.request
        own = {_formatted(request.pattern, stem): stem for stem in self.real}
        ids = {stem: own.get(stem, stem) for stem in self.images}
        alone = [stem for stem in self.images if stem not in own]
        without = sorted(set(self.real) - set(ids.values()), key=list(self.real).index)
        if request.pattern != "{id}":  # such an image is nobody's, even where its stem is one
            ids |= {stem: f"{request.images.name}/{stem}" for stem in alone}
        if len(alone) == len(ids):
            self.notes.append(
                f"no image of {request.images} has the stem of one in {request.reference}: scores "
                "of whole sets only, none of pairs"
            )
        elif alone:
            text = f"{len(alone)} of {len(ids)} images have no photograph: {some(alone)}"
            self.notes.append(text)
        if without and len(alone) < len(ids):
            text = f"{len(without)} of {len(self.real)} photographs have no image: {some(without)}"
            self.notes.append(text)
        if self.notes and request.missing == "error":
            raise UserError("; ".join(self.notes), "bring the files, or: missing skip")
        return ids

    def _label_maps(self) -> dict[str, Path]:
        request = self.request
        if request.labels is None:
            if request.space is not None:
                raise UserError("a label space needs label maps", "give --labels DIR too")
            return {}
        if request.space is None:
            raise UserError(
                f"label maps in {request.labels} need their label space",
                "give --space celebamask_hq, or a YAML file of one",
            )
        found = by_stem(request.labels, LABEL_SUFFIXES)
        alone = [i for i in self.ids.values() if i not in found]
        if len(alone) == len(self.ids):
            raise UserError(
                f"no label map of {request.labels} has the stem of an image", "pair them by stem"
            )
        if alone:
            text = f"{len(alone)} of {len(self.ids)} images have no label map: {some(alone)}"
            self.notes.append(text)
            if request.missing == "error":
                raise UserError(text, "bring the files, or: missing skip")
        return found

    def _one_size(self) -> tuple[tuple[int, int], str]:
        request = self.request
        own, real = sizes_of(self.images.values()), sizes_of(self.real.values())
        for sizes, folder in ((own, request.images), (real, request.reference)):
            if not sizes:
                raise UserError(f"no image in {folder} can be opened", "are these image files?")
        if request.size is None and len(real) > 1:
            raise UserError(
                f"{request.reference} holds images of several sizes: {counted(real)}",
                "name the size and a filter: --size 256 --resize bicubic",
            )
        size = request.size or next(iter(real))
        if request.resize is None and {*own, *real} - {size}:
            raise UserError(
                f"images of several sizes: {counted(own)} in {request.images}, {counted(real)} in "
                f"{request.reference}; expected {shown(size)}",
                "a filter brings them to one, and the scores say so: --resize bicubic",
            )
        return size, resize_basis(own + real, size, request.resize)

    def has(self, stem: str, name: str) -> bool:
        """Whether an image has a field of ``ImageBatch``."""
        if name == "target":
            return self.ids[stem] in self.real
        return self.ids[stem] in self.labels if name == "label" else name == "image"

    def label(self, of: str) -> np.ndarray:
        """(H, W) int64: the label map of an id, by PIL's nearest rule."""
        space, path = self.request.space, self.labels[of]
        assert space is not None  # checked where the label maps were found
        label, original = read_ids(path, self.size)
        check_aspect(self.size, (original[0], original[1]), path)
        check_label(label, space, path)
        return label

    def source(self, stems: Sequence[str]) -> Source:
        """Generated images as what is mapped; rows are not kept."""
        by = self.request.resize
        photograph = lru_cache(maxsize=64)(lambda i: read_at(self.real[i], self.size, by))

        def read(name: str, at: int) -> np.ndarray | None:
            stem = stems[at]
            if name == "image":
                return read_at(self.images[stem], self.size, by)
            if not self.has(stem, name):
                return None
            return photograph(self.ids[stem]) if name == "target" else self.label(self.ids[stem])

        ids, space = tuple(self.ids[stem] for stem in stems), self.request.space or _BARE
        label = f"scoring {self.request.images}"
        return Source(None, ids, space, read, lambda fields: "", label)

    def real_source(self) -> Source:
        """The photographs as a reference set; rows are kept by content in the user's cache."""
        ids, by = tuple(self.real), self.request.resize
        hashes = file_hashes(list(self.real.values()))
        text = "".join(f"{i}\0{hashes[self.real[i]].hex()}\n" for i in ids)
        mark = hashlib.sha256(f"{text}{self.size}{self.resized and by}".encode()).hexdigest()

        def read(name: str, at: int) -> np.ndarray | None:
            if name in ("image", "target"):
                return read_at(self.real[ids[at]], self.size, by)
            return self.label(ids[at]) if name == "label" and ids[at] in self.labels else None

        def content(fields: Collection[str]) -> str:
            maps = (
                [p for i, p in self.labels.items() if i in self.real] if "label" in fields else []
            )
            digests = sorted(v.hex() for v in file_hashes(maps).values())
            return hashlib.sha256("".join(digests).encode()).hexdigest()[:8]

        cache = cache_dir()
        folder = None if cache is None else cache / "rows" / mark[:16]
        space = self.request.space or _BARE
        return Source(folder, ids, space, read, content, f"photographs of {self.request.reference}")


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
    columns = list(_columns(request))
    folders = Folders(request)
    for note in folders.notes:
        progress.say(note)
    columns = [c for c in columns if request.metrics is not None or _defined(c, folders)]
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


def _columns(request: FolderRequest) -> Iterator[_Column]:
    """The metrics that are asked for, or those that may be defined for images without a task."""
    protocol, space = request.protocol, request.space
    made: dict[tuple[type[RowMaker], str], RowMaker | UserError] = {}
    for parser in request.parsers:
        segmenters.registry.get(parser)  # an unknown one ends here, with the nearest one
    default = protocol.parsers.get(space.name, "") if space is not None else ""
    for name in dict.fromkeys(request.metrics or metrics.registry.names()):
        cls = metrics.registry.get(name)
        if request.metrics is None:
            wanted = unasked(cls, protocol) and "reconstruct" in cls.tasks and cls.real != "train"
            if not wanted:
                continue
        maker = metrics.maker_of(cls)
        uses_parser = maker is not None and maker.uses_parser
        for k, parser in enumerate((request.parsers or (default,)) if uses_parser else ("",)):
            context = Context(
                fid=protocol.fid,
                dtype=protocol.dtype,
                ssim=protocol.ssim,
                parser=parser,
                space=space or _BARE,
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
                made[maker, parser] = _built(maker, context)
            yield _Column(shown_as, cls, context, maker_key(maker, context), made[maker, parser])


def _built(maker: type[RowMaker], context: Context) -> RowMaker | UserError:
    try:
        return maker.from_context(context)
    except Exception as error:  # a maker of anybody's: its own empty cell, and no other's
        return as_user_error(error)


def _defined(column: _Column, folders: Folders) -> bool:
    """Whether a metric that nobody asked for has a meaning for these folders."""
    maker = metrics.maker_of(column.cls)
    there = {"image"} | ({"target"} if folders.paired else set())
    there |= {"label"} if folders.labels else set()
    if maker is None or not maker.needs <= there:
        return False
    return bool(column.cls.real) or bool(maker.needs & {"target", "label"})


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
        other = request.reference.resolve().name
        place = {"method": name, "title": name, "dataset": other, "task": TASK}
        more = {"metric": column.name, "protocol": protocol.id, "value": None}
        return ScoreRecord(**place, **more, reason=reason, marks=marks)

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
    except Exception as error:  # a metric of anybody's: its own empty cell, and no other's
        return base(reason_of(as_user_error(error)))
    basis = basis_of(column.maker, cls, protocol, folders.size)
    extra = resized_basis(basis, folders.resized)
    if real is not None:
        extra["real_split"] = "given"
    marks = _marks(column.maker, own, real, folders)
    return filled(base(marks=marks), score, extra, cls, protocol)


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


def _formatted(pattern: str, stem: str) -> str:
    """The stem of the image of a photograph.

    Raises:
        UserError: the pattern has other fields than {id}, or none.
    """
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None}
        if names != {"id"}:
            raise UserError(f"the pattern '{pattern}' must hold {{id}}, and nothing else")
        return pattern.format(id=stem)
    except ValueError as error:
        raise UserError(f"'{pattern}' is no pattern: {error}") from error
