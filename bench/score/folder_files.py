"""The files of two folders that are compared: pairs by stem, one size, label maps."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.file_hash import cache_dir, file_hashes
from sisbench.core.label_space import LabelSpace
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
from sisbench.protocol import Protocol
from sisbench.score.sources import Source

BARE = LabelSpace("none", ("everything",))
"""Stands where there are no label maps."""
_SEEN = "give the path as seen from the current folder"


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
        self.images = by_stem(request.images, IMAGE_SUFFIXES, _SEEN)
        self.real = by_stem(request.reference, IMAGE_SUFFIXES, _SEEN)
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
        used = set(ids.values())
        without = [i for i in self.real if i not in used]
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
        found = by_stem(request.labels, LABEL_SUFFIXES, _SEEN)
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

        ids, space = tuple(self.ids[stem] for stem in stems), self.request.space or BARE
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
        space = self.request.space or BARE
        return Source(folder, ids, space, read, content, f"photographs of {self.request.reference}")


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
