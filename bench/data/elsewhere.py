"""Folders of images that another program made: their sizes, and one image at a stated size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.resize import FILTERS
from sisbench.data.images import read_image

_SHOWN = 5
Size = tuple[int, int]


def check_filter(name: str | None) -> None:
    """Raises UserError where no filter is called so."""
    if name is not None and name not in FILTERS:
        raise UserError(f"no filter is called '{name}'", did_you_mean(name, FILTERS))


def read_at(path: Path, size: Size, by: str | None) -> np.ndarray:
    """An image as (H, W, 3) uint8 RGB: the very values of its file, or resized by a filter.

    Args:
        size: (H, W) wanted; by: name of the filter, None refuses another size.

    Raises:
        UserError: no 8-bit RGB or grey picture, or, without a filter, of another size.
    """
    image, found = read_image(path, None)
    if found == tuple(size):
        return image
    if by is None:
        raise UserError(f"{path} is {shown(found)}, expected {shown(size)}", "name a 'resize'")
    resized = Image.fromarray(image).resize((size[1], size[0]), FILTERS[by])
    return np.asarray(resized)


def sizes_of(paths: Iterable[Path], workers: int = 2) -> Counter[Size]:
    """How many files have which (H, W), from their headers alone; files that cannot be opened are
    not counted."""

    def size(path: Path) -> Size | None:
        try:
            with Image.open(path) as picture:
                return picture.height, picture.width
        except Exception:  # Pillow's plugins raise anything; the decoder will name the file
            return None

    with ThreadPoolExecutor(max(1, workers)) as pool:
        return Counter(found for found in pool.map(size, paths) if found is not None)


def resize_basis(sizes: Counter[Size], size: Size, by: str | None) -> str:
    """How images of these sizes come to ``size``, for captions; "" where all have it."""
    others = sorted(s for s in sizes if s != tuple(size))
    if not others or by is None:
        return ""
    return f"images from {' and '.join(map(shown, others))} to {shown(size)} by PIL's {by}"


def shown(size: Size) -> str:
    """Height x width."""
    return f"{size[0]}x{size[1]}"


def counted(sizes: Counter[Size]) -> str:
    """``90 of 256x256, 10 of 128x128``: the most frequent ones."""
    most = [f"{n} of {shown(size)}" for size, n in sizes.most_common(_SHOWN)]
    more = len(sizes) - len(most)
    return ", ".join(most) + (f" and {more} more sizes" if more else "")


def some(names: Sequence[str]) -> str:
    """The first names of many."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
