"""What is merged: runs as they lie, what becomes of their cells, and how lines name them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sisbench.config import RunConfig
from sisbench.core.errors import UserError
from sisbench.core.log import (
    CellEntry,
    Manifest,
    MetricFacts,
    ProtocolEntry,
    ScoreRecord,
    ScoresFile,
)
from sisbench.core.schema import validated
from sisbench.core.store import CellView, RunStore

WITHOUT = ("impossible", "failed")
"""States of a cell without images."""


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
        return list(protocols_of(self.sources[0]).values())


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
        name = free(manifest.name or root.name, root.name, [s.name for s in found])
        found.append(Source(root, name, manifest, store.cells(), scores))
    return found


# ---- names ------------------------------------------------------------------------------------


def protocols_of(source: Source) -> dict[str, ProtocolEntry]:
    """Protocols of a run and of its scores, by id."""
    entries = [*source.manifest.protocols, *source.scores.protocols]
    return {entry.id: entry for entry in entries}


def cell_name(cell: CellView) -> str:
    """A cell in a line of text."""
    method, dataset, task = cell.entry.place
    return f"{method}, {task} on {dataset}"


def score_name(score: ScoreRecord) -> str:
    """A score in a line of text."""
    return f"{score.method}, {score.task} on {score.dataset}: {score.metric}"


def brief(value: Any) -> str:
    """A fingerprint, a size or a name as short as a reader can tell it from others."""
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    return str(value)[:12] if value else "none"


def free(first: str, second: str, taken: Container[str]) -> str:
    """The first of the names that is not taken, else one with a number."""
    for name in (first, second):
        if name not in taken:
            return name
    return next(f"{first}-{k}" for k in range(2, 10_000) if f"{first}-{k}" not in taken)


def folder_of(label: str, entry: CellEntry, key: str) -> str:
    """A cell's folder within the merged run."""
    name = "--".join((label, entry.dataset.label, entry.task.slug))
    return f"cells/{re.sub(r'[^A-Za-z0-9._+-]+', '-', name)[:80]}-{key[:12]}"


def other_key(key: str, label: str) -> str:
    """A key for the same cell of another run, which may not share a key here."""
    return hashlib.sha256(f"{key}\0{label}".encode()).hexdigest()


def version_of(manifest: Manifest) -> str:
    """The sisbench that made a run."""
    return str(manifest.provenance.get("libraries", {}).get("sisbench") or "not stated")
