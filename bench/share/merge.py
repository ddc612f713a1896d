"""Runs of several machines as one: what may stand in one table, and what is refused and why."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sisbench.config import RunConfig
from sisbench.core.errors import UserError
from sisbench.core.log import (
    BASIS,
    CEILING,
    CellEntry,
    Manifest,
    MetricFacts,
    ProtocolEntry,
    ScoreRecord,
    ScoresFile,
)
from sisbench.core.schema import validated
from sisbench.core.store import CellView, RunStore
from sisbench.share.recompute import metric_class

_WITHOUT = ("impossible", "failed")
_RESTS_ON = (*BASIS, "real_split")


@dataclass(frozen=True)
class Source:
    """One run: its folder, a name that no other of them has, and what it holds."""

    root: Path
    name: str
    manifest: Manifest
    cells: Sequence[CellView]
    scores: ScoresFile

    @property
    def config(self) -> RunConfig:
        return validated(RunConfig, self.manifest.config, str(self.root / "run.json"))

    def scores_of(self, cell: CellView) -> list[ScoreRecord]:
        """Its scores under every protocol."""
        place = cell.entry.place
        return [
            s
            for s in self.scores.scores
            if s.cell == cell.key and (s.method, s.dataset, s.task) == place
        ]


@dataclass(frozen=True)
class Taken:
    """A cell that goes into the merged run: where it lies, and what it becomes there."""

    source: Source
    cell: CellView
    entry: CellEntry
    scores: tuple[ScoreRecord, ...]


@dataclass
class Merging:
    """What becomes of several runs.

    Attributes:
        taken: cells, method by method.
        ceilings: scores of the photographs.
        refused: one line for each cell or score that is left out: run, what, why.
        notes: further lines that a reader should see.
    """

    sources: Sequence[Source]
    taken: list[Taken] = field(default_factory=list)
    ceilings: list[ScoreRecord] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def scores(self) -> list[ScoreRecord]:
        """Every score of the merged run."""
        return [s for one in self.taken for s in one.scores] + self.ceilings

    @property
    def metrics(self) -> dict[str, MetricFacts]:
        """Facts of every metric; the first run that knows one describes it."""
        facts: dict[str, MetricFacts] = {}
        for source in self.sources:
            facts = dict(source.scores.metrics) | facts
        return facts

    @property
    def protocols(self) -> list[ProtocolEntry]:
        """Of every score, as the first run has them."""
        return list(_protocols(self.sources[0]).values())


def open_sources(runs: Sequence[Path]) -> list[Source]:
    """Read the runs.

    Raises:
        UserError: fewer than two, one of them twice, no run in a folder, a damaged one.
    """
    if len(runs) < 2:
        raise UserError(f"merging takes two runs or more, got {len(runs)}")
    found: list[Source] = []
    for root in runs:
        if root.resolve() in [s.root.resolve() for s in found]:
            raise UserError(f"{root} is named twice")
        store = RunStore(root)
        manifest = store.manifest()
        there = (root / "scores.json").is_file()
        scores = store.scores_file() if there else ScoresFile()
        name = _free(manifest.name or root.name, root.name, [s.name for s in found])
        found.append(Source(root, name, manifest, store.cells(), scores))
    return found


def merging(runs: Sequence[Path]) -> Merging:
    """Decide what goes together. The first run's protocols hold for all, and so do the data of the
    first run that has a data set, and the basis of the first score of a column.

    Raises:
        UserError: see ``open_sources``.
    """
    sources = open_sources(runs)
    found = Merging(sources)
    accepted = [(s, [c for c in s.cells if _accept(found, s, c)]) for s in sources]
    names = _Labels()
    for source, cells in accepted:
        for label in dict.fromkeys(c.entry.method.label for c in cells):
            own = [c for c in cells if c.entry.method.label == label]
            _take(found, names, source, own)
    _drop_empty(found)
    order = list(dict.fromkeys(one.entry.method.label for one in found.taken))
    found.taken.sort(key=lambda one: order.index(one.entry.method.label))
    _check_bases(found)
    _take_ceilings(found, accepted)
    versions = {s.name: _version(s.manifest) for s in sources}
    if len(set(versions.values())) > 1:
        said = ", ".join(f"{name}: {version}" for name, version in versions.items())
        found.notes.append(f"the runs were made by several versions of sisbench ({said})")
    return found


# ---- cells ------------------------------------------------------------------------------------


def _accept(found: Merging, source: Source, cell: CellView) -> bool:
    """Whether a cell may stand beside the first run's; where not, why is noted."""
    what = _cell_name(cell)
    why = _other_data(found, source, cell) or _other_protocol(found, source, cell)
    if why:
        found.refused.append(f"{source.name}: {what}: {why}")
    return not why


def _other_data(found: Merging, source: Source, cell: CellView) -> str:
    data = cell.entry.dataset
    if not data.fingerprint:
        return "it does not say which data it was made from"
    for first in found.sources:
        same = [c.entry.dataset for c in first.cells if c.entry.dataset.label == data.label]
        if same:
            break
    known = same[0]  # a run finds its own at the latest
    for field_, shown in (
        ("fingerprint", "data fingerprint"),
        ("space", "space"),
        ("size", "size"),
    ):
        mine, theirs = getattr(data, field_), getattr(known, field_)
        if mine != theirs:
            return f"{shown} {_brief(mine)}, {first.name} has {_brief(theirs)}"
    return ""


def _other_protocol(found: Merging, source: Source, cell: CellView) -> str:
    first = found.sources[0]
    known = _protocols(first)
    own = [*cell.entry.protocols, *(s.protocol for s in source.scores_of(cell))]
    if not own or any(p in known for p in own):
        return ""
    differing = _differing(_protocols(source).get(own[0]), known.values())
    return f"protocol {own[0]}, {first.name} has {', '.join(known) or 'none'}{differing}"


def _differing(mine: ProtocolEntry | None, known: Iterable[ProtocolEntry]) -> str:
    """``; they differ in fid, real``, where there is one protocol to compare with."""
    others = list(known)
    if mine is None or len(others) != 1:
        return ""
    a, b = mine.fields(), others[0].fields()
    names = sorted(
        k for k in {*a, *b} - {"name", "title", "source", "remarks"} if a.get(k) != b.get(k)
    )
    return f"; they differ in {', '.join(names)}" if names else ""


class _Labels:
    """Labels of methods that are taken, and whose they are."""

    def __init__(self) -> None:
        self.owner: dict[str, tuple[Any, ...]] = {}
        self.titles: dict[str, str] = {}


def _take(found: Merging, names: _Labels, source: Source, cells: Sequence[CellView]) -> None:
    """Take one method's cells of a run; under a label of its own where another method, or other
    images of the same one, has it already."""
    method = cells[0].entry.method
    made = [c for c in cells if c.entry.status not in _WITHOUT]
    label = method.label
    identity = _identity(source, made[0]) if made else None
    if identity is not None:
        apart = label in names.owner and (
            names.owner[label] != identity or any(_clashes(found, source, c) for c in made)
        )
        if apart:
            label = _free(f"{label} ({source.name})", f"{label} ({source.root.name})", names.owner)
        names.owner[label] = identity
    title = names.titles.setdefault(label, method.title)
    if [t for other, t in names.titles.items() if other != label and t == title]:
        title = names.titles[label] = f"{title} ({source.name})"
    for cell in cells:
        _take_cell(found, source, cell, label, title)


def _take_cell(found: Merging, source: Source, cell: CellView, label: str, title: str) -> None:
    scores = source.scores_of(cell)
    at = next((k for k, t in enumerate(found.taken) if _same_images(t, cell, label)), None)
    if at is not None:
        before = found.taken[at]
        if _worth(cell, scores) <= _worth(before.cell, before.scores):
            found.notes.append(
                f"{source.name}: {_cell_name(cell)}: already there from {before.source.name}"
            )
            return
        found.notes.append(
            f"{before.source.name}: {_cell_name(before.cell)}: {source.name} has more of it"
        )
        del found.taken[at]
    keys = {t.entry.key for t in found.taken}
    key = cell.key if cell.key not in keys else _other_key(cell.key, label)
    method = cell.entry.method.model_copy(update={"label": label, "title": title})
    known = _protocols(found.sources[0])
    changes = {
        "key": key,
        "method": method,
        "folder": _folder(label, cell.entry, key),
        "protocols": tuple(p for p in cell.entry.protocols if p in known),
    }
    entry = cell.entry.model_copy(update=changes)
    kept = []
    for score in scores:
        if score.protocol in known:
            kept.append(replace(score, method=label, title=title, cell=key))
        else:
            found.refused.append(
                f"{source.name}: {_score_name(score)}: protocol {score.protocol}, "
                f"{found.sources[0].name} has {', '.join(known)}"
            )
    found.taken.append(Taken(source, cell, entry, tuple(kept)))


def _same_images(taken: Taken, cell: CellView, label: str) -> bool:
    """Whether a cell that is taken has the same images, under the same label."""
    return taken.entry.method.label == label and taken.cell.key == cell.key


def _clashes(found: Merging, source: Source, cell: CellView) -> bool:
    """Whether other images, or other scores of such images, stand at the cell's place already."""
    for one in found.taken:
        if one.entry.status in _WITHOUT or _spot(one.entry) != _spot(cell.entry):
            continue
        if one.cell.key != cell.key:
            return True
        values = {(s.metric, s.protocol): s.value for s in one.scores}
        for score in source.scores_of(cell):
            other = values.get((score.metric, score.protocol))
            if None in (score.value, other) or _of_machine(score):
                continue
            if score.value != other:
                return True
    return False


def _of_machine(score: ScoreRecord) -> bool:
    """Whether a score, as seconds, is of the machine and differs with it."""
    try:
        return metric_class(score.metric).kind == "machine"
    except UserError:  # of a package that is not here
        return False


def _drop_empty(found: Merging) -> None:
    """A cell without images gives way to one with images at its place."""
    filled = {_spot(t.entry) for t in found.taken if t.entry.status not in _WITHOUT}
    kept = []
    for one in found.taken:
        if one.entry.status in _WITHOUT:
            if _spot(one.entry) in filled:
                continue
            filled.add(_spot(one.entry))
        kept.append(one)
    found.taken[:] = kept


def _spot(entry: CellEntry) -> tuple[str, ...]:
    """Where a cell stands, and under which rules its images are made."""
    return (*entry.place, repr(sorted(entry.generation.items())))


def _identity(source: Source, cell: CellView) -> tuple[Any, ...]:
    """What makes two methods the same. One of the user's own file is known by its cell's key alone:
    what its code does stands nowhere else."""
    method, editor = cell.entry.method, cell.entry.editor
    named = [m.name for m in source.config.methods if m.shown == method.label]
    own = any(".py:" in name for name in (*named, method.name))
    name = cell.key if own else method.name
    layout = None if editor is None else (editor.name, editor.weights)
    return name, method.weights.sha256, method.size, repr(sorted(method.options.items())), layout


def _worth(cell: CellView, scores: Sequence[ScoreRecord]) -> tuple[bool, int]:
    return cell.entry.status == "done", sum(s.value is not None for s in scores)


# ---- scores -----------------------------------------------------------------------------------


def _check_bases(found: Merging) -> None:
    """Empty the scores that rest on something else than the first of their column."""
    first: dict[tuple[str, ...], tuple[Source, dict[str, str]]] = {}
    for at, one in enumerate(found.taken):
        scores = []
        for score in one.scores:
            column = (score.dataset, score.task, score.metric, score.protocol)
            mine = {k: str(score.extra.get(k, "")) for k in _RESTS_ON}
            if score.value is None:
                scores.append(score)
                continue
            owner, theirs = first.setdefault(column, (one.source, mine))
            differing = [k for k in _RESTS_ON if mine[k] != theirs[k]]
            if differing:
                why = "; ".join(
                    f"{k.replace('_', ' ')} {mine[k] or 'none'}, {owner.name} has "
                    f"{theirs[k] or 'none'}"
                    for k in differing
                )
                found.refused.append(f"{one.source.name}: {_score_name(score)}: {why}")
                score = _emptied(score, f"refused in merging: {why}")
            scores.append(score)
        found.taken[at] = replace(one, scores=tuple(scores))


def _emptied(score: ScoreRecord, reason: str) -> ScoreRecord:
    return ScoreRecord(
        method=score.method,
        title=score.title,
        dataset=score.dataset,
        task=score.task,
        metric=score.metric,
        protocol=score.protocol,
        value=None,
        reason=reason,
        marks=score.marks,
        cell=score.cell,
    )


def _take_ceilings(found: Merging, accepted: Sequence[tuple[Source, Sequence[CellView]]]) -> None:
    """Scores of the photographs, from the first run that has each, where its data were accepted."""
    columns = {(s.dataset, s.task, s.metric, s.protocol) for s in found.scores}
    seen: set[tuple[str, ...]] = set()
    for source, cells in accepted:
        labels = {c.entry.dataset.label for c in cells}
        for score in source.scores.scores:
            column = (score.dataset, score.task, score.metric, score.protocol)
            if CEILING in score.marks and score.dataset in labels and column in columns - seen:
                seen.add(column)
                found.ceilings.append(score)


# ---- names ------------------------------------------------------------------------------------


def _protocols(source: Source) -> dict[str, ProtocolEntry]:
    entries = [*source.manifest.protocols, *source.scores.protocols]
    return {entry.id: entry for entry in entries}


def _cell_name(cell: CellView) -> str:
    method, dataset, task = cell.entry.place
    return f"{method}, {task} on {dataset}"


def _score_name(score: ScoreRecord) -> str:
    return f"{score.method}, {score.task} on {score.dataset}: {score.metric}"


def _brief(value: Any) -> str:
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    return str(value)[:12] if value else "none"


def _free(first: str, second: str, taken: Container[str]) -> str:
    """The first of the names that is not taken, else one with a number."""
    for name in (first, second):
        if name not in taken:
            return name
    return next(f"{first}-{k}" for k in range(2, 10_000) if f"{first}-{k}" not in taken)


def _folder(label: str, entry: CellEntry, key: str) -> str:
    name = "--".join((label, entry.dataset.label, entry.task.slug))
    return f"cells/{re.sub(r'[^A-Za-z0-9._+-]+', '-', name)[:80]}-{key[:12]}"


def _other_key(key: str, label: str) -> str:
    return hashlib.sha256(f"{key}\0{label}".encode()).hexdigest()


def _version(manifest: Manifest) -> str:
    return str(manifest.provenance.get("libraries", {}).get("sisbench") or "not stated")
