"""Paired folders: photographs and label maps joined by file stem, never by sorted position."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.file_hash import file_hashes
from sisbench.core.label_space import LabelSpace
from sisbench.core.resize import Filter
from sisbench.data.base import Dataset, Sample, short_of
from sisbench.data.images import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    check_aspect,
    check_label,
    read_ids,
    read_image,
)

_SHOWN = 5


def as_size(size: int | Sequence[int] | None, default: tuple[int, int]) -> tuple[int, int]:
    """``256`` or ``[H, W]`` as (H, W).

    Raises:
        UserError: not one or two positive whole numbers.
    """
    if size is None:
        return default
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or any(not isinstance(v, int) or v < 1 for v in pair):
        raise UserError(f"'size' must be a side or [height, width] in pixels, got {size!r}")
    return (pair[0], pair[1])


def natural_key(stem: str) -> tuple[int, int, str]:
    """Sort key: numbers by value before names, so that 2 stands before 10."""
    return (0, int(stem), stem) if stem.isdigit() else (1, 0, stem)


def by_stem(
    folder: Path, suffixes: Sequence[str], remedy: str = "check 'root' and 'split'"
) -> dict[str, Path]:
    """Files of ``folder`` by stem, in natural order. Hidden files (macOS leaves ``._0.jpg`` beside
    ``0.jpg``) and folders are passed over.

    Args:
        remedy: what to do where there is no such folder.

    Raises:
        UserError: no such folder, no such files, two files of one stem, or a name that cannot
            stand in tables and paths.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}", f"looked for {folder.absolute()}: {remedy}")
    files, others = [], set()
    for entry in sorted(listed(folder), key=lambda e: e.name):
        suffix = Path(entry.name).suffix.lower()
        if entry.name.startswith(".") or not entry.is_file():
            continue
        if suffix in suffixes:
            files.append(folder / entry.name)
        else:
            others.add(suffix)
    if not files:
        raise UserError(f"{folder} holds no files of type {', '.join(suffixes)}", _why(others))
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in found:
            raise UserError(f"two files of one stem: {found[path.stem]} and {path}", "remove one")
        if not path.stem.isprintable():
            raise UserError(
                f"the name of {path.name!a} in {folder} has control or undecodable characters",
                "rename the file: its stem is the id in every table and path",
            )
        found[path.stem] = path
    return dict(sorted(found.items(), key=lambda item: natural_key(item[0])))


def listed(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error


def _why(others: set[str]) -> str:
    if others & {".jpg", ".jpeg"}:
        return "JPEG changes class ids at every border, which lowers mIoU: export label maps as PNG"
    return f"it holds {', '.join(sorted(others)[:5])}" if others - {""} else "is it the right one?"


def pair(left: dict[str, Path], right: dict[str, Path], what: str) -> None:
    """Refuse stems without a partner.

    Raises:
        UserError: names some of them and both folders.
    """
    alone = [s for s in left if s not in right] + [s for s in right if s not in left]
    if alone:
        names = ", ".join(alone[:_SHOWN]) + (", ..." if len(alone) > _SHOWN else "")
        folders = f"{next(iter(left.values())).parent} and {next(iter(right.values())).parent}"
        raise UserError(
            f"{len(alone)} of {len(left)} items have no {what}: {names} (in {folders})",
            "a photograph and its label map share their file stem",
        )


def looked_up(label: np.ndarray, table: np.ndarray, path: Path) -> np.ndarray:
    """``table[label]`` (H, W) int64.

    Args:
        table: (N,) class id of each stored value 0..N-1.

    Raises:
        UserError: a stored value that the table does not know.
    """
    if label.min() < 0 or label.max() >= len(table):
        low, high = int(label.min()), int(label.max())
        raise UserError(
            f"{path}: stored values {low}..{high} where 0..{len(table) - 1} are known",
            "is this the right data set, and are these ids rather than colours?",
        )
    return np.asarray(table[label], np.int64)


def choose(ids: Sequence[str], limit: int | None, where: object) -> tuple[str, ...]:
    """The first ``limit`` ids.

    Raises:
        UserError: nothing is left, or a limit below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"'limit' must be at least 1, got {limit}")
    chosen = tuple(ids if limit is None else ids[:limit])
    if not chosen:
        raise UserError(f"no items in {where}", "check 'root' and 'split'")
    return chosen


class PairedFolders(Dataset):
    """images/STEM.jpg + labels/STEM.png (+ instances/STEM.png), at one size.

    Raises:
        UserError: missing folders, unpaired or doubled stems.
    """

    _by: Filter = "bicubic"
    _stored_labels = False
    _official: int | None = None
    """Photographs of a complete download, where known; None too where ``limit`` leaves some out."""

    def __init__(
        self,
        space: LabelSpace,
        split: str,
        images: Path,
        labels: Path,
        instances: Path | None,
        size: int | Sequence[int] | None,
        limit: int | None,
    ) -> None:
        found = by_stem(instances, LABEL_SUFFIXES) if instances else None
        self._open(
            space,
            split,
            by_stem(images, IMAGE_SUFFIXES),
            by_stem(labels, LABEL_SUFFIXES),
            found,
            size,
            limit,
        )

    def _open(
        self,
        space: LabelSpace,
        split: str,
        images: dict[str, Path],
        labels: dict[str, Path],
        instances: dict[str, Path] | None,
        size: int | Sequence[int] | None,
        limit: int | None,
    ) -> None:
        """Take files by stem, in the order of ``images``."""
        self.space, self.split = space, split
        self._images, self._labels, self._instances = images, labels, instances
        pair(images, labels, "partner")
        if instances is not None:
            pair(images, instances, "instance map")
        where = next(iter(images.values())).parent
        self.ids = choose(tuple(images), limit, where)
        first = self._images[self.ids[0]]
        self.size = as_size(size, (0, 0)) if size is not None else read_image(first, None)[1]

    def load(self, sample_id: str) -> Sample:
        """Decode and validate one pair (see ``Dataset.load``)."""
        if sample_id not in self._images:
            raise UserError(f"no item '{sample_id}' in {self.name or 'the data set'} {self.split}")
        path = self._labels[sample_id]
        label, label_size = read_ids(path, None if self._stored_labels else self.size)
        size = label_size if self._stored_labels else self.size
        image, image_size = read_image(self._images[sample_id], size, self._by)
        check_aspect(image_size, label_size, path)
        label = self.relabelled(label, path)
        check_label(label, self.space, path)
        instance = None
        if self._instances is not None:
            instance, _ = read_ids(self._instances[sample_id], size)
        return Sample(sample_id, image, label, instance)

    def read_at(
        self, size: tuple[int, int], by: Filter = "bicubic", stored_labels: bool = False
    ) -> PairedFolders:
        """As ``Dataset.read_at``."""
        view = copy.copy(self)
        view.size, view._by, view._stored_labels = size, by, stored_labels
        return view

    def relabelled(self, label: np.ndarray, path: Path) -> np.ndarray:
        """Stored values (H, W) int64 as class ids of ``space``; by default they are these."""
        return label

    def remarks(self) -> list[str]:
        """Photographs that the download lacks."""
        return short_of(len(self.ids), self._official, f"photographs of '{self.split}'")

    def files(self, sample_id: str) -> list[Path]:
        """Every file that one sample is made of."""
        groups = (self._images, self._labels, self._instances or {})
        return [group[sample_id] for group in groups if sample_id in group]

    def fingerprint(self) -> str:
        """sha256 over label space, size, ids and the contents of all their files."""
        return files_fingerprint(self)


def files_fingerprint(dataset: Dataset) -> str:
    """sha256 of a data set whose ``files(id)`` lists the files of a sample."""
    groups = {i: dataset.files(i) for i in dataset.ids}  # type: ignore[attr-defined]
    hashes = file_hashes([path for group in groups.values() for path in group])
    digest = hashlib.sha256(f"{dataset.space!r}{dataset.size}{dataset.split}".encode())
    for sample_id, paths in groups.items():
        digest.update(sample_id.encode())
        for path in paths:
            digest.update(path.name.encode())
            digest.update(hashes[path])
    return digest.hexdigest()
