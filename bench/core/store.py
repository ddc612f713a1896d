"""What a run leaves on disk: cells of PNG images and item rows, scores, and one manifest. No torch.

RUN/run.json                    manifest: configuration, protocols, provenance, state of cells
RUN/cells/NAME-KEY/cell.json    what the content key was made of
RUN/cells/NAME-KEY/items/*.parquet   one row a sample: id, reference, classes, error, seconds, ...
RUN/cells/NAME-KEY/images/ID.png     8-bit RGB
RUN/cells/NAME-KEY/labels/ID.png     the label map drawn, if not the target's (255 = hole)
RUN/cells/NAME-KEY/rows/*.npz   rows of the metrics
RUN/scores.json                 every figure, or the reason for its absence
RUN/report/                     tables, charts, grids, report.html
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sisbench.core.errors import UserError

SCHEMA = 2

SEEDED = "seeded weights"
"""Mark of a figure whose method ran on seeded test weights: it says nothing about the method."""

CEILING = "ceiling"
"""Mark of a figure of the real photographs themselves, as a parser's mIoU; never ranked."""

BASIS = ("extractor", "parser", "resize", "compare_at", "convention")
"""Keys of ``Score.extra`` (strings) that say what a figure rests on; captions print them, and
figures that differ in one are not ranked against each other."""


@dataclass(frozen=True)
class Score:
    """One figure of one cell under one protocol, or the reason why there is none.

    Attributes:
        method: the label of the method's entry in the configuration (unique within a run).
        title: its name in tables.
        dataset, task: label of the data set, slug of the task (``shape_transfer[hair]``).
        metric, protocol: names.
        value: as stored (fractions for percentages); None with a ``reason``.
        n, n_real, se, ci, per_class, extra, marks: see ``sisbench.metrics.base.Score``.
        cell: key of the cell.
    """

    method: str
    title: str
    dataset: str
    task: str
    metric: str
    protocol: str
    value: float | None
    reason: str = ""
    n: int = 0
    n_real: int | None = None
    se: float | None = None
    ci: tuple[float, float] | None = None
    per_class: Mapping[str, float | None] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    cell: str = ""


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, also under kill -9 or a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """JSON with sorted keys; NaN is refused (absent figures are null with a reason)."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Parsed JSON.

    Raises:
        UserError: missing or damaged file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"no file {path}", "is this a run folder? sisbench run makes one"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged: {error}", "run the same sisbench run again") from error


@dataclass(frozen=True)
class CellView:
    """Read access to one cell of a finished or partial run.

    Attributes:
        folder: the cell's folder.
        about: its entry in the manifest: ``key``, ``method`` {label, title, paper, size, weights},
            ``dataset`` {label, name, split, fingerprint, n, config}, ``task`` {name, slug,
            classes}, ``protocols`` (ids), ``generation`` (field of a protocol -> its value, for
            all that the images depend on), ``status`` ("done" | "partial" | "impossible" |
            "failed"), ``reason``.
    """

    folder: Path
    about: Mapping[str, Any]

    @property
    def key(self) -> str:
        return str(self.about["key"])

    def items(self) -> list[dict[str, Any]]:
        """One mapping a sample, sorted by position in the plan: id, index, reference (id or ""),
        classes (list of ids that were really edited), absent (int), error (text or ""), seconds."""
        import pyarrow.parquet as pq

        rows: dict[str, dict[str, Any]] = {}
        for part in sorted((self.folder / "items").glob("*.parquet")):
            for row in pq.read_table(part).to_pylist():
                rows[row["id"]] = row
        return sorted(rows.values(), key=lambda row: row["index"])

    def image_path(self, sample_id: str) -> Path:
        return self.folder / "images" / f"{sample_id}.png"

    def label_path(self, sample_id: str) -> Path | None:
        """The label map that was drawn, where it differs from the target's own; else None."""
        path = self.folder / "labels" / f"{sample_id}.png"
        return path if path.is_file() else None

    def image(self, sample_id: str) -> np.ndarray:
        """(H, W, 3) uint8."""
        from PIL import Image

        with Image.open(self.image_path(sample_id)) as picture:
            return np.asarray(picture.convert("RGB"))


def _values_path(cell: CellView, metric: str, protocol: str) -> Path:
    plain = "".join(c if c.isalnum() or c in "-_@+=." else "-" for c in f"{metric}@{protocol}")
    return cell.folder / "values" / f"{plain}.npz"


def write_values(
    cell: CellView, metric: str, protocol: str, ids: Sequence[str], values: np.ndarray
) -> None:
    """Keep (n,) values an item whose mean is the figure, for paired comparisons."""
    buffer = io.BytesIO()
    np.savez(buffer, ids=np.array(ids), values=np.asarray(values, np.float64))
    path, data = _values_path(cell, metric, protocol), buffer.getvalue()
    if not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)


def read_values(cell: CellView, metric: str, protocol: str) -> dict[str, float] | None:
    """Item id -> value; None where none were kept."""
    path = _values_path(cell, metric, protocol)
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        return dict(zip(stored["ids"].tolist(), stored["values"].tolist(), strict=True))


class RunStore:
    """A run folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def manifest(self) -> dict[str, Any]:
        """run.json.

        Raises:
            UserError: no run here, or one of another schema.
        """
        manifest = read_json(self.root / "run.json")
        schema = manifest.get("schema", 0)
        if schema != SCHEMA:
            other = ("a later", "upgrade sisbench")
            if schema < SCHEMA:
                other = ("an earlier", "run its configuration again")
            raise UserError(
                f"{self.root} was written by {other[0]} sisbench (schema {schema}, not {SCHEMA})",
                other[1],
            )
        return dict(manifest)

    def cells(self) -> list[CellView]:
        """Every cell of the manifest, in plan order, impossible ones too."""
        return [CellView(self.root / c["folder"], c) for c in self.manifest()["cells"]]

    def write_scores(
        self,
        scores: Sequence[Score],
        metrics: Mapping[str, Mapping[str, Any]],
        protocols: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """scores.json: the figures; title, direction, unit, scale and digits of each metric; the
        fields of each protocol and its id."""
        about = {
            "schema": SCHEMA,
            "metrics": {k: dict(v) for k, v in metrics.items()},
            "protocols": [dict(p) for p in protocols],
            "scores": [asdict(s) for s in scores],
        }
        write_json(self.root / "scores.json", about)

    def scored_protocols(self) -> list[dict[str, Any]]:
        """Fields and id of every protocol that the figures are under."""
        return list(read_json(self.root / "scores.json").get("protocols", ()))

    def scores(self) -> tuple[list[Score], dict[str, dict[str, Any]]]:
        """(figures, metric descriptions) of scores.json."""
        raw = read_json(self.root / "scores.json")
        rows = []
        for row in raw["scores"]:
            row["ci"] = tuple(row["ci"]) if row["ci"] else None
            row["marks"] = tuple(row["marks"])
            rows.append(Score(**row))
        return rows, raw["metrics"]
