"""One archive of a run: scores, the rows behind them, thumbnails or images, provenance, hashes."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from sisbench.core.errors import UserError
from sisbench.core.log import CEILING, CellEntry, ScoreRecord
from sisbench.core.store import CellView, RunStore
from sisbench.metrics.reference import FrechetReference
from sisbench.report.tables import scrub
from sisbench.score.given import REAL_ROWS, ROWS, real_rows_path
from sisbench.score.sources import replaced
from sisbench.share.archive import read_npz, write_npz, write_zip
from sisbench.share.recompute import metric_class

SCHEMA = 1
MANIFEST = "MANIFEST.sha256"
ABOUT = "bundle.json"
Pictures = Literal["thumbnails", "images", "none"]
THUMBNAILS = {"side": 96, "first": 64}
"""Longest side in pixels, and how many of a cell's images have one."""
MOST_FEATURES = 64 << 20
"""Bytes of a real set's features; of larger ones the statistics are kept in their place."""
TOLERANCE = {"value_relative": 1e-6, "value_absolute": 1e-8, "se_relative": 0.05}
"""How far a score that is recomputed may be off. The standard errors of bootstraps rest on NumPy's
random streams, which another version may draw otherwise."""
_AGAIN = "sisbench score RUN keeps them, with the data set and the networks at hand"


@dataclass
class Packed:
    """What a bundle holds beside its run: files by name, and what to say of them."""

    files: dict[str, bytes | Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    real: dict[str, str] = field(default_factory=dict)  # as the score names it -> name in there


def write_bundle(
    run: Path, to: Path, pictures: Pictures = "thumbnails", every_feature: bool = False
) -> list[str]:
    """Pack a scored run: the same run gives the same bytes. Unpacked, it is a run's folder.

    Args:
        pictures: "thumbnails" (of the first images of each cell), "images" (all, as they are, and
            the label maps that were drawn), or "none".
        every_feature: keep features of a real set however large it is.

    Returns:
        Remarks on what is not as the run has it.

    Raises:
        UserError: no scores; rows of a score that are gone; images that are not those that the run
            drew; ``to`` is there already.
    """
    if to.exists():
        raise UserError(f"{to} is there already", "remove it, or name another file: -o FILE")
    store = RunStore(run)
    manifest, scores = store.manifest(), store.scores_file()
    packed = Packed()
    for cell in store.cells():
        _require_drawn(cell)
        _pack_cell(packed, cell, pictures)
    kept = [_with_rows(packed, run, s, store.cells(), every_feature) for s in scores.scores]
    about = {
        "schema": SCHEMA,
        "sisbench": _version(),
        "run": manifest.name or run.name,
        "pictures": pictures,
        "thumbnails": THUMBNAILS,
        "tolerance": TOLERANCE,
        "spaces": _spaces(store.cells()),
        "notes": packed.notes,
    }
    written = scores.written() | {"scores": [asdict(s) for s in kept]}
    packed.files[ABOUT] = as_json(about)
    packed.files["run.json"] = as_json(manifest.written())
    packed.files["scores.json"] = as_json(written)
    _write(to, packed.files)
    return packed.notes


def as_json(value: Any) -> bytes:
    """Sorted keys, and absolute paths cut to their last part as in a report."""
    text = json.dumps(scrubbed(value), indent=1, sort_keys=True, allow_nan=False)
    return (text + "\n").encode()


def scrubbed(value: Any) -> Any:
    """``value`` with this machine's paths cut in every text of it."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {scrub(str(k)): scrubbed(v) for k, v in value.items()}
    return [scrubbed(v) for v in value] if isinstance(value, list | tuple) else value


def _write(to: Path, files: Mapping[str, bytes | Path]) -> None:
    """The archive whole or not at all; the list of hashes comes last."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=to.parent, prefix=f".{to.name}.", delete=False) as handle:
        temporary = Path(handle.name)
    try:
        lines: dict[str, str] = {}

        def members() -> Iterator[tuple[str, bytes | Path]]:
            yield from sorted(files.items())
            yield MANIFEST, "".join(f"{h}  {n}\n" for n, h in sorted(lines.items())).encode()

        write_zip(temporary, members(), lines)
        temporary.chmod(0o644)
        temporary.replace(to)
    finally:
        temporary.unlink(missing_ok=True)


# ---- cells ------------------------------------------------------------------------------------


def _require_drawn(cell: CellView) -> None:
    if found := replaced(cell, cell.item_rows()):
        where = f"{cell.entry.method.label} {cell.entry.task.slug}"
        raise UserError(
            f"{where}: {len(found)} images are not the files that the run drew, '{found[0]}' first",
            "sisbench run draws them anew and scores them; then bundle",
        )


def _pack_cell(packed: Packed, cell: CellView, pictures: Pictures) -> None:
    folder = cell.entry.folder
    log = cell.log()
    if log is not None:
        packed.files[f"{folder}/cell.json"] = as_json(log.written())
    rows = cell.items()
    if not rows:
        return
    packed.files[f"{folder}/items/all.parquet"] = _items(rows)
    for path in sorted((cell.folder / "values").glob("*.npz")):
        packed.files[f"{folder}/values/{path.name}"] = path
    made = [row["id"] for row in rows if not row["error"]]
    if pictures == "images":
        for name in made:
            packed.files[f"{folder}/images/{name}.png"] = _there(cell.image_path(name))
            label = cell.label_path(name)
            if label is not None:
                packed.files[f"{folder}/labels/{name}.png"] = label
    elif pictures == "thumbnails":
        for name in made[: THUMBNAILS["first"]]:
            picture = _thumbnail(cell.image(name))
            packed.files[f"{folder}/thumbnails/{name}.jpg"] = picture


def _items(rows: list[dict[str, Any]]) -> bytes:
    """Item rows as one parquet file, without the machine's paths in their errors."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(scrubbed(rows)), buffer)
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def _thumbnail(image: np.ndarray) -> bytes:
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAILS["side"], THUMBNAILS["side"]), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _there(path: Path) -> Path:
    if not path.is_file() or path.is_symlink():
        raise UserError(f"{path} is gone", "pack thumbnails, or run the same sisbench run again")
    return path


# ---- rows -------------------------------------------------------------------------------------


def _with_rows(
    packed: Packed, run: Path, score: ScoreRecord, cells: list[CellView], every_feature: bool
) -> ScoreRecord:
    """The score as the bundle has it: it names the rows that came along."""
    extra = dict(score.extra)
    named = extra.get(ROWS)
    if score.value is not None and named:
        cell = next((c for c in cells if c.key == score.cell), None)
        if cell is None:
            raise UserError(f"{run}: the cell of {_named(score)} is gone", _AGAIN)
        path = cell.folder / "rows" / Path(str(named)).name
        target = f"{cell.entry.folder}/rows/{path.name}"
        if target not in packed.files:
            packed.files[target] = _rows(path, score)
    elif score.value is not None and CEILING not in score.marks and _looks_at_images(score):
        raise UserError(f"{_named(score)} does not say which rows it rests on", _AGAIN)
    real = real_rows_path(extra)
    if score.value is not None and real is not None:
        extra[REAL_ROWS] = _pack_real(packed, real, score, every_feature)
    return ScoreRecord(**asdict(score) | {"extra": extra})  # type: ignore[call-overload]


def _looks_at_images(score: ScoreRecord) -> bool:
    try:
        cls = metric_class(score.metric)
    except UserError:  # of a package that is not here: the check will say so
        return False
    return bool(cls.maker or cls.layout_maker)


def _pack_real(packed: Packed, path: Path, score: ScoreRecord, every_feature: bool) -> str:
    """Name of the real set's rows in the bundle; large features become statistics."""
    if str(path) in packed.real:
        return packed.real[str(path)]
    data = _rows(path, score)
    stored = read_npz(data, str(path))
    size = stored["features"].nbytes if "features" in stored else 0
    plain = f"{path.parent.name[:16]}-{path.name}" if "ids" in stored else path.name
    name = f"real/{plain}"
    if name in packed.files and packed.files[name] != data:
        name = f"real/{len(packed.real)}-{plain}"
    if size > MOST_FEATURES and not every_feature:
        count = len(stored["features"])
        data = write_npz(dict(FrechetReference.of(stored["features"]).rows()))
        packed.notes.append(
            f"{name}: mean and covariance of {count} images in place of {size >> 20} MiB of "
            "features: FID can be recomputed from them, KID cannot"
        )
    packed.files[name] = data
    packed.real[str(path)] = name
    return name


def _rows(path: Path, score: ScoreRecord) -> bytes:
    """The file's arrays; reasons why items are left out lose the machine's paths."""
    if not path.is_file() or path.is_symlink():
        raise UserError(f"the rows of {_named(score)} are gone: {path}", _AGAIN)
    stored = read_npz(path, str(path))
    for key, values in stored.items():
        if values.dtype.kind == "U":
            stored[key] = np.array([scrub(str(v)) for v in values.ravel()]).reshape(values.shape)
    return write_npz(stored)


def _named(score: ScoreRecord) -> str:
    return f"{score.method}, {score.task} on {score.dataset}: {score.metric}"


def _spaces(cells: list[CellView]) -> dict[str, Any]:
    """Label spaces by data set: a score of classes is recomputed with their names."""
    from sisbench.config import DatasetConfig
    from sisbench.core.label_space import LabelSpace
    from sisbench.data import open_dataset

    found: dict[str, Any] = {}
    for entry in {c.entry.dataset.label: c.entry for c in cells}.values():
        space = _known_space(entry)
        if space is None:  # of the user's own: the data set says it
            config = DatasetConfig.model_validate(entry.dataset.config)
            space = open_dataset(config.name, **config.arguments).space
        assert isinstance(space, LabelSpace)
        ids = sorted(space.background)
        known = {"name": space.name, "classes": list(space.classes), "ignore": space.ignore}
        found[entry.dataset.label] = known | {"background": ids}
    return found


def _known_space(entry: CellEntry) -> Any:
    from sisbench.core.label_space import LabelSpace

    try:
        return LabelSpace.named(entry.dataset.space)
    except UserError:
        return None


def _version() -> str:
    try:
        return version("sisbench")
    except PackageNotFoundError:  # run from its sources
        return "unknown"
