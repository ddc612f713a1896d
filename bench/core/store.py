"""What a run leaves on disk: cells of PNG images and item rows, scores, and one manifest. No torch.

RUN/run.json                    manifest: configuration, protocols, provenance, state of cells
RUN/cells/NAME-KEY/cell.json    the method as it was when it made the cell's images
RUN/cells/NAME-KEY/items/*.parquet   one row a sample: id, reference, classes, error, seconds, ...
RUN/cells/NAME-KEY/images/ID.png     8-bit RGB
RUN/cells/NAME-KEY/labels/ID.png     the label map drawn, if not the target's (255 = hole)
RUN/cells/NAME-KEY/rows/*.npz   rows of the metrics
RUN/cells/NAME-KEY/values/*.npz values of single images, for paired comparisons
RUN/scores.json                 every score, or the reason for its absence
RUN/report/                     tables, charts, grids, report.html
RUN/locks, RUN/logs, RUN/slurm  of shards: who works on which, what their jobs said

The models of the JSON files and of an item's row are in ``sisbench.core.log``.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.file_hash import file_hashes
from sisbench.core.log import (
    BASIS,
    CEILING,
    SCHEMA,
    SEEDED,
    CellEntry,
    CellLog,
    ItemRow,
    Manifest,
    MetricFacts,
    ProtocolEntry,
    ScoreRecord,
    ScoresFile,
    as_log,
)

__all__ = ["BASIS", "CEILING", "SCHEMA", "SEEDED", "CellFolder", "CellView", "RunStore"]

_AGAIN = "run the same sisbench run again: it is made anew"
_SCORE_AGAIN = "sisbench score RUN makes it anew from the stored images"


_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")
_READINGS = 5
"""How often a cell's rows are read anew while others join their files."""
_LEFT_BEHIND = 3600
"""Seconds after which nobody is still writing a temporary file."""


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


def sweep(root: Path) -> int:
    """Remove what killed processes left half written below ``root``: temporary files of
    ``write_atomic`` that are older than an hour. Returns how many."""
    count = 0
    for path in root.rglob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            try:
                if path.stat().st_mtime < time.time() - _LEFT_BEHIND:
                    path.unlink()
                    count += 1
            except OSError:  # gone already, or not ours to remove: it is in nobody's way
                continue
    return count


def write_json(path: Path, value: Any) -> None:
    """JSON with sorted keys; NaN is refused (absent scores are null with a reason)."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path, remedy: str = _AGAIN) -> Any:
    """Parsed JSON.

    Raises:
        UserError: missing or damaged file; ``remedy`` says what mends a damaged one.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"no file {path}", "is this a run folder? sisbench run makes one"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}", "check its rights") from error
    except ValueError as error:  # no JSON, no UTF-8
        raise UserError(f"{path} is damaged: {error}", remedy) from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of an npz file, none of them pickled.

    Raises:
        OSError: it cannot be read; with any damage too, whatever the readers of zip files and
            arrays raise at it (an unknown compression, a password, a wrong checksum, ...).
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{path} is damaged: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class CellFolder:
    """The files of one cell; a file that is damaged counts as absent, and ``faults`` names it."""

    folder: Path

    def item_rows(self) -> list[ItemRow]:
        """One row a sample, sorted by position in the plan."""
        return [_item(row) for row in self.items()]

    def items(self) -> list[dict[str, Any]]:
        """``item_rows`` as mappings, of which every key that a file holds is kept."""
        return self.items_and_files()[0]

    def items_and_files(self) -> tuple[list[dict[str, Any]], list[Path]]:
        """``items``, and the files that they stand in, damaged ones too. Another process may join
        these files into one meanwhile: then they are read again."""
        for _ in range(_READINGS):
            parts = self._parts()
            read = {part: _read_part(part) for part in parts}
            if all(read[part] is not None or part.is_file() for part in parts):
                break
        return self._joined([rows for rows in read.values() if rows is not None]), parts

    def _joined(self, parts: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        for row in (row for part in parts for row in part):
            before = rows.get(row["id"])
            rows[row["id"]] = row if before is None else self._of_two(before, row)
        return sorted(rows.values(), key=lambda row: row["index"])

    def _of_two(self, one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        """Of two tries at an image, the one whose image is there: names of parts tell no order."""
        path = self.image_path(one["id"])
        if one == other or one["error"] or not path.is_file():
            return other
        if other["error"]:
            return one
        hashes = one.get("sha256"), other.get("sha256")
        if hashes[0] == hashes[1] or file_hashes([path])[path].hex() != hashes[0]:
            return other
        return one

    def _parts(self) -> list[Path]:
        return sorted((self.folder / "items").glob("*.parquet"))

    def faults(self) -> list[str]:
        """One sentence for each file of the cell that is damaged, with the remedy."""
        found = [f"{p} is damaged ({_AGAIN})" for p in self._parts() if _read_part(p) is None]
        try:
            self.log()
        except UserError as error:
            found.append(f"{error.message} ({error.hint})")
        for path in sorted((self.folder / "values").glob("*.npz")):
            if not zipfile.is_zipfile(path):
                found.append(f"{path} is damaged ({_SCORE_AGAIN})")
        return found

    def log(self) -> CellLog | None:
        """cell.json; None where there is none.

        Raises:
            UserError: it is damaged.
        """
        path = self.folder / "cell.json"
        return as_log(CellLog, read_json(path), path, _AGAIN) if path.is_file() else None

    def image_path(self, sample_id: str) -> Path:
        return self.folder / "images" / f"{sample_id}.png"

    def label_path(self, sample_id: str) -> Path | None:
        """The label map that was drawn, where it differs from the target's own; else None."""
        path = self.label_file(sample_id)
        return path if path.is_file() else None

    def label_file(self, sample_id: str) -> Path:
        """Where a drawn label map lies, if there is one."""
        return self.folder / "labels" / f"{sample_id}.png"

    def drawn_path(self, row: ItemRow) -> Path | None:
        """``label_path`` of an item, also where the file that its row vouches for is gone: the
        target's own label map must not stand in for it."""
        return self.label_file(row.id) if row.label_sha256 else self.label_path(row.id)

    def image(self, sample_id: str) -> np.ndarray:
        """(H, W, 3) uint8.

        Raises:
            UserError: it is gone or damaged.
        """
        from PIL import Image

        path = self.image_path(sample_id)
        try:
            with Image.open(path) as picture:
                return np.asarray(picture.convert("RGB"))
        except FileNotFoundError as error:
            raise UserError(f"{path} is gone", _AGAIN) from error
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"{path} is damaged: {error}", "remove it, then " + _AGAIN) from error


def _read_part(path: Path) -> list[dict[str, Any]] | None:
    """Item rows of one file; None where it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.read_table(
            path, page_checksum_verification=True
        ).to_pylist()
        for row in rows:
            _item(row)
    except (pa.ArrowException, OSError, ValueError):  # ValidationError is a ValueError
        return None
    whole = all(None not in map(row.get, ("id", "index", "error")) for row in rows)
    return rows if whole else None


def _item(row: Mapping[str, Any]) -> ItemRow:
    return ItemRow.model_validate({k: v for k, v in row.items() if v is not None})


@dataclass(frozen=True, init=False)
class CellView(CellFolder):
    """Read access to one cell of a finished or partial run: its files, its entry in the manifest.

    ``entry`` may be given as the mapping that stands in run.json.
    """

    entry: CellEntry

    def __init__(self, folder: Path, entry: CellEntry | Mapping[str, Any]) -> None:
        found = entry if isinstance(entry, CellEntry) else CellEntry.model_validate(entry)
        object.__setattr__(self, "folder", folder)
        object.__setattr__(self, "entry", found)

    @property
    def key(self) -> str:
        return self.entry.key

    def faults(self) -> list[str]:
        """As of its folder, and that rows of its images are gone."""
        rows, wanted = len(self.items()), self.entry.items
        gone = self.entry.status == "done" and rows < wanted
        if not gone or any(_read_part(p) is None for p in self._parts()):
            return super().faults()
        place = self.folder / "items"
        return [f"{place} has the rows of {rows} of {wanted} images ({_AGAIN})", *super().faults()]


def _values_path(cell: CellFolder, metric: str, protocol: str) -> Path:
    plain = "".join(c if c.isalnum() or c in "-_@+=." else "-" for c in f"{metric}@{protocol}")
    return cell.folder / "values" / f"{plain}.npz"


def write_values(
    cell: CellFolder, metric: str, protocol: str, ids: Sequence[str], values: np.ndarray
) -> None:
    """Keep (n,) values an item whose mean is the score, for paired comparisons."""
    buffer = io.BytesIO()
    np.savez(buffer, ids=np.array(ids), values=np.asarray(values, np.float64))
    path, data = _values_path(cell, metric, protocol), buffer.getvalue()
    if not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)


def read_values(cell: CellFolder, metric: str, protocol: str) -> dict[str, float] | None:
    """Item id -> value; None where none were kept.

    Raises:
        UserError: the file is damaged.
    """
    path = _values_path(cell, metric, protocol)
    if not path.is_file():
        return None
    try:
        stored = read_npz(path)
        return dict(zip(stored["ids"].tolist(), stored["values"].tolist(), strict=True))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged", _SCORE_AGAIN) from error


class RunStore:
    """A run folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def manifest(self) -> Manifest:
        """run.json.

        Raises:
            UserError: no run here, a damaged manifest, or one of another schema.
        """
        path = self.root / "run.json"
        return as_log(Manifest, read_json(path), path, _AGAIN)

    def write_manifest(self, manifest: Manifest) -> None:
        write_json(self.root / "run.json", manifest.written())

    def cells(self) -> list[CellView]:
        """Every cell of the manifest, in plan order, impossible ones too."""
        return [CellView(self.root / c.folder, c) for c in self.manifest().cells]

    def write_scores(
        self,
        scores: Sequence[ScoreRecord],
        metrics: Mapping[str, MetricFacts | Mapping[str, Any]],
        protocols: Iterable[ProtocolEntry | Mapping[str, Any]] = (),
    ) -> None:
        """scores.json: the scores, the facts of each metric, the fields of each protocol."""
        facts = {k: _plain(v) for k, v in metrics.items()}
        known = [_plain(p) for p in protocols]
        rows = [asdict(s) for s in scores]  # type: ignore[call-overload]
        file = {"schema": SCHEMA, "metrics": facts, "protocols": known, "scores": rows}
        write_json(self.root / "scores.json", file)

    def scores_file(self) -> ScoresFile:
        """scores.json.

        Raises:
            UserError: there is none yet, it is damaged, or of another schema.
        """
        path = self.root / "scores.json"
        if not path.is_file():
            raise UserError(f"no file {path}", "sisbench score RUN makes it")
        return as_log(ScoresFile, read_json(path, _SCORE_AGAIN), path, _SCORE_AGAIN)

    def scores(self) -> tuple[list[ScoreRecord], dict[str, MetricFacts]]:
        """(scores, facts of the metrics) of scores.json."""
        file = self.scores_file()
        return list(file.scores), file.metrics


def _plain(entry: Any) -> dict[str, Any]:
    return dict(entry) if isinstance(entry, Mapping) else entry.written()
