"""Measured scores set under those that papers print; never ranked together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from sisbench.core.log import SEEDED, MethodEntry, MetricFacts, ScoreRecord
from sisbench.report.papers import (
    Facts,
    Published,
    Spec,
    SpecColumn,
    load_published,
    load_specs,
    plain_name,
)
from sisbench.report.quality import RunResults, short
from sisbench.report.tables import Cell, Column, Row, Table, assemble, describe

_DIFFERENCE = "Difference: measured − published"


def paper_table(
    name: str,
    spec: Spec,
    results: RunResults | None,
    protocol: str = "",
    facts: Facts = MappingProxyType({}),
) -> Table:
    """A paper's table; with ``results`` the run's scores and the differences stand under it.

    Three blocks of rows: published, measured, measured - published. Each ranks by itself.

    Args:
        name: name of the specification.
        results: the run, or None for the published scores alone.
        protocol: the one protocol whose scores are shown.
        facts: of the metrics; what the run says of those that it used goes before.
    """
    scores = [f for f in load_published() if (f.source, f.table) == (spec.source, spec.table)]
    columns = _columns(spec, {**facts, **(results.metrics if results else {})})
    methods = dict.fromkeys(f.method for f in scores)
    printed = f"Published: {spec.cited}"
    rows = [Row(f"published/{m}", m, printed, ranked=spec.rank_published) for m in methods]
    cells: dict[tuple[str, str], Cell] = {}
    at = {(f.method, f.dataset, f.task, f.metric): f for f in scores}
    for row in rows:
        for column, where in zip(columns, spec.columns, strict=True):
            known = at.get((row.title, where.dataset, where.task, where.metric))
            cells[row.key, column.key] = (
                Cell(value=known.stored(facts), text=_as_printed(known, column, facts))
                if known
                else Cell(reason="not in the paper's table")
            )
    caption = [f"Scores as printed in {spec.cited}."]
    if results is not None:
        measured = _measured(spec, results, protocol, columns, cells)
        measured = [r for r in measured if not r.ceiling or _filled(r, columns, cells)]
        rows += measured + _differences(spec, results, rows, measured, columns, cells)
        caption += _remarks(spec, results, protocol, rows, facts)
    datasets = list(dict.fromkeys(c.dataset for c in spec.columns))
    title = f"{spec.title} ({datasets[0]})" if len(datasets) == 1 else spec.title
    title = f"{title}, against {protocol}" if protocol else title
    return assemble(name, title, columns, rows, cells, [*caption, *spec.remarks])


def _as_printed(score: Published, column: Column, facts: Facts) -> str:
    """The paper's own digits, unless this table's unit differs from the paper's."""
    stored = score.stored(facts)
    same = abs(stored * column.scale - score.value) < 1e-9 * max(1.0, abs(score.value))
    unknown = column.scale == 1.0 and score.in_per_cent(facts)
    return score.text if same or unknown else column.printed(stored)


def _columns(spec: Spec, metrics: Mapping[str, MetricFacts]) -> list[Column]:
    datasets = {c.dataset for c in spec.columns}
    several = len({(c.dataset, c.task) for c in spec.columns}) > 1
    columns = []
    for c in spec.columns:
        group = f"{c.dataset}, {c.task}" if len(datasets) > 1 else c.task if several else ""
        key = f"{c.dataset}/{c.task}/{c.metric}"
        columns.append(Column(key, group=group, **describe(c.metric, metrics)))
    return columns


def _match(spec: Spec, results: RunResults, published: str) -> str | None:
    """Label of the run's method that a published name stands for: by its label or title; else by
    its registry name and options, where no other row of the table fits it better."""
    wanted = plain_name(spec.methods.get(published, published))
    own = [row for row in results.methods if not row.ceiling]
    for row in own:
        if wanted in map(plain_name, (row.key, row.title)):
            return row.key
    entries = {cell.entry.method.label: cell.entry.method for cell in results.cells}
    for row in own:
        if row.key in entries and _fitting(spec, entries[row.key]) == published:
            return row.key
    return None


def _fitting(spec: Spec, method: MethodEntry) -> str | None:
    """The published row that a method of a run fills, by its name and the most of its options."""
    best, count = None, -1
    for printed in spec.printed:
        row = spec.row(printed)
        alike = plain_name(row.method) == plain_name(method.name) and not row.differs
        held = all(method.options.get(k) == v for k, v in row.options.items())
        if alike and held and len(row.options) > count:
            best, count = printed, len(row.options)
    return best


def _place(results: RunResults, where: SpecColumn) -> tuple[str, str] | str:
    """(data set, task slug) of a column in the run, or the reason for an empty cell."""
    slugs = [t for d, t in results.places if d == where.dataset]
    near = [t for t in slugs if t == where.task] or [
        t for t in slugs if t.split("[")[0] == where.task
    ]
    if len(near) > 1:
        return f"the run has several tasks {where.task}: {', '.join(near)}"
    return (where.dataset, near[0]) if near else f"the run has no {where.dataset}, {where.task}"


def _measured(
    spec: Spec,
    results: RunResults,
    protocol: str,
    columns: Sequence[Column],
    cells: dict[tuple[str, str], Cell],
) -> list[Row]:
    scores: dict[tuple[str, ...], ScoreRecord] = {
        (s.method, s.dataset, s.task, s.metric): s for s in results.scores if s.protocol == protocol
    }
    places = [_place(results, where) for where in spec.columns]
    rows = []
    for method in results.methods:
        row = Row(f"measured/{method.key}", method.title, f"Measured: protocol {protocol}")
        rows.append(replace(row, ceiling=method.ceiling))
        for column, where, place in zip(columns, spec.columns, places, strict=True):
            if isinstance(place, str):
                cells[row.key, column.key] = Cell(reason=place)
                continue
            score = scores.get((method.key, *place, where.metric))
            cells[row.key, column.key] = results.cell(score, method.key, *place, protocol)
    return rows


def _differences(
    spec: Spec,
    results: RunResults,
    published: Sequence[Row],
    measured: Sequence[Row],
    columns: Sequence[Column],
    cells: dict[tuple[str, str], Cell],
) -> list[Row]:
    labels = {row.key for row in measured}
    rows = []
    for row in published:
        label = f"measured/{_match(spec, results, row.title)}"
        if label not in labels:
            continue
        new = Row(f"difference/{row.title}", row.title, _DIFFERENCE, ranked=False)
        rows.append(new)
        for column in columns:
            ours, theirs = cells[label, column.key], cells[row.key, column.key]
            if ours.value is None or theirs.value is None:
                cells[new.key, column.key] = Cell(reason="one of the two scores is absent")
                continue
            gap = ours.value - theirs.value
            text = column.printed(gap)
            signed = text if text.startswith("-") or not text.strip("0.") else f"+{text}"
            cells[new.key, column.key] = Cell(
                value=gap, text=signed.replace("-", "−"), marks=_seeded(ours)
            )
    return rows


def _filled(row: Row, columns: Sequence[Column], cells: Mapping[tuple[str, str], Cell]) -> bool:
    return any(cells[row.key, c.key].value is not None for c in columns)


def _seeded(cell: Cell) -> tuple[str, ...]:
    return tuple(m for m in cell.marks if m == SEEDED)


def _remarks(
    spec: Spec, results: RunResults, protocol: str, rows: Sequence[Row], facts: Facts
) -> list[str]:
    titles = [r.title for r in rows if r.key.startswith("published/")]
    lost = [t for t in titles if _match(spec, results, t) is None]
    said = [
        "Papers measure under protocols of their own: scores of different blocks are not ranked"
        " against each other."
    ]
    parsed = {name for name, known in facts.items() if known.parser}
    if parsed & {c.metric for c in spec.columns}:
        said.append(_evaluator(results, protocol, parsed))
    if lost:
        said.append(f"Published but not in this run: {', '.join(lost)}.")
    return said


def _evaluator(results: RunResults, protocol: str, parsed: Collection[str]) -> str:
    """The sentence without which no measured score of a parser's stands beside a paper's."""
    found = {
        (s.metric, tuple(str(s.extra.get(k) or "not recorded") for k in _EVALUATOR))
        for s in results.scores
        if s.protocol == protocol and s.metric in parsed and s.value is not None
    }
    if not found:
        return "No segmentation score was measured under this protocol."
    named = "; ".join(
        f"{describe(metric, results.metrics)['title']} by "
        + ", ".join(f"{said} {value}" for said, value in zip(_EVALUATOR.values(), how, strict=True))
        for metric, how in sorted(found)
    )
    return f"Measured segmentation scores: {short(named)}. The papers do not state theirs."


_EVALUATOR: Mapping[str, str] = MappingProxyType(
    {
        "parser": "evaluator",
        "resize": "resize",
        "compare_at": "compared at",
        "convention": "convention",
    }
)


def paper_tables(
    versus: str,
    results: RunResults | None,
    protocols: Sequence[str],
    facts: Facts = MappingProxyType({}),
) -> list[Table]:
    """Every table that ``versus`` names (see ``load_specs``), once for each protocol."""
    tables = []
    for name, spec in load_specs(versus).items():
        for protocol in protocols:
            tables.append(paper_table(f"{name}-{protocol}", spec, results, protocol, facts))
        if results is None:
            tables.append(paper_table(name, spec, None, facts=facts))
    return tables
