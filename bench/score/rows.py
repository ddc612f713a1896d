"""The map half of scoring: one decode an image, every row maker at once, rows kept by content."""

from __future__ import annotations

import io
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sisbench.core.adapter_file import as_user_error
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.progress import Progress
from sisbench.core.store import read_npz, write_atomic
from sisbench.score.sources import Source

if TYPE_CHECKING:
    from torch import Tensor

    from sisbench.metrics.base import ImageBatch, RowMaker, Rows

BATCH = 16
PART = 128
"""Images after which the rows so far are kept, so that a killed pass resumes and several processes
share one; whole batches."""
_LEFT_OUT = ("left_out_ids", "left_out_reasons")


@dataclass(frozen=True)
class Mapped:
    """Rows of a source.

    Attributes:
        ids: items that have a row, in the source's order; columns: name -> (n, ...).
        left_out: item id -> why it has none (a file that cannot be read, mostly).
        path: where they are kept, or None; real_set: what stands in the photographs' place, or "".
    """

    ids: tuple[str, ...]
    columns: Rows
    left_out: Mapping[str, str]
    path: Path | None = None
    real_set: str = ""


def map_rows(
    source: Source,
    makers: Mapping[str, RowMaker],
    progress: Progress,
    workers: int = 0,
    share: tuple[int, int] = (0, 1),
) -> dict[str, Mapped | UserError]:
    """Rows by maker name, from disk where they are there; the rest in one pass over the images,
    which decodes what its makers need and nothing else.

    An item whose files are bad is left out of the rows that need them. A maker that a source has
    nothing for (no paired target, say), or that raises anything, gives its error instead.

    Args:
        workers: threads that decode batches ahead; 0 decodes in between.
        share: (k, n) maps the k-th of n equal shares of the parts and keeps them; the pass that
            maps the rest joins them. It returns nothing of a maker whose rows are not whole.
    """
    shared = share != (0, 1)
    passes = [_Pass(source, name, maker, progress, shared) for name, maker in makers.items()]
    # a share that cannot be kept is of no use to anybody
    open_ = [p for p in passes if p.result is None and (p.has_place or not shared)]
    if open_:
        own = _parts_of(source, share)
        starts = [
            s for s in range(0, len(source.ids), BATCH) if s // PART in own and _wanted(open_, s)
        ]
        total = sum(len(source.ids[p * PART : (p + 1) * PART]) for p in own)
        done = total - sum(min(BATCH, len(source.ids) - s) for s in starts)
        with progress.bar(source.label, total, done) as advance:
            for decoded in _ahead(source, starts, open_, workers):
                for one in open_:
                    one.take(decoded)
                if all(p.result is not None for p in open_):
                    break
                advance(len(decoded.positions))
        for one in () if shared else open_:
            one.finish()
    return {p.name: p.kept() for p in passes if p.result is not None}


def _parts_of(source: Source, share: tuple[int, int]) -> frozenset[int]:
    """Numbers of the parts that belong to a share; sources of one part go to different shares."""
    k, n = share
    first = zlib.crc32(source.label.encode())
    return frozenset(p for p in range(-(-len(source.ids) // PART)) if (p + first) % n == k)


def has_rows(source: Source, name: str, maker: RowMaker) -> bool:
    """Whether ``map_rows`` would find them on disk."""
    path = _path(source, name, maker)
    return path is not None and _read(path, source.ids) is not None


@dataclass(frozen=True)
class _Decoded:
    """The fields of a batch, item by item; an item that could not be read has its error."""

    source: Source
    positions: range
    fields: Mapping[str, Sequence[np.ndarray | UserError | None]]

    def failures(self, names: Sequence[str]) -> dict[int, str]:
        """Index within the batch -> why one of its fields could not be read."""
        found: dict[int, str] = {}
        for name in names:
            for k, value in enumerate(self.fields[name]):
                if isinstance(value, UserError):
                    found.setdefault(k, value.message)
        return found

    def batch(self, names: Sequence[str], rows: Sequence[int]) -> ImageBatch:
        """The items ``rows`` with the fields ``names``; a field that one lacks is None."""
        from sisbench.metrics.base import ImageBatch

        nothing = dict.fromkeys(("image", "target", "label", "reference", "classes"))
        found: dict[str, Any] = dict(nothing)
        for name in names:
            values = [self.fields[name][k] for k in rows]
            arrays = [v for v in values if isinstance(v, np.ndarray)]
            found[name] = _tensor(arrays) if len(arrays) == len(values) else None
        ids = [self.source.ids[self.positions[k]] for k in rows]
        return ImageBatch(ids=ids, space=self.source.space, **found)


def _tensor(arrays: Sequence[np.ndarray]) -> Tensor:
    """Stacked arrays; pictures (..., H, W, 3) become (..., 3, H, W)."""
    import torch

    stacked = torch.from_numpy(np.stack(arrays))
    if stacked.dtype != torch.uint8:
        return stacked if stacked.dtype == torch.bool else stacked.long()
    return stacked.movedim(-1, -3).contiguous()


@dataclass
class _Part:
    """Rows of one part of a source, growing."""

    ids: list[str] = field(default_factory=list)
    columns: list[Rows] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def mapped(self) -> Mapped:
        names = self.columns[0] if self.columns else ()
        joined = {c: np.concatenate([rows[c] for rows in self.columns]) for c in names}
        return Mapped(tuple(self.ids), joined, dict(self.left_out))


class _Pass:
    """One maker's way through a source: parts of an earlier pass are kept, the rest is made.

    Attributes:
        result: its rows or its error once they are known.

    Args:
        shared: other processes map the other parts: every part is kept.
    """

    def __init__(
        self, source: Source, name: str, maker: RowMaker, progress: Progress, shared: bool = False
    ) -> None:
        self.source, self.name, self.maker, self.progress = source, name, maker, progress
        self.fields: list[str] = []
        self.result: Mapped | UserError | None = None
        self._parts: dict[int, Mapped] = {}
        self._growing = _Part()
        self._count = -(-len(source.ids) // PART)
        self._path: Path | None = None
        self._told, self._shared = False, shared
        try:
            self.fields = _fields(maker)
            self._path = _path(source, name, maker)
        except Exception as error:  # a maker of anybody's
            self.result = as_user_error(error)
            return
        if self._path is None:
            return
        self.result = _read(self._path, source.ids)
        if self.result is None:
            for k in range(self._count):
                kept = _read(self._part_path(k), self._part_ids(k))
                if kept is not None:
                    self._parts[k] = kept

    @property
    def has_place(self) -> bool:
        """Whether its rows have a place on disk."""
        return self._path is not None

    def wants(self, start: int) -> bool:
        """Whether the batch from ``start`` on is still to be mapped."""
        return self.result is None and start // PART not in self._parts

    def take(self, decoded: _Decoded) -> None:
        """Map a batch."""
        start = decoded.positions.start
        if not self.wants(start):
            return
        bad = decoded.failures(self.fields)
        good = [k for k in range(len(decoded.positions)) if k not in bad]
        for k, reason in bad.items():
            self._growing.left_out[self.source.ids[decoded.positions[k]]] = reason
        last = decoded.positions.stop == len(self.source.ids)
        try:
            if good:
                self._map(decoded, good)
            if last or decoded.positions.stop % PART == 0:
                self._close(start // PART)
        except Exception as error:  # a maker of anybody's: its own empty cell, and no other's
            self.result = as_user_error(error)

    def _map(self, decoded: _Decoded, good: Sequence[int]) -> None:
        """Rows of the good items; where one of them is refused, of each by itself."""
        batch = decoded.batch(self.fields, good)
        try:
            self._add(batch, self.maker.rows(batch))
            return
        except Unavailable:
            raise
        except UserError as error:
            first, refused = error, {}
        for k in good:
            one = decoded.batch(self.fields, [k])
            try:
                self._add(one, self.maker.rows(one))
            except UserError as error:
                refused[one.ids[0]] = error.message
        if len(refused) == len(good) and decoded.positions.start == 0:
            raise first  # none of the first batch: it cannot take such images at all
        self._growing.left_out.update(refused)

    def _add(self, batch: ImageBatch, rows: Rows) -> None:
        for column, values in rows.items():
            if len(values) != len(batch.ids):
                raise UserError(
                    f"{self.name}: column '{column}' has {len(values)} rows for "
                    f"{len(batch.ids)} images"
                )
        self._growing.ids += batch.ids
        self._growing.columns.append(rows)

    def _close(self, part: int) -> None:
        self._parts[part], self._growing = self._growing.mapped(), _Part()
        if self._path is not None and (self._shared or len(self._parts) < self._count):
            self._write(self._part_path(part), self._parts[part])

    def finish(self) -> None:
        """Join the parts, keep the whole, remove the parts and what is stale."""
        if self.result is not None:
            return
        kept = False
        try:
            self.result = self._joined()
            if isinstance(self.result, Mapped) and self._path is not None:
                kept = self._write(self._path, self.result)
        except Exception as error:  # a maker of anybody's: columns that are no rows
            self.result = as_user_error(error)
        if kept:
            self._clean()

    def _joined(self) -> Mapped | UserError:
        parts = [self._parts[k] for k in range(self._count)]
        whole = _Part(
            ids=[i for p in parts for i in p.ids],
            columns=[p.columns for p in parts if p.ids],
            left_out={k: v for p in parts for k, v in p.left_out.items()},
        ).mapped()
        if whole.ids:
            return whole
        reason = next(iter(whole.left_out.values()), "there are no images")
        return UserError(f"none of {len(self.source.ids)} items can be read: {reason}")

    def kept(self) -> Mapped | UserError:
        """The result, with the file that holds it."""
        assert self.result is not None  # the pass has ended
        if isinstance(self.result, UserError) or self._path is None or not self._path.is_file():
            return self.result
        return replace(self.result, path=self._path)

    def _clean(self) -> None:
        assert self._path is not None
        prefix = self._path.name.rpartition("-")[0] if self.source.own else self._path.stem
        for other in self._path.parent.glob("*.npz"):
            if other.name.startswith(prefix) and other != self._path:
                stale = self.source.own or ".part" in other.name
                if stale:
                    other.unlink(missing_ok=True)

    def _part_ids(self, part: int) -> tuple[str, ...]:
        return self.source.ids[part * PART : (part + 1) * PART]

    def _part_path(self, part: int) -> Path:
        assert self._path is not None
        return self._path.with_name(f"{self._path.stem}.part{part:05d}.npz")

    def _write(self, path: Path, rows: Mapped) -> bool:
        """Whether rows could be kept; where not, they are made anew the next time."""
        buffer = io.BytesIO()
        left = rows.left_out
        more = dict(zip(_LEFT_OUT, (list(left), list(left.values())), strict=True)) if left else {}
        named = {key: np.array(texts) for key, texts in more.items()}
        np.savez(buffer, ids=np.array(rows.ids, str), **named, **dict(rows.columns))  # type: ignore[arg-type]
        try:
            write_atomic(path, buffer.getvalue())
        except OSError as error:
            if not self._told:
                self.progress.say(f"rows are not kept: {error}")
                self._told = True
            return False
        return True


def _fields(maker: RowMaker) -> list[str]:
    """The fields of a batch that a maker reads.

    Raises:
        UserError: it names one that there is not.
    """
    from sisbench.metrics.base import ImageBatch

    named = sorted(frozenset(maker.needs) | frozenset(maker.uses))
    known = ImageBatch.__dataclass_fields__.keys() - {"ids", "space"}
    for name in named:
        if name not in known:
            raise UserError(f"{maker.name} needs '{name}', which is no field of a batch")
    return named


def _wanted(passes: Sequence[_Pass], start: int) -> bool:
    return any(p.wants(start) for p in passes)


def _ahead(
    source: Source, starts: Sequence[int], passes: Sequence[_Pass], workers: int
) -> Iterator[_Decoded]:
    """The batches in order, ``workers`` of them in the making, with the fields still wanted."""

    def decode(start: int) -> _Decoded:
        positions = range(start, min(start + BATCH, len(source.ids)))
        names = {name for p in passes if p.wants(start) for name in p.fields}
        return _Decoded(
            source, positions, {n: [_try(source, n, at) for at in positions] for n in sorted(names)}
        )

    if not workers:
        yield from map(decode, starts)
        return
    waiting: deque[Future[_Decoded]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for start in starts:
                waiting.append(pool.submit(decode, start))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _try(source: Source, name: str, at: int) -> np.ndarray | UserError | None:
    try:
        return source.read(name, at)
    except Exception as error:  # whatever a decoder or a data set of anybody's raises
        return as_user_error(error)


def _path(source: Source, name: str, maker: RowMaker) -> Path | None:
    if source.folder is None:
        return None
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
    content = source.content(frozenset(maker.needs) | frozenset(maker.uses))
    return source.folder / f"{plain}-{maker.fingerprint()[:12]}-{content}.npz"


def _read(path: Path, ids: tuple[str, ...]) -> Mapped | None:
    """Stored rows; None where there are none, or the file is damaged (they are made anew)."""
    try:
        columns = read_npz(path)
        own = tuple(columns.pop("ids").tolist())
        names, reasons = (columns.pop(k, np.array([], str)).tolist() for k in _LEFT_OUT)
        left_out = dict(zip(names, reasons, strict=False))
        fits = all(len(values) == len(own) for values in columns.values())
    except (OSError, KeyError, TypeError):  # damaged, or of other arrays than rows are
        return None
    whole = tuple(i for i in ids if i not in left_out) == own
    return Mapped(own, columns, left_out) if whole and fits and (columns or not own) else None
