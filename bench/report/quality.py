"""Quality tables of a run: one for each protocol, data set and task, or protocols side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.frames import score_frame
from sisbench.core.log import (
    BASIS,
    CEILING,
    ItemRow,
    Manifest,
    MetricFacts,
    ProtocolEntry,
    ScoreRecord,
    ScoresFile,
)
from sisbench.core.store import CellView, RunStore
from sisbench.report.columns import without_empty
from sisbench.report.tables import Cell, Column, Row, Table, assemble, describe, scrub

_HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b")


@dataclass(frozen=True)
class RunResults:
    """All that a report is made from.

    Attributes:
        manifest: run.json; cells: its cells; scores, metrics, protocol_fields: scores.json.
        faults: one sentence for each file of the run that is missing or damaged.
        facts: of metrics that a paper's table has and the run did not use.
    """

    root: Path
    manifest: Manifest
    cells: Sequence[CellView]
    scores: Sequence[ScoreRecord]
    metrics: Mapping[str, MetricFacts]
    protocol_fields: Sequence[ProtocolEntry] = ()
    faults: Sequence[str] = field(default=())
    facts: Mapping[str, MetricFacts] = field(default_factory=dict)

    @staticmethod
    def of(run: Path, facts: Mapping[str, MetricFacts] = MappingProxyType({})) -> RunResults:
        """Read a run folder; a damaged file other than the manifest is named in ``faults``.

        Args:
            run: the folder.
            facts: of metrics that a paper's table has and the run did not use.

        Raises:
            UserError: no run there, a damaged manifest, or one of another version.
        """
        store = RunStore(run)
        manifest, cells = store.manifest(), store.cells()
        faults = [fault for cell in cells for fault in cell.faults()]
        try:
            found = store.scores_file()
        except UserError as error:
            faults.insert(0, f"{error.message} ({error.hint})")
            found = ScoresFile()
        metrics, protocols = found.metrics, found.protocols
        return RunResults(run, manifest, cells, found.scores, metrics, protocols, faults, facts)

    @cached_property
    def methods(self) -> list[Row]:
        """Every method of the run, in plan order, then those that only scores know."""
        planned = {c.entry.method.label: c.entry.method.title for c in self.cells}
        ceilings = {s.method for s in self.scores if CEILING in s.marks}
        titles = planned | {s.method: s.title for s in self.scores}
        return [Row(label, title, ceiling=label in ceilings) for label, title in titles.items()]

    @cached_property
    def protocols(self) -> list[str]:
        """Protocol ids that have scores, in order of appearance."""
        return list(dict.fromkeys(s.protocol for s in self.scores))

    @cached_property
    def places(self) -> list[tuple[str, str]]:
        """(data set, task) of the plan and the scores, in order of appearance."""
        planned = [c.entry.place[1:] for c in self.cells]
        return list(dict.fromkeys([*planned, *((s.dataset, s.task) for s in self.scores)]))

    @cached_property
    def _scored(self) -> dict[tuple[str, str, str, str], str]:
        """(method, data set, task, protocol) -> key of the cell that was scored."""
        return {(s.method, s.dataset, s.task, s.protocol): s.cell for s in self.scores}

    def cell_of(self, method: str, dataset: str, task: str, protocol: str) -> CellView | None:
        """The cell that was scored under a protocol; where none was, the plan's first, or None."""
        key = self._scored.get((method, dataset, task, protocol))
        here = [c for c in self.cells if c.entry.place == (method, dataset, task)]
        return next((c for c in here if c.key == key), here[0] if here else None)

    @cached_property
    def rows(self) -> dict[str, list[ItemRow]]:
        """Key of a cell -> its item rows."""
        return {cell.key: cell.item_rows() for cell in self.cells}

    @cached_property
    def records(self) -> dict[tuple[str, str, str], list[ItemRow]]:
        """(method, data set, task) -> item rows of the images that were made."""
        found: dict[tuple[str, str, str], list[ItemRow]] = {}
        for cell in self.cells:
            rows = [r for r in self.rows[cell.key] if r.seconds and not r.error]
            if rows:
                found.setdefault(cell.entry.place, []).extend(rows)
        return found

    @cached_property
    def seconds(self) -> dict[tuple[str, str, str], list[float]]:
        """(method, data set, task) -> seconds of each image that was made."""
        return {place: [r.seconds or 0.0 for r in rows] for place, rows in self.records.items()}

    def chosen(self, wanted: Sequence[str]) -> list[str]:
        """Protocol ids for names or ids (``ca2sis2024`` stands for ``ca2sis2024@3f2a9c01``).

        Raises:
            UserError: no scores under one of them, or several variants of a name.
        """
        return [self._protocol(name) for name in wanted]

    def _protocol(self, name: str) -> str:
        if name in self.protocols:
            return name
        near = [p for p in self.protocols if p.split("@")[0] == name]
        if len(near) == 1:
            return near[0]
        if near:
            raise UserError(f"'{name}' stands for several protocols: {', '.join(near)}", "name one")
        raise UserError(
            f"this run has no scores under protocol '{name}'",
            did_you_mean(name, self.protocols) + "; sisbench score RUN -p NAME adds some",
        )

    def column(self, metric: str, where: str, group: str) -> Column:
        """A column as the run's metric descriptions say."""
        return Column(where, group=group, **describe(metric, self.metrics))

    def cell(
        self, score: ScoreRecord | None, method: str, dataset: str, task: str, protocol: str
    ) -> Cell:
        """A score as a table cell; without one, the reason that the plan gives."""
        planned = self.cell_of(method, dataset, task, protocol)
        status = planned.entry.status if planned else ""
        if score is None and any(r.ceiling for r in self.methods if r.key == method):
            return Cell(reason="not defined for the real photographs")
        if score is None:
            reason = planned.entry.reason if planned else ""
            return Cell(reason=reason or "not measured in this run")
        marks = [m for m in score.marks if m != CEILING]
        if status == "partial" and score.value is not None:
            marks.append("the cell is partial: some images are missing")
        return Cell(
            value=score.value,
            reason=score.reason,
            se=score.se,
            ci=score.ci,
            n=score.n,
            n_real=score.n_real,
            marks=tuple(marks),
            basis=basis(score),
        )


def basis(score: ScoreRecord) -> str:
    """What a score rests on: ``parser celebamask_unet 1a2b3c...; resize nearest``, hashes cut."""
    said = [f"{k.replace('_', ' ')} {score.extra[k]}" for k in BASIS if score.extra.get(k)]
    return short("; ".join(said))


def short(text: str) -> str:
    """``text`` with long hashes cut to 12 digits."""
    return _HASH.sub(r"\1", text)


def quality_tables(
    results: RunResults,
    protocols: Sequence[str] = (),
    *,
    uncertainty: bool = False,
    all_columns: bool = False,
) -> list[Table]:
    """One table for each (protocol, data set, task); with two or more ``protocols`` one for each
    (data set, task) whose columns are labelled by protocol. A column without a score of any method
    is left out, and a sentence below says so, unless ``all_columns``.

    Raises:
        UserError: a protocol without scores.
    """
    protocols = results.chosen(protocols)
    sets = [list(protocols)] if len(protocols) > 1 else [[p] for p in protocols]
    tables = []
    for chosen in sets or [[p] for p in results.protocols]:
        for dataset, task in results.places:
            table = _table(results, chosen, dataset, task, uncertainty, all_columns)
            if table is not None:
                tables.append(table)
    return tables


def _table(
    results: RunResults,
    protocols: Sequence[str],
    dataset: str,
    task: str,
    uncertainty: bool,
    all_columns: bool,
) -> Table | None:
    here = [s for s in results.scores if (s.dataset, s.task) == (dataset, task)]
    columns: list[Column] = []
    cells: dict[tuple[str, str], Cell] = {}
    for protocol in protocols:
        scores = {(s.metric, s.method): s for s in here if s.protocol == protocol}
        for metric in dict.fromkeys(metric for metric, _ in scores):
            key = f"{dataset}/{task}/{metric}@{protocol}"
            group = f"protocol {protocol}" if len(protocols) > 1 else ""
            columns.append(results.column(metric, key, group))
            for row in results.methods:
                score = scores.get((metric, row.key))
                cells[row.key, key] = results.cell(score, row.key, dataset, task, protocol)
    if not columns:
        return None
    named = {s.method for s in here}
    rows = [r for r in results.methods if not r.ceiling or r.key in named]
    absent = ""
    if not all_columns:
        columns, absent = without_empty(columns, rows, cells)
    label = " and ".join(protocols)
    table = assemble(
        f"{dataset}-{task}-{'-'.join(protocols)}",
        f"{dataset}, {task} ({label})",
        columns,
        rows,
        cells,
        [
            f"{'Protocols' if len(protocols) > 1 else 'Protocol'} {label}.",
            *_agreement(results, here, protocols),
        ],
        uncertainty=uncertainty,
    )
    return replace(table, absent=scrub(absent))


def _agreement(
    results: RunResults, scores: Sequence[ScoreRecord], protocols: Sequence[str]
) -> Iterator[str]:
    """Whether two parsers rank the methods alike: Kendall's tau of ``miou`` and ``miou@PARSER``."""
    others = dict.fromkeys(s.metric for s in scores if "@" in s.metric)
    if not others:
        return
    from scipy.stats import kendalltau  # takes seconds, and few tables have two parsers

    frame = score_frame(s for s in scores if CEILING not in s.marks)
    for other in others:
        base, parser = other.split("@", 1)
        for protocol in protocols:
            here = frame[(frame["protocol"] == protocol) & frame["metric"].isin([base, other])]
            both = here.pivot(index="method", columns="metric", values="value").dropna()
            if len(both) < 2 or both.shape[1] < 2:
                continue
            tau = kendalltau(both[base], both[other])
            title = results.column(base, base, "").title
            said = f"agrees with Kendall's tau {tau.statistic:+.2f}"
            if math.isnan(tau.statistic):
                said = "cannot be compared: one of them gives all the same score"
            yield (
                f"{title}: ranking of {len(both)} methods by the table's parser and by {parser} "
                f"{said}."
            )
