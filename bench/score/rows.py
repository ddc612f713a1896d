"""The map half of scoring: one decode an image, every row maker at once, rows kept by content."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import HOLE
from sisbench.core.progress import Progress
from sisbench.core.store import CellView, write_atomic
from sisbench.data import Dataset, Sample

if TYPE_CHECKING:
    from sisbench.metrics.base import ImageBatch, RowMaker, Rows

BATCH = 16
_HOLE_BYTE = 255
_CACHED_BYTES = 1 << 30


def cache_dir() -> Path:
    """Where rows of real photographs are kept: $SISBENCH_CACHE, or the user's cache folder."""
    given = os.environ.get("SISBENCH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "sisbench"


@dataclass
class Photographs:
    """A data set with its decoded samples kept while they fit into a gibibyte; for any thread."""

    dataset: Dataset
    fingerprint: str
    _kept: dict[str, Sample] = field(default_factory=dict)
    _bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def get(self, sample_id: str) -> Sample:
        """One sample; decoded once as long as it fits."""
        if sample_id in self._kept:
            return self._kept[sample_id]
        sample = self.dataset.load(sample_id)
        size = sample.image.nbytes + sample.label.nbytes
        with self._lock:
            if self._bytes + size <= _CACHED_BYTES and sample_id not in self._kept:
                self._kept[sample_id] = sample
                self._bytes += size
        return sample


@dataclass(frozen=True)
class Source:
    """A set of images to map: the generated ones of a cell, or the photographs of a split.

    Attributes:
        folder: where its rows are stored.
        ids: item ids in order; their hash is part of the rows' file name.
        batch: makes the batch of at most ``BATCH`` images from a position on; only called when
            rows are missing, and from several threads.
        label: what the progress bar says.
    """

    folder: Path
    ids: tuple[str, ...]
    batch: Callable[[int], ImageBatch]
    label: str


def in_groups(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Items in plan order; where a label map has several images, these follow each other."""
    groups = Counter(r["target"] for r in items)
    if max(groups.values(), default=1) == 1:
        return list(items)
    return sorted(items, key=lambda r: (r["target"], r["index"]))


def cell_source(
    view: CellView,
    items: Sequence[Mapping[str, Any]],
    photos: Photographs,
    sibling: CellView | None,
) -> Source:
    """The finished items of a cell.

    Args:
        items: item rows, without the failed ones.
        sibling: the same method's reconstructions, for figures of an edit's locality; or None.
    """

    def batch(start: int) -> ImageBatch:
        part = items[start : start + BATCH]
        made = _cell_batch(view, part, photos, sibling)
        return replace(made, siblings=_siblings(view, part, items))

    task, dataset = view.about["task"]["slug"], view.about["dataset"]["label"]
    label = f"scoring {view.about['method']['label']} {task} on {dataset}"
    return Source(view.folder / "rows", tuple(r["id"] for r in items), batch, label)


def real_source(photos: Photographs, limit_to: Sequence[str] | None = None) -> Source:
    """The photographs of a split, as a reference set; rows are cached for every run."""
    ids = tuple(photos.dataset.ids if limit_to is None else limit_to)

    def batch(start: int) -> ImageBatch:
        from sisbench.metrics.base import ImageBatch

        samples = [photos.get(i) for i in ids[start : start + BATCH]]
        image, label = _images([s.image for s in samples]), _labels([s.label for s in samples])
        names, space = [s.id for s in samples], photos.dataset.space
        return ImageBatch(names, image, image, label, None, None, space)

    folder = cache_dir() / "rows" / photos.fingerprint[:16]
    return Source(
        folder, ids, batch, f"photographs of {photos.dataset.name} {photos.dataset.split}"
    )


def map_rows(
    source: Source, makers: Mapping[str, RowMaker], progress: Progress, workers: int = 0
) -> dict[str, Rows | Unavailable]:
    """Rows by maker name, from disk where they are there; the rest in one pass over the images.

    A maker that a source has nothing for (no paired target, say) gives its ``Unavailable`` instead.

    Args:
        workers: threads that decode batches ahead; 0 decodes in between.
    """
    found: dict[str, Rows | Unavailable] = {}
    for name, maker in makers.items():
        path = _path(source, name, maker)
        stored = _read(path, source.ids)
        if stored is not None:
            found[name] = stored
    missing = {name: maker for name, maker in makers.items() if name not in found}
    if not missing:
        return found
    parts: dict[str, list[Rows]] = {name: [] for name in missing}
    with progress.bar(source.label, len(source.ids)) as advance:
        for batch in _ahead(source, workers):
            for name in list(missing):
                try:
                    parts[name].append(missing[name].rows(batch))
                except Unavailable as error:
                    found[name] = error
                    del missing[name]
            if not missing:
                break
            advance(len(batch.ids))
    for name, maker in missing.items():
        columns = {c: np.concatenate([p[c] for p in parts[name]]) for c in parts[name][0]}
        _write(_path(source, name, maker), source.ids, columns)
        found[name] = columns
    return found


def has_rows(source: Source, name: str, maker: RowMaker) -> bool:
    """Whether ``map_rows`` would find them on disk."""
    return _read(_path(source, name, maker), source.ids) is not None


def _ahead(source: Source, workers: int) -> Iterator[ImageBatch]:
    """The batches in order, ``workers`` of them in the making."""
    starts = range(0, len(source.ids), BATCH)
    if not workers:
        yield from map(source.batch, starts)
        return
    waiting: deque[Future[ImageBatch]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for start in starts:
                waiting.append(pool.submit(source.batch, start))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _path(source: Source, name: str, maker: RowMaker) -> Path:
    ids = hashlib.sha256("\0".join(source.ids).encode()).hexdigest()[:8]
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
    return source.folder / f"{plain}-{maker.fingerprint()[:12]}-{ids}.npz"


def _read(path: Path, ids: tuple[str, ...]) -> Rows | None:
    """Stored rows; None where there are none, or the file is damaged (they are made anew)."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            columns = {key: stored[key] for key in stored.files}
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return columns if tuple(columns.pop("ids").tolist()) == ids else None


def _write(path: Path, ids: tuple[str, ...], columns: Rows) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, ids=np.array(ids), **dict(columns))  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())


def _images(arrays: Sequence[np.ndarray]) -> Any:
    """(B, 3, H, W) uint8 tensor."""
    import torch

    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def _labels(arrays: Sequence[np.ndarray]) -> Any:
    import torch

    return torch.from_numpy(np.stack(arrays).astype(np.int64))


def _siblings(
    view: CellView, part: Sequence[Mapping[str, Any]], items: Sequence[Mapping[str, Any]]
) -> Any:
    """(B, K-1, 3, H, W) uint8: the other images of each item's label map, in the task ``sample``;
    None elsewhere, or where they are not equally many."""
    if view.about["task"]["name"] != "sample":
        return None
    members: dict[str, list[str]] = {}
    for row in items:
        members.setdefault(row["target"], []).append(row["id"])
    counts = {len(ids) for ids in members.values()}
    if len(counts) != 1 or counts == {1}:
        return None
    import torch

    pictures = {i: view.image(i) for row in part for i in members[row["target"]]}
    others = [[pictures[i] for i in members[r["target"]] if i != r["id"]] for r in part]
    return torch.stack([_images(group) for group in others])


def drawn_label(view: CellView, item: Mapping[str, Any], photos: Photographs) -> np.ndarray:
    """(H, W) int64: the label map that the image was drawn from, -1 where it has holes."""
    path = view.label_path(item["id"])
    if path is None:
        return photos.get(item["target"]).label
    from sisbench.data.images import read_ids

    label = read_ids(path, None)[0]
    return np.where(label == _HOLE_BYTE, HOLE, label)


def _truths(
    view: CellView, items: Sequence[Mapping[str, Any]], photos: Photographs
) -> list[np.ndarray] | None:
    """Paired ground truth: the photograph itself for a reconstruction, for another task what the
    data set renders; None where it renders nothing."""
    task = view.about["task"]["name"]
    if view.about.get("editor"):
        return None  # an edited label map has no photograph
    if task == "reconstruct":
        return [photos.get(r["target"]).image for r in items]
    if not all(r["reference"] for r in items):
        return None  # nothing to render a truth from
    truths = [photos.dataset.truth(task, r["target"], r["reference"], r["classes"]) for r in items]
    return [t for t in truths if t is not None] if all(t is not None for t in truths) else None


def _cell_batch(
    view: CellView,
    items: Sequence[Mapping[str, Any]],
    photos: Photographs,
    sibling: CellView | None,
) -> ImageBatch:
    import torch

    from sisbench.metrics.base import ImageBatch

    for row in items:
        if not view.image_path(row["id"]).is_file():
            raise UserError(
                f"{view.image_path(row['id'])} is gone", "run the same sisbench run again"
            )
    truths = _truths(view, items, photos)
    referenced = bool(items[0]["reference"])
    references = [photos.get(r["reference"]) for r in items] if referenced else []
    space = photos.dataset.space
    edited = torch.zeros(len(items), len(space), dtype=torch.bool)
    for k, row in enumerate(items):
        edited[k, row["classes"]] = True
    original = None
    if sibling is not None and all(sibling.image_path(r["target"]).is_file() for r in items):
        original = _images([sibling.image(r["target"]) for r in items])
    return ImageBatch(
        ids=[r["id"] for r in items],
        image=_images([view.image(r["id"]) for r in items]),
        target=None if truths is None else _images(truths),
        label=_labels([drawn_label(view, r, photos) for r in items]),
        reference=_images([s.image for s in references]) if referenced else None,
        classes=edited,
        space=space,
        reference_label=_labels([s.label for s in references]) if referenced else None,
        target_label=_labels([photos.get(r["target"]).label for r in items]),
        original=original,
        photograph=_images([photos.get(r["target"]).image for r in items]),
    )
