"""What can be mapped: the images of a cell or the photographs of a split, field by field."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.file_hash import cache_dir, file_hashes
from sisbench.core.label_space import LabelSpace
from sisbench.core.log import ItemRow
from sisbench.core.store import CellView
from sisbench.data import Dataset, Sample
from sisbench.data.images import read_drawn, read_image
from sisbench.score.pixels import Digests

_CACHED_BYTES = 1 << 30
_RECENT = 64
_OF_IMAGES = frozenset({"image", "siblings", "original", "classes"})
"""Fields that do not depend on the data set's files."""


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
        folder: where its rows are stored; None: nowhere.
        ids: item ids in order.
        space: label space of its label maps.
        read: (field of ``ImageBatch``, position) -> that item's array: pictures (H, W, 3) uint8,
            label maps (H, W) int64, ``classes`` (C,) bool, ``siblings`` (K - 1, H, W, 3) uint8;
            None where the task has no such field. It raises where the item's file is bad, and is
            called from several threads.
        content: names what the given fields hold: other pixels, another name.
        label: what the progress bar says.
        own: no other source keeps rows in ``folder``: stale ones are removed.
    """

    folder: Path | None
    ids: tuple[str, ...]
    space: LabelSpace
    read: Callable[[str, int], np.ndarray | None]
    content: Callable[[Collection[str]], str]
    label: str
    own: bool = False


def in_groups(items: Sequence[ItemRow]) -> list[ItemRow]:
    """Items in plan order; where a label map has several images, these follow each other."""
    groups = Counter(r.target for r in items)
    if max(groups.values(), default=1) == 1:
        return list(items)
    return sorted(items, key=lambda r: (r.target, r.index))


def real_source(photos: Photographs, limit_to: Sequence[str] | None = None) -> Source:
    """The photographs of a split, as a reference set; rows are cached for every run."""
    ids = tuple(photos.dataset.ids if limit_to is None else limit_to)
    sample = lru_cache(maxsize=_RECENT)(photos.get)

    def read(name: str, at: int) -> np.ndarray | None:
        if name in ("image", "target"):
            return sample(ids[at]).image
        return sample(ids[at]).label if name == "label" else None

    def content(_fields: Collection[str]) -> str:
        return hashlib.sha256("\0".join(ids).encode()).hexdigest()[:8]  # pixels: in the folder

    cache, dataset = cache_dir(), photos.dataset
    folder = None if cache is None else cache / "rows" / photos.fingerprint[:16]
    label = f"photographs of {dataset.name} {dataset.split}"
    return Source(folder, ids, dataset.space, read, content, label)


def cell_source(
    view: CellView,
    items: Sequence[ItemRow],
    photos: Photographs,
    sibling: CellView | None,
) -> Source:
    """The finished items of a cell.

    Args:
        items: item rows, without the failed ones.
        sibling: the same method's reconstructions, for scores of an edit's locality; or None.
    """
    reader = _CellReader(view, items, photos, sibling)
    method, dataset, task = view.entry.place
    return Source(
        folder=view.folder / "rows",
        ids=tuple(r.id for r in items),
        space=photos.dataset.space,
        read=reader.read,
        content=reader.content,
        label=f"scoring {method} {task} on {dataset}",
        own=True,
    )


class _CellReader:
    """Reads the fields of a cell's items, each file once while it is near."""

    def __init__(
        self,
        view: CellView,
        items: Sequence[ItemRow],
        photos: Photographs,
        sibling: CellView | None,
    ) -> None:
        self.view, self.items, self.photos, self.sibling = view, items, photos, sibling
        self.space = photos.dataset.space
        self.groups = self._groups()
        most = max((len(g) for g in self.groups.values()), default=1)
        self._sample = lru_cache(maxsize=_RECENT)(photos.get)
        self._image = lru_cache(maxsize=max(_RECENT, 2 * most))(self._read_image)

    def read(self, name: str, at: int) -> np.ndarray | None:
        """As ``Source.read``."""
        found: np.ndarray | None = getattr(self, f"_{name}_of")(self.items[at])
        return found

    def content(self, fields: Collection[str]) -> str:
        """As ``Source.content``."""
        own = _digests(self.view)
        others = None if self.sibling is None else _digests(self.sibling)
        data = "" if set(fields) <= _OF_IMAGES else self.photos.fingerprint
        entry, space = self.view.entry, self.space
        said: list[Any] = [data, entry.task.name, entry.editor is not None, space.name, len(space)]
        for row in self.items:
            said.append([row.id, row.target, row.reference, list(row.classes)])
            if "image" in fields:
                said.append(own.of(self.view.image_path(row.id)))
            if "label" in fields:
                path = self.view.drawn_path(row)
                said.append("" if path is None else own.of(path))
            if "siblings" in fields:
                group = self.groups.get(row.target, ())
                said.append([own.of(self.view.image_path(i)) for i in group])
            if "original" in fields and self.sibling is not None and others is not None:
                said.append(others.of(self.sibling.image_path(row.target)))
        for digests in (own, others):
            if digests is not None:
                digests.save()
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

    def _groups(self) -> dict[str, list[str]]:
        """Target -> ids of its images in the task ``sample``; empty elsewhere, or where they are
        not equally many."""
        if self.view.entry.task.name != "sample":
            return {}
        members: dict[str, list[str]] = {}
        for row in self.items:
            members.setdefault(row.target, []).append(row.id)
        counts = {len(ids) for ids in members.values()}
        return members if len(counts) == 1 and counts != {1} else {}

    def _read_image(self, path: Path) -> np.ndarray:
        try:
            image = read_image(path, None)[0]
        except UserError as error:
            raise UserError(error.message, "run the same sisbench run again") from error
        size = self.photos.dataset.size
        if image.shape[:2] != tuple(size):
            raise UserError(
                f"{path} is {image.shape[0]} x {image.shape[1]}, the data set {size[0]} x {size[1]}"
            )
        return image

    def _image_of(self, row: ItemRow) -> np.ndarray:
        return self._image(self.view.image_path(row.id))

    def _label_of(self, row: ItemRow) -> np.ndarray:
        path = self.view.drawn_path(row)
        return self._sample(row.target).label if path is None else read_drawn(path)

    def _photograph_of(self, row: ItemRow) -> np.ndarray:
        return self._sample(row.target).image

    def _target_label_of(self, row: ItemRow) -> np.ndarray:
        return self._sample(row.target).label

    def _reference_of(self, row: ItemRow) -> np.ndarray | None:
        return self._sample(row.reference).image if row.reference else None

    def _reference_label_of(self, row: ItemRow) -> np.ndarray | None:
        return self._sample(row.reference).label if row.reference else None

    def _classes_of(self, row: ItemRow) -> np.ndarray:
        edited = np.zeros(len(self.space), bool)
        # a method may know more classes than the label space, as a don't-care class
        edited[[c for c in row.classes if c < len(edited)]] = True
        return edited

    def _siblings_of(self, row: ItemRow) -> np.ndarray | None:
        others = [i for i in self.groups.get(row.target, ()) if i != row.id]
        return np.stack([self._image(self.view.image_path(i)) for i in others]) if others else None

    def _original_of(self, row: ItemRow) -> np.ndarray | None:
        if self.sibling is None:
            return None
        return self._image(self.sibling.image_path(row.target))

    def _target_of(self, row: ItemRow) -> np.ndarray | None:
        """Paired ground truth: the photograph itself for a reconstruction, for another task what
        the data set renders; None where it renders nothing."""
        task = self.view.entry.task.name
        if self.view.entry.editor is not None:
            return None  # an edited label map has no photograph
        if task == "reconstruct":
            return self._sample(row.target).image
        if not row.reference:
            return None  # nothing to render a truth from
        truth = self.photos.dataset.truth
        return truth(task, row.target, row.reference, row.classes)


def replaced(view: CellView, items: Sequence[ItemRow]) -> list[str]:
    """Ids of items whose image or drawn label map is another file than the run wrote, by its hash;
    files that are gone or cannot be read are told elsewhere."""
    files = {view.image_path(row.id): (row.id, row.sha256) for row in items if row.sha256}
    for row in items:
        if row.label_sha256 and (path := view.drawn_path(row)) is not None:
            files[path] = (row.id, row.label_sha256)
    try:
        hashes = file_hashes([path for path in files if path.is_file()])
    except UserError:
        return []
    return list(dict.fromkeys(files[p][0] for p, h in hashes.items() if h.hex() != files[p][1]))


def _digests(view: CellView) -> Digests:
    return Digests(view.folder, view.folder / "rows" / "digests.json")


def drawn_label(view: CellView, item: ItemRow, photos: Photographs) -> np.ndarray:
    """(H, W) int64: the label map that the image was drawn from, -1 where it has holes."""
    path = view.drawn_path(item)
    return photos.get(item.target).label if path is None else read_drawn(path)
