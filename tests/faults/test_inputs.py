"""Photographs and label maps of every mode, bit depth and metadata through a run: the exact value
in the stored image, or an item error that is named."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from harness import SIDE, sisbench
from PIL import Image, ImageCms, PngImagePlugin
from test_images import png

from sisbench.core.store import RunStore

METHOD = '''"""Methods that store what they are given."""

import torch
from torch import nn

from sisbench.methods.base import Method, Style, present_classes


class Photograph(Method):
    """Draws the photograph itself."""

    name, title, paper, size = "photograph", "Photograph", "none", (32, 32)

    def build(self, space):
        return nn.Identity()

    def encode_style(self, batch):
        flat = batch.image.flatten(1)[:, None].expand(-1, self.num_classes, -1)
        return Style(flat, present_classes(batch.label, self.num_classes))

    def render(self, layout, style, noise):
        return style.codes[:, 0].reshape(-1, 3, *layout.label.shape[1:])


class Ids(Photograph):
    """Draws class ids as levels of grey."""

    def render(self, layout, style, noise):
        return (layout.label[:, None].expand(-1, 3, -1, -1) / 127.5 - 1).float()
'''

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
GREY = RGB[..., 0]
IDS = np.kron(RNG.integers(0, 19, (4, 4)), np.ones((SIDE // 4, SIDE // 4))).astype(np.uint8)

Case = tuple[str, bytes, "np.ndarray | str"]
"""(suffix, content, the exact array or a part of the error)."""


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """What a lossy file holds by its own format."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def with_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk after its header."""
    chunk = struct.pack(">I", len(content)) + kind + content
    return data[:33] + chunk + struct.pack(">I", zlib.crc32(kind + content)) + data[33:]


def shallow(array: np.ndarray, depth: int) -> tuple[bytes, np.ndarray]:
    """A grey PNG of ``depth`` bits, and its levels as 8-bit RGB."""
    values = array.astype(int) >> (8 - depth)
    wide = (values * 255 // (2**depth - 1)).astype(np.uint8)
    return png(depth, 0, values.tolist()), np.repeat(wide[..., None], 3, 2)


def photographs() -> dict[str, Case]:
    picture, grey = Image.fromarray(RGB), Image.fromarray(GREY)
    grey3 = np.repeat(GREY[..., None], 3, 2)
    whole = saved(picture, "PNG")
    indexed = picture.quantize(16)
    clear = np.where(GREY > 127, 255, 0).astype(np.uint8)
    solid = np.full_like(GREY, 255)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 1000)
    found: dict[str, Case] = {
        "png-rgb": (".png", whole, RGB),
        "png-grey": (".png", saved(grey, "PNG"), grey3),
        "png-palette": (".png", saved(indexed, "PNG"), np.asarray(indexed.convert("RGB"))),
        "png-palette4": (".png", saved(indexed, "PNG", bits=4), np.asarray(indexed.convert("RGB"))),
        "png-16-grey": (".png", saved(Image.fromarray(GREY.astype(np.uint16) * 200), "PNG"), "16"),
        "png-16-rgb": (
            ".png",
            png(16, 2, (RGB.reshape(SIDE, -1).astype(int) * 257).tolist()),
            "16",
        ),
        "png-opaque": (".png", saved(Image.fromarray(np.dstack([RGB, solid])), "PNG"), RGB),
        "png-clear": (
            ".png",
            saved(Image.fromarray(np.dstack([RGB, clear])), "PNG"),
            "transparent",
        ),
        "png-la": (".png", saved(Image.fromarray(np.dstack([GREY, solid]), "LA"), "PNG"), grey3),
        "png-la-clear": (
            ".png",
            saved(Image.fromarray(np.dstack([GREY, clear]), "LA"), "PNG"),
            "transparent",
        ),
        "png-trns": (".png", saved(indexed, "PNG", transparency=0), "transparent"),
        "png-gamma": (".png", with_chunk(whole, b"gAMA", struct.pack(">I", 100000)), RGB),
        "png-srgb": (".png", with_chunk(whole, b"sRGB", b"\0"), RGB),
        "png-profile": (".png", saved(picture, "PNG", icc_profile=profile), RGB),
        "png-text": (".png", saved(picture, "PNG", pnginfo=text), RGB),
        "png-dpi": (".png", saved(picture, "PNG", dpi=(300, 72)), RGB),
        "png-exif": (".png", saved(picture, "PNG", exif=exif(3)), "orientation 3"),
        "png-animated": (
            ".png",
            saved(picture, "PNG", save_all=True, append_images=[picture.rotate(90)]),
            "frames",
        ),
        "bmp": (".bmp", saved(picture, "BMP"), RGB),
        "bmp-grey": (".bmp", saved(grey, "BMP"), grey3),
        "tif": (".tif", saved(picture, "TIFF"), RGB),
        "tif-lzw": (".tif", saved(picture, "TIFF", compression="tiff_lzw"), RGB),
        "tif-float": (".tif", saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "mode F"),
        "tif-16": (".tif", saved(Image.fromarray(GREY.astype(np.uint16) * 9), "TIFF"), "mode I;16"),
        "tif-32": (".tif", saved(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "mode I"),
        "tif-cmyk": (".tif", saved(picture.convert("CMYK"), "TIFF"), "mode CMYK"),
        "tif-lab": (".tif", saved(picture.convert("LAB"), "TIFF"), "mode LAB"),
        "tif-pages": (
            ".tif",
            saved(picture, "TIFF", save_all=True, append_images=[grey.convert("RGB")]),
            "frames",
        ),
        "jpg-cmyk": (".jpg", saved(picture.convert("CMYK"), "JPEG"), "mode CMYK"),
        "webp-lossless": (".webp", saved(picture, "WEBP", lossless=True), RGB),
        "webp-animated": (
            ".webp",
            saved(picture, "WEBP", save_all=True, append_images=[picture.rotate(90)]),
            "frames",
        ),
        "webp-clear": (
            ".webp",
            saved(Image.fromarray(np.dstack([RGB, clear])), "WEBP", lossless=True),
            "transparent",
        ),
        "png-cut": (".png", whole[: len(whole) // 2], "corrupt"),
        "png-empty": (".png", b"", "corrupt"),
        "jpg-web-page": (".jpg", b"<!DOCTYPE html><title>Login</title>", "corrupt"),
        "jpg-is-png": (".jpg", whole, RGB),
    }
    for depth in (1, 2, 4):
        found[f"png-grey{depth}"] = (".png", *shallow(GREY, depth))
    for name, options in {
        "jpg": {"quality": 95},
        "jpg-progressive": {"progressive": True},
        "jpg-422": {"subsampling": 1},
        "jpg-profile": {"icc_profile": profile},
        "jpg-upright": {"exif": exif(1)},
    }.items():
        data = saved(picture, "JPEG", **options)
        found[name] = (".jpg", data, decoded(data))
    data = saved(grey, "JPEG")
    found["jpg-grey"] = (".jpg", data, decoded(data))
    for turn in range(2, 9):
        data = saved(picture, "JPEG", exif=exif(turn))
        found[f"jpg-turned{turn}"] = (".jpg", data, f"orientation {turn}")
    return found


def label_maps() -> dict[str, Case]:
    picture = Image.fromarray(IDS)
    indexed = Image.fromarray(IDS, "P")
    indexed.putpalette([9, 9, 9] * 19)
    few = IDS % 2
    three = np.repeat(IDS[..., None], 3, 2)
    return {
        "grey8": (".png", saved(picture, "PNG"), IDS),
        "grey16": (".png", saved(Image.fromarray(IDS.astype(np.uint16)), "PNG"), IDS),
        "grey4": (".png", png(4, 0, (IDS % 16).tolist()), IDS % 16),
        "grey2": (".png", png(2, 0, (IDS % 4).tolist()), IDS % 4),
        "grey1": (".png", png(1, 0, few.tolist()), few),
        "bits": (".png", saved(Image.fromarray(few.astype(bool)), "PNG"), few),
        "palette": (".png", saved(indexed, "PNG"), IDS),
        "palette-clear": (".png", saved(indexed, "PNG", transparency=3), IDS),
        "grey-clear": (".png", saved(picture, "PNG", transparency=3), IDS),
        "gamma": (".png", with_chunk(saved(picture, "PNG"), b"gAMA", struct.pack(">I", 1)), IDS),
        "turned": (".png", saved(picture, "PNG", exif=exif(6)), "orientation 6"),
        "rgb": (".png", saved(Image.fromarray(three), "PNG"), "RGB image"),
        "rgba": (".png", saved(Image.fromarray(three).convert("RGBA"), "PNG"), "RGBA image"),
        "la": (".png", saved(picture.convert("LA"), "PNG"), "LA image"),
        "jpeg": (".png", saved(picture, "JPEG"), "JPEG"),
        "webp": (".png", saved(picture.convert("RGB"), "WEBP"), "WEBP"),
        "wrapped": (".png", saved(Image.fromarray(IDS.astype(np.uint16) + 256), "PNG"), "outside"),
        "far": (".png", saved(Image.fromarray(IDS + 200), "PNG"), "outside"),
        "cut": (".png", saved(picture, "PNG")[:60], "corrupt"),
        "empty": (".png", b"", "corrupt"),
        "other-aspect": (".png", saved(picture.resize((SIDE, SIDE // 2)), "PNG"), "does not fit"),
    }


def folder_of(root: Path, photos: dict[str, Case], labels: dict[str, Case]) -> Path:
    """Pairs in the prepared layout."""
    for name, cases in (("images", photos), ("labels", labels)):
        (root / name).mkdir(parents=True)
        for stem, (suffix, data, _) in cases.items():
            (root / name / f"{stem}{suffix}").write_bytes(data)
    return root


@pytest.mark.parametrize("what", ["photographs", "label maps"])
def test_exact_values_or_a_named_error(
    tmp_path: Path, what: str, record_property: Callable[[str, object], None]
) -> None:
    plain: Case = (".png", saved(Image.fromarray(IDS), "PNG"), IDS)
    photograph: Case = (".png", saved(Image.fromarray(RGB), "PNG"), RGB)
    cases = photographs() if what == "photographs" else label_maps()
    if what == "photographs":
        data = folder_of(tmp_path / "data", cases, dict.fromkeys(cases, plain))
    else:
        data = folder_of(tmp_path / "data", dict.fromkeys(cases, photograph), cases)
    (tmp_path / "m.py").write_text(METHOD)
    cls = "Photograph" if what == "photographs" else "Ids"
    raw = {
        "output": "run",
        "methods": [{"name": f"{tmp_path / 'm.py'}:{cls}"}],
        "datasets": [{"name": "celebamask_hq", "root": str(data), "split": "all", "size": SIDE}],
        "tasks": ["reconstruct"],
        "metrics": ["psnr"],
        "engine": {"device": "cpu", "batch_size": 4},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    ended = sisbench("run", "run.yaml", cwd=tmp_path)
    assert ended.code in (0, 1, 2), ended.told()  # 1: items failed
    ended.told()
    (cell,) = RunStore(tmp_path / "run").cells()
    rows = {row.id: row for row in cell.item_rows()}
    assert rows.keys() == cases.keys()
    wrong = []
    for name, (_, _, expected) in cases.items():
        row = rows[name]
        if isinstance(expected, str):
            if expected not in row.error or name not in row.error:
                wrong.append(f"{name}: expected an error with '{expected}', got '{row.error}'")
            continue
        image = None if row.error else cell.image(name)
        want = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, 2)
        if image is None or not np.array_equal(image, want):
            wrong.append(f"{name}: {row.error or 'other values'}")
    assert not wrong, "\n".join(wrong)
    bad = sum(isinstance(expected, str) for _, _, expected in cases.values())
    assert f"{bad} of {len(cases)} items failed" in cell.entry.reason
    record_property("faults", f"{len(cases)} kinds: {len(cases) - bad} exact, {bad} refused")
