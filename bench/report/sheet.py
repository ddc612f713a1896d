"""A sheet of pictures: titles above, sample ids at the left, tiles in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

TILE = 192
_GAP = 6


def _font(size: int) -> FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: the same letters on every machine."""
    import matplotlib
    from PIL import ImageFont

    font = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    return ImageFont.truetype(str(font), size)  # Pillow 10.0 takes no Path


def draw(columns: Mapping[str, Sequence[np.ndarray]], names: Sequence[str]) -> Image:
    """Titles above, sample ids at the left, tiles in between.

    Args:
        columns: title -> one (H, W, 3) uint8 a sample.
        names: one sample id a row.
    """
    from PIL import Image, ImageDraw

    first = next(iter(columns.values()))[0]
    high = round(TILE * first.shape[0] / first.shape[1])
    small, large = _font(11), _font(14)
    left, top = 8 + max(20, *(min(110, int(small.getlength(n))) for n in names)), 44
    size = (left + len(columns) * (TILE + _GAP), top + len(names) * (high + _GAP))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for x, (title, pictures) in enumerate(columns.items()):
        at = left + x * (TILE + _GAP)
        lines = "\n".join(_wrapped(title, large, TILE))
        pen.multiline_text((at + TILE / 2, top - 6), lines, "black", large, "md", align="center")
        for y, picture in enumerate(pictures):
            flat = picture.shape[:2] != (high, TILE)
            exact = Image.fromarray(np.ascontiguousarray(picture))
            how = Image.Resampling.NEAREST if "label map" in title else Image.Resampling.LANCZOS
            tile = exact.resize((TILE, high), how) if flat else exact
            sheet.paste(tile, (at, top + y * (high + _GAP)))
    for y, name in enumerate(names):
        text = _cut(" ".join(name.split()), small, 110)
        pen.text((left - 6, top + y * (high + _GAP) + high / 2), text, "#444444", small, "rm")
    return sheet


def _wrapped(title: str, font: FreeTypeFont, width: int) -> list[str]:
    """At most two lines that fit."""
    words, lines = title.split(), [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > 2:
        lines = [lines[0], " ".join(lines[1:])]
    return [_cut(line, font, width) for line in lines]


def _cut(text: str, font: FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
