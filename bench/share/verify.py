"""The check of a bundle: schema, hashes, every score from its rows, provenance. No trust in it."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from pydantic import BaseModel

from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.log import (
    CEILING,
    CellEntry,
    CellLog,
    Manifest,
    ScoreRecord,
    ScoresFile,
    as_log,
)
from sisbench.core.schema import validated
from sisbench.core.store import write_atomic
from sisbench.protocol import Protocol
from sisbench.share.archive import LARGEST, Archive, open_archive, read_npz
from sisbench.share.bundle import ABOUT, MANIFEST, SCHEMA, TOLERANCE, scrubbed
from sisbench.share.recompute import Again, metric_class, recomputed

LOOSEST = {"value_relative": 1e-4, "value_absolute": 1e-6, "se_relative": 0.1}
"""A tolerance that is stated wider than this is a failure."""
MOST_ROWS = 5_000_000
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_PROVENANCE = ("time", "python", "platform", "device", "libraries")
_LIBRARIES = ("torch", "numpy", "pillow")
Log = TypeVar("Log", bound=BaseModel)


@dataclass(frozen=True)
class Finding:
    """One result: ok True (holds), False (does not), or None (cannot be checked, and why)."""

    ok: bool | None
    what: str


@dataclass
class _Bundle:
    """What has been read of a bundle so far."""

    archive: Archive
    about: dict[str, Any]
    manifest: Manifest
    scores: ScoresFile
    items: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def cell(self, key: str) -> CellEntry | None:
        return next((c for c in self.manifest.cells if c.key == key), None)


def verify(path: Path, largest: int = LARGEST) -> Iterator[Finding]:
    """Every check of a bundle, failures one by one, and one finding for what holds of a kind.

    Args:
        largest: bytes that it may have unpacked.

    Raises:
        UserError: no such file.
    """
    if not path.is_file():
        raise UserError(f"no file {path}")
    try:
        with open_archive(path, largest) as archive:
            yield Finding(True, f"archive: {len(archive.names)} files, none leads out of it")
            yield from _verify(archive)
    except UserError as error:
        yield Finding(False, f"archive: {error.message}")


def unpack(path: Path, to: Path, largest: int = LARGEST) -> None:
    """The run's folder that a bundle holds; nothing is written outside of ``to``.

    Raises:
        UserError: not to be trusted; ``to`` is not empty.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} is not empty", "give a new folder")
    with open_archive(path, largest) as archive:
        for name in archive.names:
            write_atomic(to / name, archive.read(name))


def _verify(archive: Archive) -> Iterator[Finding]:
    wrong = list(_hashes(archive))
    yield from wrong or [Finding(True, f"hashes: {len(archive.names) - 1} files are as listed")]
    try:
        bundle = _read(archive)
    except UserError as error:
        yield Finding(False, f"schema: {error.message}")
        return
    checks: tuple[tuple[str, Callable[[_Bundle], Iterator[Finding]]], ...] = (
        ("schema: cells, items and scores belong together", _schema),
        ("provenance: complete", _provenance),
        ("paths: none of a machine", _paths),
        ("images: as the bundle says", _pictures),
    )
    for holds, check in checks:
        faults = list(check(bundle))
        yield from faults or [Finding(True, holds)]
    yield from _scores(bundle)


def _hashes(archive: Archive) -> Iterator[Finding]:
    try:
        text = archive.read(MANIFEST).decode()
    except (UserError, UnicodeDecodeError) as error:
        yield Finding(False, f"hashes: {MANIFEST}: {error}")
        return
    listed: dict[str, str] = {}
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found is None or found[2] in listed:
            yield Finding(False, f"hashes: {MANIFEST} has the line {line[:80]!r}")
            continue
        listed[found[2]] = found[1]
    there = set(archive.names) - {MANIFEST}
    for name in sorted(there - listed.keys()):
        yield Finding(False, f"hashes: {name} is not listed")
    for name in sorted(listed.keys() - there):
        yield Finding(False, f"hashes: {name} is listed and not there")
    for name in sorted(there & listed.keys()):
        try:
            same = hashlib.sha256(archive.read(name)).hexdigest() == listed[name]
        except UserError as error:
            yield Finding(False, f"hashes: {error.message}")
            continue
        if not same:
            yield Finding(False, f"hashes: {name} is not the file that was listed")


def _read(archive: Archive) -> _Bundle:
    """The three files that describe a bundle.

    Raises:
        UserError: one is missing, damaged, or of another schema.
    """
    about = _json(archive, ABOUT)
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        raise UserError(f"{ABOUT} is not of schema {SCHEMA}")
    manifest = _log(archive, Manifest, "run.json")
    return _Bundle(archive, about, manifest, _log(archive, ScoresFile, "scores.json"))


def _json(archive: Archive, name: str) -> Any:
    try:
        return json.loads(archive.read(name))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is damaged: {error}") from error


def _log(archive: Archive, model: type[Log], name: str) -> Log:
    return as_log(model, _json(archive, name), Path(name), "pack it again")


# ---- the run ----------------------------------------------------------------------------------


def _schema(bundle: _Bundle) -> Iterator[Finding]:
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
            yield Finding(False, f"schema: {_named(score)}: {fault}")


def _cell_faults(bundle: _Bundle, cell: CellEntry) -> Iterator[str]:
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
    made = [row for row in bundle.items[cell.key] if not row["error"]]
    if cell.status == "done" and len(made) != cell.items:
        yield f"is done with {len(made)} of {cell.items} images"
    if made and f"{cell.folder}/cell.json" not in names:
        yield "has images and no cell.json"


def _items(archive: Archive, cell: CellEntry) -> list[dict[str, Any]]:
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
    return sorted(rows, key=lambda row: row["index"])


def _score_faults(
    bundle: _Bundle, score: ScoreRecord, protocols: Mapping[str, str], seen: set[tuple[str, ...]]
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
        elif score.value is not None and cell.method.seeded and "seeded weights" not in score.marks:
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


def _provenance(bundle: _Bundle) -> Iterator[Finding]:
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
        if cell.method.weights.source and not cell.method.weights.sha256:
            yield Finding(False, f"provenance: {_place(cell)}: no hash of the weights")
        if not cell.method.name or not cell.protocols or not cell.generation:
            yield Finding(False, f"provenance: {_place(cell)}: method or protocol is not stated")


def _paths(bundle: _Bundle) -> Iterator[Finding]:
    for name in bundle.archive.names:
        if name.endswith(".json"):
            try:
                raw = _json(bundle.archive, name)
            except UserError as error:
                yield Finding(False, f"paths: {error.message}")
                continue
            if scrubbed(raw) != raw:
                yield Finding(False, f"paths: {name} holds a path of a machine")


def _pictures(bundle: _Bundle) -> Iterator[Finding]:
    kind = bundle.about.get("pictures")
    if kind not in ("thumbnails", "images", "none"):
        yield Finding(False, f"images: {ABOUT} says {kind!r}")
        return
    if kind == "none":
        return
    first = bundle.about.get("thumbnails", {}).get("first", 0)
    folder, suffix = ("images", "png") if kind == "images" else ("thumbnails", "jpg")
    for cell in bundle.manifest.cells:
        made = [row["id"] for row in bundle.items.get(cell.key, ()) if not row["error"]]
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


# ---- scores -----------------------------------------------------------------------------------


def _scores(bundle: _Bundle) -> Iterator[Finding]:
    try:
        tolerance = _tolerance(bundle.about)
    except UserError as error:
        yield Finding(False, f"scores: {error.message}")
        tolerance = TOLERANCE
    right = 0
    protocols = {p.id: p for p in bundle.scores.protocols}
    for score in bundle.scores.scores:
        if score.value is None:
            continue
        try:
            entry = protocols[score.protocol]
            protocol = validated(Protocol, entry.fields(), "scores.json")
            space = _space(bundle, score.dataset)
            cell = None if CEILING in score.marks else bundle.cell(score.cell)
            items = [] if cell is None else bundle.items.get(cell.key, [])
            if cell is None and CEILING not in score.marks:
                raise UserError("it is of no cell of the run")
            again = recomputed(bundle.archive, score, cell, items, protocol, space)
            faults = list(_compare(bundle, score, cell, again, tolerance))
        except Unavailable as error:
            yield Finding(None, f"scores: {_named(score)}: {error.message}")
            continue
        except KeyError:
            faults = [f"protocol {score.protocol} is not described"]
        except UserError as error:
            faults = [error.message]
        yield from (Finding(False, f"scores: {_named(score)}: {fault}") for fault in faults)
        right += not faults
    yield Finding(True, f"scores: {right} come out of their rows again")


def _tolerance(about: Mapping[str, Any]) -> dict[str, float]:
    stated = about.get("tolerance")
    if not isinstance(stated, dict) or stated.keys() != LOOSEST.keys():
        raise UserError("no tolerance is stated")
    for key, most in LOOSEST.items():
        value = stated[key]
        if not isinstance(value, int | float) or not 0 <= value <= most:
            raise UserError(f"the tolerance {key} is {value}, at most {most:g} is taken")
    return {key: float(value) for key, value in stated.items()}


def _compare(
    bundle: _Bundle,
    score: ScoreRecord,
    cell: CellEntry | None,
    again: Again,
    tolerance: Mapping[str, float],
) -> Iterator[str]:
    """What differs between a stated score and the recomputed one."""
    found = again.record
    relative, absolute = tolerance["value_relative"], tolerance["value_absolute"]

    def near(a: float | None, b: float | None, rel: float = relative) -> bool:
        if a is None or b is None:
            return a is b
        return math.isclose(a, b, rel_tol=rel, abs_tol=absolute)

    if not near(score.value, found.value):
        yield f"is {score.value}, its rows give {found.value}"
    if not near(score.se, found.se, tolerance["se_relative"]):
        yield f"its standard error is {score.se}, its rows give {found.se}"
    for side in (0, 1):
        a, b = (None if s.ci is None else s.ci[side] for s in (score, found))
        wide = tolerance["se_relative"] * abs((found.ci or (0, 0))[1] - (found.ci or (0, 0))[0])
        if (a is None) != (b is None) or (
            a is not None and b is not None and abs(a - b) > absolute + wide + relative * abs(b)
        ):
            yield f"its interval is {score.ci}, its rows give {found.ci}"
            break
    if (score.n, score.n_real) != (found.n, found.n_real):
        yield (
            f"says {score.n} and {score.n_real} images, its rows are {found.n} and {found.n_real}"
        )
    if score.per_class.keys() != found.per_class.keys() or any(
        not near(v, found.per_class[k]) for k, v in score.per_class.items()
    ):
        yield "its values by class are not those of its rows"
    if cell is not None:
        yield from _values(bundle, score, cell, again, tolerance)


def _values(
    bundle: _Bundle,
    score: ScoreRecord,
    cell: CellEntry,
    again: Again,
    tolerance: Mapping[str, float],
) -> Iterator[str]:
    """Whether the values an item, on which paired tests rest, are those of the rows."""
    values = again.score.values
    if values is None or len(values) != len(again.ids):
        return
    plain = "".join(
        c if c.isalnum() or c in "-_@+=." else "-" for c in f"{score.metric}@{score.protocol}"
    )
    path = f"{cell.folder}/values/{plain}.npz"
    stored = read_npz(bundle.archive.read(path), path)
    if {"ids", "values"} - stored.keys() or tuple(stored["ids"].tolist()) != again.ids:
        yield f"{path} is of other items"
        return
    kept = stored["values"]
    scale = float(np.abs(values).max(initial=0))
    slack = tolerance["value_absolute"] + tolerance["value_relative"] * scale
    same = kept.shape == values.shape and kept.dtype.kind == "f"
    if not same or not np.allclose(kept, values, rtol=tolerance["value_relative"], atol=slack):
        yield f"{path} holds other values than its rows give"


def _space(bundle: _Bundle, dataset: str) -> LabelSpace:
    spaces = bundle.about.get("spaces")
    raw = spaces.get(dataset) if isinstance(spaces, dict) else None
    try:
        return LabelSpace(
            str(raw["name"]),
            tuple(map(str, raw["classes"])),
            raw["ignore"],
            frozenset(map(int, raw["background"])),
        )
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{ABOUT} does not describe the classes of {dataset}") from error


def _place(cell: CellEntry) -> str:
    method, dataset, task = cell.place
    return f"{method}, {task} on {dataset}"


def _named(score: ScoreRecord) -> str:
    return f"{score.method}, {score.task} on {score.dataset}: {score.metric}"
