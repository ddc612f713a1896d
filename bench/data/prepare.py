"""``sisbench prepare``: from an official layout to images/ + labels/ at one size."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from sisbench.core.errors import UserError
from sisbench.core.store import write_atomic
from sisbench.data.base import Dataset


def png_bytes(array: np.ndarray) -> bytes:
    """An 8-bit array, (H, W) or (H, W, 3), as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def prepare(
    dataset: Dataset,
    out: Path,
    advance: Callable[[int], None] = lambda _: None,
    workers: int = 2,
) -> tuple[int, int]:
    """Write OUT/SPLIT/{images,labels}/ID.png, 8-bit, at the data set's size; keep existing pairs.

    Args:
        dataset: an opened split.
        out: folder of the prepared layout.
        advance: called with 1 for each item.
        workers: threads.

    Returns:
        (pairs written, pairs that were there already).

    Raises:
        UserError: a corrupt item (pairs written so far stay: mend it and run again), or labels
            beyond 8 bits.
    """
    if len(dataset.space) > 255:
        raise UserError(f"'{dataset.space.name}' has more classes than an 8-bit label map holds")
    images, labels = (out / dataset.split / part for part in ("images", "labels"))

    def one(sample_id: str) -> bool:
        image, label = images / f"{sample_id}.png", labels / f"{sample_id}.png"
        fresh = not (image.is_file() and label.is_file())
        if fresh:
            sample = dataset.load(sample_id)
            write_atomic(image, png_bytes(sample.image))
            write_atomic(label, png_bytes(sample.label.astype(np.uint8)))
        advance(1)
        return fresh

    with ThreadPoolExecutor(max(1, workers)) as pool:
        written = sum(pool.map(one, dataset.ids))
    return written, len(dataset.ids) - written
