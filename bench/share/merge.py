"""Runs of several machines as one: what may stand in one table, and what is refused and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sisbench.core.errors import UserError
from sisbench.core.log import CellEntry, ProtocolEntry, ScoreRecord
from sisbench.core.store import CellView
from sisbench.share.bases import check_bases, take_ceilings
from sisbench.share.recompute import metric_class
from sisbench.share.sources import (
    WITHOUT,
    Merging,
    Source,
    Taken,
    brief,
    cell_name,
    folder_of,
    free,
    open_sources,
    other_key,
    protocols_of,
    score_name,
    version_of,
)


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
    check_bases(found)
    take_ceilings(found, accepted)
    versions = {s.name: version_of(s.manifest) for s in sources}
    if len(set(versions.values())) > 1:
        said = ", ".join(f"{name}: {version}" for name, version in versions.items())
        found.notes.append(f"the runs were made by several versions of sisbench ({said})")
    return found


# ---- cells ------------------------------------------------------------------------------------


def _accept(found: Merging, source: Source, cell: CellView) -> bool:
    """Whether a cell may stand beside the first run's; where not, why is noted."""
    what = cell_name(cell)
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
            return f"{shown} {brief(mine)}, {first.name} has {brief(theirs)}"
    return ""


def _other_protocol(found: Merging, source: Source, cell: CellView) -> str:
    first = found.sources[0]
    known = protocols_of(first)
    own = [*cell.entry.protocols, *(s.protocol for s in source.scores_of(cell))]
    if not own or any(p in known for p in own):
        return ""
    differing = _differing(protocols_of(source).get(own[0]), known.values())
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
    made = [c for c in cells if c.entry.status not in WITHOUT]
    label = method.label
    identity = _identity(source, made[0]) if made else None
    if identity is not None:
        apart = label in names.owner and (
            names.owner[label] != identity or any(_clashes(found, source, c) for c in made)
        )
        if apart:
            label = free(f"{label} ({source.name})", f"{label} ({source.root.name})", names.owner)
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
                f"{source.name}: {cell_name(cell)}: already there from {before.source.name}"
            )
            return
        found.notes.append(
            f"{before.source.name}: {cell_name(before.cell)}: {source.name} has more of it"
        )
        del found.taken[at]
    keys = {t.entry.key for t in found.taken}
    key = cell.key if cell.key not in keys else other_key(cell.key, label)
    method = cell.entry.method.model_copy(update={"label": label, "title": title})
    known = protocols_of(found.sources[0])
    changes = {
        "key": key,
        "method": method,
        "folder": folder_of(label, cell.entry, key),
        "protocols": tuple(p for p in cell.entry.protocols if p in known),
    }
    entry = cell.entry.model_copy(update=changes)
    kept = []
    for score in scores:
        if score.protocol in known:
            kept.append(replace(score, method=label, title=title, cell=key))
        else:
            found.refused.append(
                f"{source.name}: {score_name(score)}: protocol {score.protocol}, "
                f"{found.sources[0].name} has {', '.join(known)}"
            )
    found.taken.append(Taken(source, cell, entry, tuple(kept)))


def _same_images(taken: Taken, cell: CellView, label: str) -> bool:
    """Whether a cell that is taken has the same images, under the same label."""
    return taken.entry.method.label == label and taken.cell.key == cell.key


def _clashes(found: Merging, source: Source, cell: CellView) -> bool:
    """Whether other images, or other scores of such images, stand at the cell's place already."""
    for one in found.taken:
        if one.entry.status in WITHOUT or _spot(one.entry) != _spot(cell.entry):
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
    filled = {_spot(t.entry) for t in found.taken if t.entry.status not in WITHOUT}
    kept = []
    for one in found.taken:
        if one.entry.status in WITHOUT:
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
