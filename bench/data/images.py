"""Decoding: photographs and label maps to arrays of one size; what would change pixels unsaid is
refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from sisbench.core.errors import UserError
from sisbench.core.label_space import HOLE, LabelSpace
from sisbench.core.resize import FILTERS, Filter, resize_labels_pil

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
LABEL_SUFFIXES = (".png",)
MAX_PIXELS = 89_000_000
"""Largest picture that is decoded (about 9,400 x 9,400): more is a fault or an attack, and would
take gigabytes. Just below Pillow's own limit, whose warning would say the same again."""

warnings.simplefilter("ignore", Image.DecompressionBombWarning)

_ORIENTATION = 0x0112
_PHOTOGRAPH_MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "PA")
_LABEL_MODES = ("L", "P", "I", "I;16", "1")
_LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000", "GIF", "AVIF")
_SCALED = {2: 85, 4: 17}
"""Pillow widens grey PNG files of 2 and 4 bits to 0..255 by these factors; ids must not be."""
_REMEDY = "replace the file, or leave the item out"


def open_picture(path: Path) -> Image.Image:
    """A decoded picture of one frame, upright, at most ``MAX_PIXELS``.

    Raises:
        UserError: missing, corrupt or oversized file; several frames; metadata that turns it.
    """
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise _oversized(path, f"{picture.width}x{picture.height} pixels")
            frames = getattr(picture, "n_frames", 1)
            if frames > 1 and picture.format != "MPO":
                raise UserError(f"{path} has {frames} frames; one is expected", _REMEDY)
            picture.load()
            orientation = picture.getexif().get(_ORIENTATION, 1)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise _oversized(path, "far too many pixels") from error
    except FileNotFoundError as error:
        raise UserError(f"no such file: {path}") from error
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{path} is corrupt: {reason}", _REMEDY) from error
    if orientation not in (0, 1):
        raise UserError(
            f"{path} says by EXIF orientation {orientation} that viewers turn it; its pixels are "
            "stored otherwise, and its label map may fit either",
            "store it upright (exiftran, or PIL.ImageOps.exif_transpose) and check its label map",
        )
    return picture


def _oversized(path: Path, found: str) -> UserError:
    limit = f"more than the {MAX_PIXELS // 1_000_000} million that are read"
    return UserError(f"{path} has {found}, {limit}", _REMEDY)


def _png_depth(path: Path) -> int:
    """Bits per channel of a PNG, 0 for anything else."""
    with path.open("rb") as handle:
        head = handle.read(25)
    return head[24] if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 25 else 0


def _photograph(path: Path) -> Image.Image:
    """A photograph as 8-bit RGB, the very values of its file.

    Raises:
        UserError: also where RGB values would have to be invented: more than 8 bits a channel,
            CMYK and other colour models, pixels that are not opaque.
    """
    picture = open_picture(path)
    if picture.mode not in _PHOTOGRAPH_MODES or _png_depth(path) > 8:
        depth = _png_depth(path)
        kind = f"{depth} bits a channel" if depth > 8 else f"mode {picture.mode}"
        raise UserError(
            f"{path} has {kind}; a photograph is 8-bit RGB or grey",
            "convert it once by a rule that you state (sRGB, 8 bits), then run again",
        )
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        alpha = picture.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] != 255:
            raise UserError(
                f"{path} is transparent in places; what colour is behind them is not said",
                "flatten it onto a background first",
            )
    return picture.convert("RGB")


def read_image(
    path: Path, size: tuple[int, int] | None, by: Filter = "bicubic"
) -> tuple[np.ndarray, tuple[int, int]]:
    """A photograph as ((H, W, 3) uint8 RGB, its size on disk (H, W)), resized to ``size`` by a
    filter of PIL's: bicubic, as the SPADE family's loaders do. Colour profiles are not applied, as
    there.

    Raises:
        UserError: missing or corrupt file, or no 8-bit RGB or grey picture.
    """
    picture = _photograph(path)
    original = (picture.height, picture.width)
    if size is not None and original != size:
        picture = picture.resize((size[1], size[0]), FILTERS[by])
    return np.asarray(picture), original


def read_ids(path: Path, size: tuple[int, int] | None) -> tuple[np.ndarray, tuple[int, int]]:
    """A single-channel integer PNG of any bit depth as ((H, W) int64, its size on disk); palette
    images give indices.

    Raises:
        UserError: missing or corrupt file, a colour image, or a lossy format whatever its name.
    """
    picture = open_picture(path)
    if picture.format in _LOSSY:
        raise UserError(
            f"{path} is a {picture.format} file: lossy compression changes class ids at every "
            "border, which lowers mIoU",
            "export label maps as PNG",
        )
    if picture.mode not in _LABEL_MODES:
        raise UserError(
            f"{path} is a {picture.mode} image; a label map has one channel of class ids",
            "export ids, not colours",
        )
    label = np.asarray(picture).astype(np.int64)
    if picture.mode == "L":
        label //= _SCALED.get(_png_depth(path), 1)
    resized = label if size is None else resize_labels_pil(label, size)
    return resized, (picture.height, picture.width)


def label_pixels(label: np.ndarray) -> np.ndarray:
    """A drawn label map (H, W) of ids with -1 at holes as it is stored: 8 bits with 255 at holes,
    or, where an id is 255 or more, 16 bits with 65535 at holes.

    Raises:
        UserError: an id that 16 bits do not hold.
    """
    high = int(label.max())
    if high >= 0xFFFF:
        raise UserError(f"label value {high} does not fit a PNG of 16 bits")
    kind, hole = (np.uint8, 0xFF) if high < 0xFF else (np.uint16, 0xFFFF)
    return np.where(label < 0, hole, label).astype(kind)


def read_drawn(path: Path) -> np.ndarray:
    """(H, W) int64 of a label map that was stored as ``label_pixels`` has it, -1 at holes.

    Raises:
        UserError: missing or corrupt file.
    """
    picture = open_picture(path)
    label = np.asarray(picture).astype(np.int64)
    return np.where(label == (0xFF if picture.mode == "L" else 0xFFFF), HOLE, label)


def check_label(label: np.ndarray, space: LabelSpace, path: Path) -> None:
    """Refuse values that are no class of ``space`` (its ignore value passes).

    Raises:
        UserError: names the file, the values and the remedy.
    """
    outside = (label < 0) | (label >= len(space))
    if space.ignore is not None:
        outside &= label != space.ignore
    if not outside.any():
        return
    wrong = np.unique(label[outside]).tolist()
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
