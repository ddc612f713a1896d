"""Paired comparison: every method against one, by differences of values on the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.log import CEILING, SEEDED
from sisbench.core.store import CellView, read_values
from sisbench.report.quality import RunResults
from sisbench.report.tables import Cell, Column, Row, Table, assemble

_FEWEST = 2


@dataclass(frozen=True)
class Comparison:
    """Every method against one at one place: ``cells`` by (method, metric)."""

    versus: str
    protocol: str
    dataset: str
    task: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    cells: Mapping[tuple[str, str], Cell]

    def table(self) -> Table:
        """Methods down, metrics across."""
        name = f"{self.dataset}-{self.task}-versus-{self.versus}-{self.protocol}"
        place = f"{self.dataset}, {self.task}"
        title = f"{place}: difference to {self.versus} on the same items ({self.protocol})"
        caption = (
            f"Protocol {self.protocol}. Each score is the method's minus that of {self.versus}, "
            "with one standard error of the paired difference and the two-sided p-value of a "
            "sign-flip test.",
        )
        return assemble(name, title, self.columns, self.rows, self.cells, caption)


def paired_tables(results: RunResults, versus: str, protocols: Sequence[str]) -> list[Table]:
    """``comparisons`` as tables."""
    return [found.table() for found in comparisons(results, versus, protocols)]


def comparisons(results: RunResults, versus: str, protocols: Sequence[str]) -> list[Comparison]:
    """One a protocol, data set and task: method minus ``versus`` with its standard error and
    the p-value of a sign-flip test, over the items that both have.

    Scores of a set (FID, mIoU, accuracy) are compared by their jackknife pseudo-values, scores of
    single images by the values themselves (``sisbench.metrics.base.Metric.values``).
    """
    found = (
        _comparison(results, versus, protocol, dataset, task)
        for protocol in protocols or results.protocols
        for dataset, task in results.places
    )
    return [one for one in found if one.rows and one.columns]


def _comparison(
    results: RunResults, versus: str, protocol: str, dataset: str, task: str
) -> Comparison:
    other = results.cell_of(versus, dataset, task, protocol)
    place = (dataset, task, protocol)
    here = [s for s in results.scores if (s.dataset, s.task, s.protocol) == place]
    scores = [s for s in here if CEILING not in s.marks]
    metrics = dict.fromkeys(s.metric for s in scores if s.value is not None)
    columns = tuple(replace(results.column(m, m, ""), direction="") for m in metrics)
    seeded = any(SEEDED in s.marks for s in scores)
    rows = tuple(r for r in results.methods if r.key != versus and not r.ceiling)
    reasons = {(s.method, s.metric): s.reason for s in scores if s.value is None}
    cells = {}
    for row in rows:
        cell = results.cell_of(row.key, dataset, task, protocol)
        for column in columns:
            absent = [reasons.get((m, column.key), "") for m in (row.key, versus)]
            cells[row.key, column.key] = (
                Cell(reason=absent[0] or f"{versus}: {absent[1]}")
                if any(absent)
                else _difference(cell, other, column, protocol, seeded)
            )
    return Comparison(versus, protocol, dataset, task, columns, rows, cells)


def _difference(
    cell: CellView | None, other: CellView | None, column: Column, protocol: str, seeded: bool
) -> Cell:
    """One paired difference, or an empty cell with its reason."""
    from sisbench.core.estimates import paired_difference

    try:
        pair = [None if c is None else read_values(c, column.key, protocol) for c in (cell, other)]
    except UserError as error:
        return Cell(reason=f"{error.message} ({error.hint})")
    if pair[0] is None or pair[1] is None:
        return Cell(reason="no values of single items on both sides")
    ids = [i for i in pair[0] if i in pair[1]]
    if len(ids) < _FEWEST:
        return Cell(reason=f"only {len(ids)} items on both sides")
    a, b = (np.array([side[i] for i in ids]) for side in (pair[0], pair[1]))
    found = paired_difference(a, b)
    assert found.se is not None  # known from two items on
    value, se = (x * column.scale for x in (found.value, found.se))
    shown = "< 0.001" if found.p < 0.001 else f"{found.p:.3f}"
    return Cell(
        value=found.value,
        se=found.se,
        ci=found.ci,
        n=len(ids),
        p=found.p,
        marks=(SEEDED,) if seeded else (),
        text=f"{value:+.{column.digits}f} ± {se:.{column.digits}f} (p {shown})",
    )
