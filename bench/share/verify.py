"""The check of a bundle: schema, hashes, every score from its rows, provenance. No trust in it."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.log import CEILING, CellEntry, ScoreRecord
from sisbench.core.schema import validated
from sisbench.core.store import write_atomic
from sisbench.protocol import Protocol
from sisbench.share.archive import LARGEST, Archive, open_archive, read_npz
from sisbench.share.bundle import ABOUT, MANIFEST, TOLERANCE
from sisbench.share.checks import (
    Bundle,
    Finding,
    paths,
    pictures,
    provenance,
    read_bundle,
    schema,
    score_name,
)
from sisbench.share.recompute import Again, recomputed

LOOSEST = {"value_relative": 1e-4, "value_absolute": 1e-6, "se_relative": 0.1}
"""A tolerance that is stated wider than this is a failure."""
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def verify(path: Path, largest: int = LARGEST) -> Iterator[Finding]:
    """Every check of a bundle, failures one by one, and one finding for what holds of a kind.

    Args:
        largest: bytes that it may have unpacked.

    Raises:
        UserError: no such file.
    """
    if path.is_dir():
        raise UserError(
            f"{path} is a folder, no bundle", f"sisbench bundle {path} makes one of a run"
        )
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
        bundle = read_bundle(archive)
    except UserError as error:
        yield Finding(False, f"schema: {error.message}")
        return
    checks: tuple[tuple[str, Callable[[Bundle], Iterator[Finding]]], ...] = (
        ("schema: cells, items and scores belong together", schema),
        ("provenance: complete", provenance),
        ("paths: none of a machine", paths),
        ("images: as the bundle says", pictures),
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


# ---- scores -----------------------------------------------------------------------------------


def _scores(bundle: Bundle) -> Iterator[Finding]:
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
            yield Finding(None, f"scores: {score_name(score)}: {error.message}")
            continue
        except KeyError:
            faults = [f"protocol {score.protocol} is not described"]
        except UserError as error:
            faults = [error.message]
        yield from (Finding(False, f"scores: {score_name(score)}: {fault}") for fault in faults)
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
    bundle: Bundle,
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
    bundle: Bundle,
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


def _space(bundle: Bundle, dataset: str) -> LabelSpace:
    spaces = bundle.about.get("spaces")
    raw: Any = spaces.get(dataset) if isinstance(spaces, dict) else None
    try:
        return LabelSpace(
            str(raw["name"]),
            tuple(map(str, raw["classes"])),
            raw["ignore"],
            frozenset(map(int, raw["background"])),
        )
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{ABOUT} does not describe the classes of {dataset}") from error
