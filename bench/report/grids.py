"""Qualitative grids: one row a sample; label map, reference, target, then every method. Edits of
classes also have maps of where the image changed."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.store import CellView, write_atomic
from sisbench.report.heat import heat_map
from sisbench.report.quality import Material
from sisbench.report.tables import DAGGER, scrub, slug

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

LoadSample = Callable[[Mapping[str, Any], str], tuple[np.ndarray, np.ndarray]]
"""(configuration of a data set, sample id) -> (image (H, W, 3) uint8, label map (H, W) int)."""

EDITS = frozenset({"class_transfer", "shape_transfer", "mixed"})
"""Tasks that change some classes alone: a map shows where the image really changed."""

TILE = 192
_GAP = 6
_HOLE_COLOUR = (255, 255, 255)


@dataclass(frozen=True)
class Grid:
    """A drawn grid; ``note`` says what is missing from it."""

    name: str
    title: str
    picture: Image
    note: str = ""

    def write(self, folder: Path, name: str) -> None:
        """``folder/name.png``."""
        write_atomic(folder / f"{name}.png", self.encoded("PNG"))

    def encoded(self, kind: str) -> bytes:
        """The file's bytes as "PNG", or as "JPEG" for the page."""
        stream = io.BytesIO()
        options: dict[str, Any] = {"quality": 90, "subsampling": 0} if kind == "JPEG" else {}
        self.picture.save(stream, kind, **options)
        return stream.getvalue()


def grids(material: Material, load_sample: LoadSample | None, rows: int = 4) -> list[Grid]:
    """One grid for each data set and task that has images of at least one method; one for each
    kind of images where the run's protocols make different ones. After an edit of classes, another
    one with the heat maps of CA2-SIS, Fig. 14."""
    made = []
    for place in material.places:
        kinds: dict[tuple[str, ...], list[CellView]] = {}
        for cell in material.cells:
            if (cell.about["dataset"]["label"], cell.about["task"]["slug"]) == place:
                kinds.setdefault(tuple(cell.about["protocols"]), []).append(cell)
        for protocols, planned in kinds.items():
            items = {c.key: {r["id"]: r for r in c.items() if not r["error"]} for c in planned}
            cells = [c for c in planned if items[c.key]]
            picked = pick([list(items[c.key]) for c in cells], rows)
            if picked:
                own = [items[cells[0].key][name] for name in picked]
                title = ", ".join(place)
                if len(kinds) > 1:
                    title += f" ({' and '.join(protocols)})"
                lacking = [c.about["method"]["title"] for c in planned if not items[c.key]]
                made.append(_grid(title, lacking, cells, own, load_sample))
                changed = _changes(title, material, cells, own, load_sample)
                made += [] if changed is None else [changed]
    return made


def _changes(
    title: str,
    material: Material,
    cells: Sequence[CellView],
    items: Sequence[Mapping[str, Any]],
    load_sample: LoadSample | None,
) -> Grid | None:
    """Heat maps of the change that an edit made, against the method's own reconstruction; None for
    other tasks and where no reconstruction is there."""
    if cells[0].about["task"]["name"] not in EDITS:
        return None
    found: dict[str, list[np.ndarray]] = {}
    for cell in cells:
        plain = _reconstructions(material, cell)
        names = [str(item.get("target") or item["id"]) for item in items]
        if plain is None or not all(plain.image_path(name).is_file() for name in names):
            continue
        found[_unlike(found, _head(cell))] = [
            heat_map(cell.image(str(item["id"]))[None], plain.image(name))
            for item, name in zip(items, names, strict=True)
        ]
    if not found:
        return None
    columns, note = _data(cells, items, load_sample)
    most = max(1e-6, *(float(np.percentile(m, 99.5)) for maps in found.values() for m in maps))
    columns |= {head: [_heat(m / most) for m in maps] for head, maps in found.items()}
    said = (
        "Mean absolute difference to the method's own reconstruction, one edit a picture; black is "
        f"0, white {most:.3f} of the range and above, for all pictures alike. {note}"
    )
    names = [str(item.get("target") or item["id"]) for item in items]
    title = f"{title}: where the image changed"
    picture = draw(columns, names)
    return Grid(slug(title.replace(", ", "-")), title, picture, scrub(said.strip()))


def _reconstructions(material: Material, cell: CellView) -> CellView | None:
    """The reconstructions of the same method and data set under a protocol of the cell."""
    for other in material.cells:
        a, b = cell.about, other.about
        same = (a["method"]["label"], a["dataset"]["label"]) == (
            b["method"]["label"],
            b["dataset"]["label"],
        )
        if same and b["task"]["name"] == "reconstruct" and {*a["protocols"]} & {*b["protocols"]}:
            return other
    return None


def _heat(values: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1] and above -> (H, W, 3) uint8: black, red, yellow, white."""
    ramps = [np.clip(3 * values - k, 0, 1) for k in range(3)]
    return np.asarray(np.stack(ramps, -1) * 255 + 0.5, np.uint8)


def pick(ids: Sequence[Sequence[str]], rows: int) -> list[str]:
    """At most ``rows`` ids that every list has, spread evenly over the first list's order."""
    common = [i for i in ids[0] if all(i in set(other) for other in ids[1:])] if ids else []
    if len(common) <= rows:
        return common
    return [common[round(k * (len(common) - 1) / (rows - 1))] for k in range(rows)]


def _grid(
    title: str,
    lacking: Sequence[str],
    cells: Sequence[CellView],
    items: Sequence[Mapping[str, Any]],
    load_sample: LoadSample | None,
) -> Grid:
    """Columns by title, each with one picture a sample."""
    columns, note = _data(cells, items, load_sample)
    for cell in cells:
        columns[_unlike(columns, _head(cell))] = [cell.image(str(item["id"])) for item in items]
    if lacking:
        note = f"{note} No images: {', '.join(lacking)}.".strip()
    names = [str(item.get("target") or item["id"]) for item in items]
    picture = draw(columns, names)
    return Grid(slug(title.replace(", ", "-")), title, picture, scrub(note))


def _head(cell: CellView) -> str:
    weights = cell.about["method"].get("weights") or {}
    seeded = str(weights.get("source", "")).startswith("seeded:")
    return str(cell.about["method"]["title"]) + (DAGGER if seeded else "")


def _unlike(columns: Mapping[str, Any], head: str) -> str:
    """``head``, with blanks after it where a column of that title is there already."""
    while head in columns:
        head += " "
    return head


def _data(
    cells: Sequence[CellView],
    items: Sequence[Mapping[str, Any]],
    load_sample: LoadSample | None,
) -> tuple[dict[str, list[np.ndarray]], str]:
    """The columns before the methods', and a note where the data set could not be opened."""
    about = cells[0].about["dataset"]
    palette = _palette(about.get("space"))
    columns: dict[str, list[np.ndarray]] = {}
    note = "The data set was not opened: generated images only." if load_sample is None else ""
    if load_sample is not None:
        try:
            columns = _real(about["config"], items, load_sample, palette)
        except UserError as error:
            note = f"The data set could not be opened, generated images only: {error.message}"
    edited = _edited(cells, items, palette)
    if edited:
        columns = {"edited label map": edited} | columns
        columns = {k: columns[k] for k in sorted(columns, key=lambda k: k != "label map")}
    return columns, note


def _real(
    config: Mapping[str, Any],
    items: Sequence[Mapping[str, Any]],
    load_sample: LoadSample,
    palette: np.ndarray,
) -> dict[str, list[np.ndarray]]:
    targets = [load_sample(config, str(i.get("target") or i["id"])) for i in items]
    columns = {"label map": [colourise(label, palette) for _, label in targets]}
    if all(i["reference"] for i in items):
        columns["reference"] = [load_sample(config, str(i["reference"]))[0] for i in items]
    return columns | {"target": [image for image, _ in targets]}


def _edited(
    cells: Sequence[CellView], items: Sequence[Mapping[str, Any]], palette: np.ndarray
) -> list[np.ndarray]:
    """The label maps that were drawn, of the first method that stored them; [] where none did."""
    from PIL import Image

    for cell in cells:
        paths = [cell.label_path(str(item["id"])) for item in items]
        if all(paths):
            maps = []
            for path in paths:
                with Image.open(str(path)) as picture:
                    maps.append(colourise(np.asarray(picture), palette))
            return maps
    return []


def _palette(space: str | None) -> np.ndarray:
    """(256, 3) uint8; 255 (a hole) is white. A space of another package gets distinct colours."""
    colours = np.zeros((256, 3), np.uint8)
    try:
        known = LabelSpace.named(str(space)).palette
    except UserError:
        known = LabelSpace("distinct", tuple(map(str, range(255)))).palette
    colours[: len(known)] = known
    colours[255] = _HOLE_COLOUR
    return colours


def colourise(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """(H, W) class ids (-1 or 255 a hole) -> (H, W, 3) uint8."""
    return np.asarray(palette[np.where(label < 0, 255, label).astype(np.uint8)])


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
