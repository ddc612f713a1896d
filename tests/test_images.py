"""Picture files: every mode, bit depth and metadata gives exact values or one clear refusal."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sisbench.core.errors import UserError
from sisbench.data.images import MAX_PIXELS, read_ids, read_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def png(depth: int, colour: int, rows: list[list[int]]) -> bytes:
    """A PNG of any bit depth, which Pillow cannot write: grey (0) or RGB (2, flat rows)."""
    channels = 3 if colour == 2 else 1
    raw = b""
    for row in rows:
        if depth == 16:
            data = struct.pack(f">{len(row)}H", *row)
        else:
            bits = "".join(format(v, f"0{depth}b") for v in row)
            bits += "0" * (-len(bits) % 8)
            data = int(bits, 2).to_bytes(len(bits) // 8, "big")
        raw += b"\0" + data

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", len(rows[0]) // channels, len(rows), depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def written(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_lossless_photographs_keep_their_values(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"a{suffix}", Image.fromarray(RGB))
    assert np.array_equal(read_image(path, None)[0], RGB)


def test_grey_palette_and_opaque_pictures_are_photographs(tmp_path: Path) -> None:
    grey = read_image(written(tmp_path / "l.png", Image.fromarray(GREY)), None)[0]
    assert np.array_equal(grey, np.repeat(GREY[..., None], 3, 2))
    indexed = Image.fromarray(RGB).quantize(16)
    found = read_image(written(tmp_path / "p.png", indexed), None)[0]
    assert np.array_equal(found, np.asarray(indexed.convert("RGB")))
    opaque = np.dstack([RGB, np.full(GREY.shape, 255, np.uint8)])
    assert np.array_equal(
        read_image(written(tmp_path / "a.png", Image.fromarray(opaque)), None)[0], RGB
    )


def _exif(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_what_would_change_pixels_unsaid_is_refused(tmp_path: Path) -> None:
    clear = np.dstack([RGB, np.where(GREY > 127, 255, 0).astype(np.uint8)])
    picture = Image.fromarray(RGB)
    files = {
        "transparent": written(tmp_path / "t.png", Image.fromarray(clear)),
        "mode CMYK": written(tmp_path / "c.jpg", picture.convert("CMYK")),
        "EXIF orientation 6": written(tmp_path / "e.jpg", picture, exif=_exif(6)),
        "16 bits": written(tmp_path / "i.png", Image.fromarray(GREY.astype(np.uint16) * 200)),
        "mode F": written(tmp_path / "f.tif", Image.fromarray(GREY.astype(np.float32))),
        "2 frames": written(
            tmp_path / "w.tif", picture, save_all=True, append_images=[picture.rotate(90)]
        ),
    }
    deep = tmp_path / "d.png"
    deep.write_bytes(png(16, 2, [[256 * 3 + 9] * 9] * 2))
    files["16 bits a channel"] = deep
    see_through = Image.fromarray(RGB).quantize(16)
    files["transparent "] = written(tmp_path / "s.png", see_through, transparency=0)
    for message, path in files.items():
        with pytest.raises(UserError, match=message.strip()):
            read_image(path, None)


def test_an_upright_exif_tag_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jpg", Image.fromarray(RGB), exif=_exif(1), quality=95)
    assert read_image(path, None)[0].shape == RGB.shape


@pytest.mark.parametrize(("depth", "ids"), [(1, [0, 1, 1]), (2, [0, 3, 2]), (4, [0, 7, 15])])
def test_ids_of_shallow_grey_pngs_are_not_widened(
    tmp_path: Path, depth: int, ids: list[int]
) -> None:
    path = tmp_path / "label.png"
    path.write_bytes(png(depth, 0, [ids, ids]))
    assert read_ids(path, None)[0].tolist() == [ids, ids]


def test_ids_of_sixteen_bits_and_of_palettes(tmp_path: Path) -> None:
    wide = GREY.astype(np.uint16) + 300
    assert np.array_equal(
        read_ids(written(tmp_path / "w.png", Image.fromarray(wide)), None)[0], wide
    )
    indexed = Image.fromarray(GREY % 8, "P")
    indexed.putpalette([9, 9, 9] * 8)
    assert np.array_equal(
        read_ids(written(tmp_path / "p.png", indexed, transparency=3), None)[0], GREY % 8
    )


def test_label_maps_that_were_jpegs_once_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "label.png"
    Image.fromarray(GREY).save(path, "JPEG")
    with pytest.raises(UserError, match="lossy"):
        read_ids(path, None)


def test_absurd_sizes_are_one_line(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) + 10
    for edge in (side, 20_000):
        path = written(tmp_path / f"{edge}.png", Image.new("1", (edge, edge)))
        with pytest.raises(UserError, match="pixels"):
            read_image(path, (64, 64))


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"BM" * 9])
def test_what_is_no_picture_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match="corrupt"):
        read_image(path, None)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"folder\.png"):
        read_image(tmp_path / "folder.png", None)
