"""What a bundle's check finds of the run itself: schema, provenance, paths, pictures."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from pydantic import BaseModel, ValidationError

from sisbench.core.errors import UserError
from sisbench.core.log import (
    CEILING,
    SEEDED,
    CellEntry,
    CellLog,
    ItemRow,
    Manifest,
    ScoreRecord,
    ScoresFile,
    as_log,
)
from sisbench.core.schema import validated
from sisbench.protocol import Protocol
from sisbench.share.archive import Archive
from sisbench.share.bundle import ABOUT, SCHEMA, scrubbed
from sisbench.share.recompute import metric_class

MOST_ROWS = 5_000_000
_PROVENANCE = ("time", "python", "platform", "device", "libraries")
_LIBRARIES = ("torch", "numpy", "pillow")
Log = TypeVar("Log", bound=BaseModel)


@dataclass(frozen=True)
class Finding:
    """One result: ok True (holds), False (does not), or None (cannot be checked, and why)."""

    ok: bool | None
    what: str


@dataclass
class Bundle:
    """What has been read of a bundle so far."""

    archive: Archive
    about: dict[str, Any]
    manifest: Manifest
    scores: ScoresFile
    items: dict[str, list[ItemRow]] = field(default_factory=dict)

    def cell(self, key: str) -> CellEntry | None:
        return next((c for c in self.manifest.cells if c.key == key), None)


def read_bundle(archive: Archive) -> Bundle:
    """The three files that describe a bundle.

    Raises:
        UserError: one is missing, damaged, or of another schema.
    """
    about = _json(archive, ABOUT)
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        raise UserError(f"{ABOUT} is not of schema {SCHEMA}")
    manifest = _log(archive, Manifest, "run.json")
    return Bundle(archive, about, manifest, _log(archive, ScoresFile, "scores.json"))


def _json(archive: Archive, name: str) -> Any:
    try:
        return json.loads(archive.read(name))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is damaged: {error}") from error


def _log(archive: Archive, model: type[Log], name: str) -> Log:
    return as_log(model, _json(archive, name), Path(name), "pack it again")


# ---- the run ----------------------------------------------------------------------------------


def schema(bundle: Bundle) -> Iterator[Finding]:
    """Cells, items, protocols and scores that do not belong together; fills ``bundle.items``."""
    keys = [c.key for c in bundle.manifest.cells]
    if len(set(keys)) != len(keys) or not keys:
        yield Finding(False, "schema: run.json has no cells, or one twice")
    for cell in bundle.manifest.cells:
        for fault in _cell_faults(bundle, cell):
            yield Finding(False, f"schema: {_place(cell)}: {fault}")
    known: dict[str, str] = {}
    for entry in bundle.scores.protocols:
        try:
            known[entry.id] = validated(Protocol, entry.fields(), "scores.json").id
        except UserError as error:
            yield Finding(False, f"schema: protocol {entry.id}: {error.message}")
            continue
        if known[entry.id] != entry.id:
            yield Finding(
                False, f"schema: protocol {entry.id}: its fields are those of {known[entry.id]}"
            )
    seen: set[tuple[str, ...]] = set()
    for score in bundle.scores.scores:
        for fault in _score_faults(bundle, score, known, seen):
            yield Finding(False, f"schema: {score_name(score)}: {fault}")


def _cell_faults(bundle: Bundle, cell: CellEntry) -> Iterator[str]:
    names = bundle.archive.names
    if cell.status in ("impossible", "failed") and not cell.reason:
        yield f"is {cell.status} without a reason"
    try:
        bundle.items[cell.key] = _items(bundle.archive, cell)
        path = f"{cell.folder}/cell.json"
        if path in names and _log(bundle.archive, CellLog, path).key != cell.key:
            yield "its cell.json is of another cell"
    except UserError as error:
        yield error.message
        return
    made = [row for row in bundle.items[cell.key] if not row.error]
    if cell.status == "done" and len(made) != cell.items:
        yield f"is done with {len(made)} of {cell.items} images"
    if made and f"{cell.folder}/cell.json" not in names:
        yield "has images and no cell.json"


def _items(archive: Archive, cell: CellEntry) -> list[ItemRow]:
    """Item rows of a cell, in plan order.

    Raises:
        UserError: the file is damaged, or has more rows than anybody makes images.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = f"{cell.folder}/items/all.parquet"
    if name not in archive.names:
        return []
    try:
        file = pq.ParquetFile(pa.BufferReader(archive.read(name)))
        if file.metadata.num_rows > MOST_ROWS or file.metadata.num_columns > 100:
            raise UserError(f"{name} has {file.metadata.num_rows} rows")
        rows: list[dict[str, Any]] = file.read().to_pylist()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise UserError(f"{name} is damaged: {error}") from error
    wanted = ("id", "index", "target", "error")
    if any(row.get(key) is None for row in rows for key in wanted):
        raise UserError(f"{name}: a row lacks id, index, target or error")
    if len({row["id"] for row in rows}) != len(rows):
        raise UserError(f"{name}: an item is there twice")
    known = ({k: v for k, v in row.items() if v is not None} for row in rows)
    try:
        typed = [ItemRow.model_validate(row) for row in known]
    except ValidationError as error:
        raise UserError(f"{name} is damaged: {error.errors()[0]['msg']}") from error
    return sorted(typed, key=lambda row: row.index)


def _score_faults(
    bundle: Bundle, score: ScoreRecord, protocols: Mapping[str, str], seen: set[tuple[str, ...]]
) -> Iterator[str]:
    spot = (score.method, score.dataset, score.task, score.metric, score.protocol)
    if spot in seen:
        yield "stands twice"
    seen.add(spot)
    if score.protocol not in protocols:
        yield f"protocol {score.protocol} is not described"
    if score.value is None and not score.reason:
        yield "has neither a value nor a reason"
    if score.value is not None and not math.isfinite(score.value):
        yield f"is {score.value}"
    if CEILING not in score.marks:
        cell = bundle.cell(score.cell)
        if cell is None or cell.place != spot[:3]:
            yield "is of no cell of the run"
        elif score.value is not None and cell.method.seeded and SEEDED not in score.marks:
            yield "does not say that its weights are seeded"
    facts = bundle.scores.metrics.get(score.metric)
    if facts is None:
        yield "its metric is not described"
        return
    try:
        cls = metric_class(score.metric)
    except UserError:
        return  # said where it is to be recomputed
    if (facts.direction, facts.scale, facts.unit) != (cls.direction, cls.scale, cls.unit):
        yield "its metric is described with another direction, scale or unit"


def provenance(bundle: Bundle) -> Iterator[Finding]:
    """What is not said of where a run's numbers come from."""
    own = bundle.manifest.provenance
    merged = own.get("merged")
    several = merged if isinstance(merged, list) and merged else [own]
    for at, one in enumerate(several):
        which = f"run {at + 1}: " if len(several) > 1 else ""
        given = one if isinstance(one, dict) else {}
        for key in _PROVENANCE:
            if not given.get(key):
                yield Finding(False, f"provenance: {which}{key} is not stated")
        libraries = given.get("libraries")
        versions = libraries if isinstance(libraries, dict) else {}
        for name in _LIBRARIES:
            if versions and not versions.get(name):
                yield Finding(False, f"provenance: {which}version of {name} is not stated")
        if not (versions.get("sisbench") or given.get("commit")):
            yield Finding(False, f"provenance: {which}version of sisbench is not stated")
    for cell in bundle.manifest.cells:
        if not bundle.items.get(cell.key):
            continue
        if not cell.dataset.fingerprint:
            yield Finding(False, f"provenance: {_place(cell)}: no fingerprint of the data")
        weights = cell.method.weights
        drawn = (weights.source or "none") == "none" or cell.method.seeded
        if not (drawn or weights.sha256):
            yield Finding(False, f"provenance: {_place(cell)}: no hash of the weights")
        if not cell.method.name or not cell.protocols or not cell.generation:
            yield Finding(False, f"provenance: {_place(cell)}: method or protocol is not stated")


def paths(bundle: Bundle) -> Iterator[Finding]:
    """Files that hold a path of the machine that made them."""
    for name in bundle.archive.names:
        if name.endswith(".json"):
            try:
                raw = _json(bundle.archive, name)
            except UserError as error:
                yield Finding(False, f"paths: {error.message}")
                continue
            if scrubbed(raw) != raw:
                yield Finding(False, f"paths: {name} holds a path of a machine")


def pictures(bundle: Bundle) -> Iterator[Finding]:
    """Pictures that the bundle promises and does not have, or that are damaged."""
    kind = bundle.about.get("pictures")
    if kind not in ("thumbnails", "images", "none"):
        yield Finding(False, f"images: {ABOUT} says {kind!r}")
        return
    if kind == "none":
        return
    first = bundle.about.get("thumbnails", {}).get("first", 0)
    folder, suffix = ("images", "png") if kind == "images" else ("thumbnails", "jpg")
    for cell in bundle.manifest.cells:
        made = [row.id for row in bundle.items.get(cell.key, ()) if not row.error]
        for name in made if kind == "images" else made[:first]:
            path = f"{cell.folder}/{folder}/{name}.{suffix}"
            size = cell.dataset.size if kind == "images" else None
            fault = _picture_fault(bundle.archive, path, size)
            if fault:
                yield Finding(False, f"images: {path}: {fault}")


def _picture_fault(archive: Archive, name: str, size: tuple[int, int] | None) -> str:
    if name not in archive.names:
        return "is not there"
    try:
        with Image.open(io.BytesIO(archive.read(name)), formats=("PNG", "JPEG")) as picture:
            width, height = picture.size
            if size is not None and (height, width) != tuple(size):
                return f"is {height} x {width}, the data set {size[0]} x {size[1]}"
            picture.verify()
    except (UserError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"is damaged: {error}"
    return ""


def _place(cell: CellEntry) -> str:
    method, dataset, task = cell.place
    return f"{method}, {task} on {dataset}"


def score_name(score: ScoreRecord) -> str:
    """``SEAN, reconstruct on celebamask_hq: fid``."""
    return f"{score.method}, {score.task} on {score.dataset}: {score.metric}"
