"""Decoding: photographs and label maps to arrays of one size, by the field's resize rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.resize import resize_labels_pil

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
LABEL_SUFFIXES = (".png",)


def open_picture(path: Path) -> Image.Image:
    """A decoded picture.

    Raises:
        UserError: missing or corrupt file.
    """
    try:
        picture = Image.open(path)
        picture.load()
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{path} is corrupt: {error}", "replace the file, or leave the item out"
        ) from error
    return picture


def read_image(path: Path, size: tuple[int, int] | None) -> tuple[np.ndarray, tuple[int, int]]:
    """A photograph as ((H, W, 3) uint8 RGB, its size on disk (H, W)), resized to ``size`` by PIL's
    bicubic filter, as the SPADE family's loaders do.

    Raises:
        UserError: missing or corrupt file.
    """
    picture = open_picture(path).convert("RGB")
    original = (picture.height, picture.width)
    if size is not None and original != size:
        picture = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture), original


def read_ids(path: Path, size: tuple[int, int] | None) -> tuple[np.ndarray, tuple[int, int]]:
    """A single-channel integer PNG as ((H, W) int64, its size on disk); palette images give
    indices.

    Raises:
        UserError: missing or corrupt file, or a colour image.
    """
    picture = open_picture(path)
    if picture.mode not in ("L", "P", "I", "I;16", "1"):
        raise UserError(
            f"{path} is a {picture.mode} image; a label map has one channel of class ids",
            "export ids, not colours",
        )
    label = np.asarray(picture).astype(np.int64)
    resized = label if size is None else resize_labels_pil(label, size)
    return resized, (picture.height, picture.width)


def check_label(label: np.ndarray, space: LabelSpace, path: Path) -> None:
    """Refuse values that are no class of ``space`` (its ignore value passes).

    Raises:
        UserError: names the file, the values and the remedy.
    """
    allowed = np.zeros(int(max(label.max(), len(space), space.ignore or 0)) + 1, dtype=bool)
    allowed[: len(space)] = True
    if space.ignore is not None:
        allowed[space.ignore] = True
    if label.min() >= 0 and bool(allowed[label].all()):
        return
    values = np.unique(label)
    wrong = [int(v) for v in values if v < 0 or not allowed[v]]
    raise UserError(
        f"{path}: label values {wrong[:8]} are outside of '{space.name}' (0..{len(space) - 1})",
        "is this the right label space, and are these ids rather than colours?",
    )


def check_aspect(image: tuple[int, int], label: tuple[int, int], path: Path) -> None:
    """Photograph and label map may differ in size, not in aspect (one pixel of rounding passes).

    Raises:
        UserError: names both sizes.
    """
    expected = image[1] * label[0] / image[0]
    if abs(expected - label[1]) > max(1.0, label[0] / image[0]):
        raise UserError(
            f"{path}: label map {label[1]}x{label[0]} does not fit its photograph "
            f"{image[1]}x{image[0]}",
            "re-export the pair at one aspect ratio",
        )
