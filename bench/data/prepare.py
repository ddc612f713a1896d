"""``sisbench prepare``: from an official layout to images/ + labels/ at one size."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sisbench.core.errors import UserError
from sisbench.core.store import write_atomic
from sisbench.data.base import Dataset
from sisbench.data.images import read_ids, read_image

PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
"""The last chunk of a whole PNG; Pillow decodes files without it."""
ABOUT = "prepared.json"
"""Beside images/ and labels/: what they were prepared from, so that no folder holds a mixture."""


def png_bytes(array: np.ndarray) -> bytes:
    """An array of 8 bits, (H, W) or (H, W, 3), or of 16 bits, (H, W), as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def label_png(label: np.ndarray) -> bytes:
    """A label map (H, W) of ids 0..65535 as PNG: 8 bits where they are enough, else 16.

    Raises:
        UserError: an id that 16 bits do not hold.
    """
    low, high = int(label.min()), int(label.max())
    if low < 0 or high > 0xFFFF:
        raise UserError(f"label values {low}..{high} do not fit a PNG of 16 bits")
    return png_bytes(label.astype(np.uint8 if high <= 0xFF else np.uint16))


def prepare(
    dataset: Dataset,
    out: Path,
    advance: Callable[[int], None] = lambda _: None,
    workers: int = 2,
) -> tuple[int, int]:
    """Write OUT/SPLIT/{images,labels}/ID.png at the data set's size. Pairs that are there and whole
    are kept; damaged ones are written anew.

    Args:
        dataset: an opened split.
        out: folder of the prepared layout.
        advance: called with 1 for each item.
        workers: threads.

    Returns:
        (pairs written, pairs that were there already).

    Raises:
        UserError: a corrupt item (what is written stays; run again after mending it); OUT holds
            pairs of another data set, split or size.
    """
    where = out / dataset.split
    images, labels = where / "images", where / "labels"
    _same_source(where, dataset)

    def one(sample_id: str) -> bool:
        image, label = images / f"{sample_id}.png", labels / f"{sample_id}.png"
        fresh = not _whole(image, label, dataset.size)
        if fresh:
            sample = dataset.load(sample_id)
            write_atomic(image, png_bytes(sample.image))
            write_atomic(label, label_png(sample.label))
        advance(1)
        return fresh

    with ThreadPoolExecutor(max(1, workers)) as pool:
        written = sum(pool.map(one, dataset.ids))
    return written, len(dataset.ids) - written


def _same_source(where: Path, dataset: Dataset) -> None:
    """Refuse a folder of other pairs; note in a new one what it is of."""
    about: dict[str, Any] = {
        "dataset": dataset.name,
        "split": dataset.split,
        "size": list(dataset.size),
        "space": dataset.space.name,
    }
    note = where / ABOUT
    if note.is_file():
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if isinstance(found, dict) and found != about:
            differing = [k for k in about if found.get(k) != about[k]]
            said = ", ".join(f"{k} {found.get(k)} (now {about[k]})" for k in differing)
            raise UserError(f"{where} holds pairs of another kind: {said}", "give another folder")
    else:
        for folder in (where / "images", where / "labels"):
            first = next(folder.glob("*.png"), None) if folder.is_dir() else None
            if first is not None:
                _check_size(first, dataset.size)
    write_atomic(note, (json.dumps(about, indent=1) + "\n").encode())


def _check_size(path: Path, size: tuple[int, int]) -> None:
    try:
        with Image.open(path) as picture:
            found = (picture.height, picture.width)
    except OSError:
        return  # damaged: it is written anew
    if found != size:
        have, want = (f"{w}x{h}" for h, w in (found, size))
        raise UserError(f"{path} is {have}, the pairs are to be {want}", "give another folder")


def _whole(image: Path, label: Path, size: tuple[int, int]) -> bool:
    """Whether a pair is there, decodes, and has the size."""
    try:
        ended = all(path.read_bytes()[-12:] == PNG_END for path in (image, label))
        return ended and read_image(image, None)[1] == size and read_ids(label, None)[1] == size
    except OSError:
        return False
    except UserError:
        return False
