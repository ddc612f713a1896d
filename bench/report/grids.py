"""Qualitative grids: one row a sample; label map, reference, target, then every method. Edits of
classes also have maps of where the image changed; interpolations are strips."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.log import ItemRow
from sisbench.core.store import CellView, write_atomic
from sisbench.core.tasks import TASKS
from sisbench.report.heat import heat_map
from sisbench.report.quality import RunResults
from sisbench.report.sheet import TILE, draw
from sisbench.report.tables import DAGGER, scrub, slug

if TYPE_CHECKING:
    from PIL.Image import Image

LoadSample = Callable[[Mapping[str, Any], str], tuple[np.ndarray, np.ndarray]]
"""(configuration of a data set, sample id) -> (image (H, W, 3) uint8, label map (H, W) int)."""

LoadTruth = Callable[[Mapping[str, Any], str, ItemRow], "np.ndarray | None"]
"""(configuration of a data set, task, item) -> the true image of the edit, where it is known."""

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


def grids(
    results: RunResults,
    load_sample: LoadSample | None,
    rows: int = 4,
    load_truth: LoadTruth | None = None,
) -> list[Grid]:
    """One grid for each data set and task that has images of at least one method; one for each
    kind of images where the run's protocols make different ones. Where the data set knows what an
    edit must give, that stands beside the target. After an edit of classes, another
    one with the heat maps of CA2-SIS, Fig. 14; of an interpolation, a strip for each method."""
    found = []
    for place in results.places:
        kinds: dict[tuple[str, ...], list[CellView]] = {}
        for cell in results.cells:
            if cell.entry.place[1:] == place:
                kinds.setdefault(cell.entry.protocols, []).append(cell)
        for protocols, planned in kinds.items():
            items = {c.key: _with_images(c, results.rows[c.key]) for c in planned}
            title = ", ".join(place)
            if len(kinds) > 1:
                title += f" ({' and '.join(protocols)})"
            if planned[0].entry.task.name.startswith("interpolate"):
                found += _strips(title, planned, items, load_sample, rows)
                continue
            cells = [c for c in planned if items[c.key]]
            picked = pick([list(items[c.key]) for c in cells], rows)
            if picked:
                own = [items[cells[0].key][name] for name in picked]
                absent = [c.entry.method.title for c in planned if not items[c.key]]
                truths = _truths(cells[0], own, load_truth)
                found.append(_grid(title, absent, cells, own, load_sample, truths))
                changed = _changes(title, results, cells, own, load_sample)
                found += [] if changed is None else [changed]
    return found


def _with_images(cell: CellView, rows: Sequence[ItemRow]) -> dict[str, ItemRow]:
    """Item rows by id, of the images that are still there."""
    return {r.id: r for r in rows if not r.error and cell.image_path(r.id).is_file()}


def _strips(
    title: str,
    planned: Sequence[CellView],
    items: Mapping[str, Mapping[str, ItemRow]],
    load_sample: LoadSample | None,
    rows: int,
) -> list[Grid]:
    """One grid a method, the same targets in all: a row is the target, an image for each alpha by
    rising alpha, the reference."""
    by_target: dict[str, dict[str, list[ItemRow]]] = {}
    for key, own in items.items():
        for row in own.values():
            by_target.setdefault(key, {}).setdefault(row.sample, []).append(row)
    most = {key: max(map(len, t.values())) for key, t in by_target.items()}
    whole = [[n for n, r in t.items() if len(r) == most[key]] for key, t in by_target.items()]
    picked = pick(whole, rows)
    found = []
    for cell in planned:
        if not picked or cell.key not in by_target:
            continue
        steps = [sorted(by_target[cell.key][n], key=lambda r: r.alpha or 0.0) for n in picked]
        firsts, lost = [line[0] for line in steps], list[str]()
        real, note = _photographs(cell, firsts, load_sample)
        columns = {"target": real["target"]} if "target" in real else {}
        for step in zip(*steps, strict=True):
            columns[f"α = {step[0].alpha:g}"] = _pictures(cell, step, lost)
        columns |= {"reference": real["reference"]} if "reference" in real else {}
        named = f"{title}: {_head(cell)}"
        said = " ".join(filter(None, [note, _lost(lost)]))
        picture = draw(columns, picked)
        found.append(Grid(slug(named.replace(", ", "-")), named, picture, scrub(said)))
    return found


def _pictures(cell: CellView, items: Sequence[ItemRow], lost: list[str]) -> list[np.ndarray]:
    """The items' images; a damaged one is a grey tile, and ``lost`` gets its name."""
    found = []
    for item in items:
        try:
            found.append(cell.image(item.id))
        except UserError:
            lost.append(f"{cell.entry.method.title} {item.id}")
            found.append(np.full((*(cell.entry.dataset.size or (TILE, TILE)), 3), 208, np.uint8))
    return found


def _lost(names: Sequence[str]) -> str:
    return f"Damaged, shown in grey: {', '.join(names)}." if names else ""


def _changes(
    title: str,
    results: RunResults,
    cells: Sequence[CellView],
    items: Sequence[ItemRow],
    load_sample: LoadSample | None,
) -> Grid | None:
    """Heat maps of the change that an edit made, against the method's own reconstruction; None for
    other tasks and where no reconstruction is there."""
    task = TASKS.get(cells[0].entry.task.name)
    if task is None or task.classes != "drawn":  # others change the whole image
        return None
    found: dict[str, list[np.ndarray]] = {}
    for cell in cells:
        plain = _reconstructions(results, cell)
        if plain is None or not all(plain.image_path(item.sample).is_file() for item in items):
            continue
        try:
            maps = [heat_map(cell.image(i.id)[None], plain.image(i.sample)) for i in items]
        except UserError:  # a damaged picture, which the grid of the edits names
            continue
        found[_unlike(found, _head(cell))] = maps
    if not found:
        return None
    columns, note = _data(cells, items, load_sample)
    most = max(1e-6, *(float(np.percentile(m, 99.5)) for maps in found.values() for m in maps))
    columns |= {head: [_heat(m / most) for m in maps] for head, maps in found.items()}
    said = (
        "Mean absolute difference to the method's own reconstruction, one edit a picture; black is "
        f"0, white {most:.3f} of the range and above, for all pictures alike. {note}"
    )
    title = f"{title}: where the image changed"
    picture = draw(columns, [item.sample for item in items])
    return Grid(slug(title.replace(", ", "-")), title, picture, scrub(said.strip()))


def _reconstructions(results: RunResults, cell: CellView) -> CellView | None:
    """The reconstructions of the same method and data set under a protocol of the cell."""
    for other in results.cells:
        a, b = cell.entry, other.entry
        same = a.place[:2] == b.place[:2] and b.task.name == "reconstruct"
        if same and {*a.protocols} & {*b.protocols}:
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
    absent: Sequence[str],
    cells: Sequence[CellView],
    items: Sequence[ItemRow],
    load_sample: LoadSample | None,
    truths: Sequence[np.ndarray],
) -> Grid:
    """Columns by title, each with one picture a sample."""
    columns, note = _data(cells, items, load_sample)
    if truths:
        columns["truth"] = list(truths)
    lost: list[str] = []
    for cell in cells:
        columns[_unlike(columns, _head(cell))] = _pictures(cell, items, lost)
    without = f"No images: {', '.join(absent)}." if absent else ""
    note = " ".join(filter(None, [note, without, _lost(lost)]))
    picture = draw(columns, [item.sample for item in items])
    return Grid(slug(title.replace(", ", "-")), title, picture, scrub(note))


def _truths(
    cell: CellView, items: Sequence[ItemRow], load_truth: LoadTruth | None
) -> list[np.ndarray]:
    """The true images of an edit; [] where the data set knows none, or was not opened."""
    if load_truth is None or cell.entry.task.name == "reconstruct":  # there it is the target
        return []
    config, task = cell.entry.dataset.config, cell.entry.task.name
    try:
        found = [load_truth(config, task, item) for item in items]
    except (UserError, OSError):  # the photographs' note says why
        return []
    known = [image for image in found if image is not None]
    return known if len(known) == len(items) else []


def _head(cell: CellView) -> str:
    method = cell.entry.method
    return method.title + (DAGGER if method.seeded else "")


def _unlike(columns: Mapping[str, Any], head: str) -> str:
    """``head``, with blanks after it where a column of that title is there already."""
    while head in columns:
        head += " "
    return head


def _data(
    cells: Sequence[CellView], items: Sequence[ItemRow], load_sample: LoadSample | None
) -> tuple[dict[str, list[np.ndarray]], str]:
    """The columns before the methods', and a note where the data set could not be opened."""
    columns, note = _photographs(cells[0], items, load_sample)
    edited = _edited(cells, items, _palette(cells[0].entry.dataset.space))
    if edited:
        columns = {"edited label map": edited} | columns
        columns = {k: columns[k] for k in sorted(columns, key=lambda k: k != "label map")}
    return columns, note


def _photographs(
    cell: CellView, items: Sequence[ItemRow], load_sample: LoadSample | None
) -> tuple[dict[str, list[np.ndarray]], str]:
    """Label map, reference and target of each item; {} and a note where the data set could not be
    opened."""
    if load_sample is None:
        return {}, "The data set was not opened: generated images only."
    config = cell.entry.dataset.config
    try:
        targets = [load_sample(config, item.sample) for item in items]
        references = [load_sample(config, i.reference)[0] for i in items if i.reference]
    except (UserError, OSError) as error:
        said = error.message if isinstance(error, UserError) else str(error)
        return {}, f"The data set could not be opened, generated images only: {said}"
    palette = _palette(cell.entry.dataset.space)
    columns = {"label map": [colourise(label, palette) for _, label in targets]}
    if len(references) == len(items):
        columns["reference"] = references
    return columns | {"target": [image for image, _ in targets]}, ""


def _edited(
    cells: Sequence[CellView], items: Sequence[ItemRow], palette: np.ndarray
) -> list[np.ndarray]:
    """The label maps that were drawn, of the first method that stored them whole; [] where none
    did."""
    from PIL import Image

    for cell in cells:
        paths = [cell.label_path(item.id) for item in items]
        try:
            if all(paths):
                return [colourise(np.asarray(Image.open(str(p))), palette) for p in paths]
        except (OSError, ValueError, SyntaxError):  # damaged: the next method's
            continue
    return []


def _palette(space: str) -> np.ndarray:
    """(C + 1, 3) uint8; the last one, of holes and of no class, is white. A space of another
    package gets distinct colours."""
    try:
        known = LabelSpace.named(space).palette
    except UserError:
        known = LabelSpace("distinct", tuple(map(str, range(255)))).palette
    return np.array([*known, _HOLE_COLOUR], np.uint8)


def colourise(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """(H, W) class ids -> (H, W, 3) uint8; whatever is no class (-1, 255, ...) is a hole."""
    last = len(palette) - 1
    return np.asarray(palette[np.where((label >= 0) & (label < last), label, last)])
