"""Paired comparison: every method against one, by differences of values on the same items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sisbench.core.store import CEILING, SEEDED, CellView, read_values
from sisbench.report.quality import Material
from sisbench.report.tables import Cell, Column, Row, Table, assemble

_FEWEST = 2


def paired_tables(material: Material, versus: str, protocols: Sequence[str]) -> list[Table]:
    """One table a protocol, data set and task: method minus ``versus`` with its standard error and
    the p-value of a sign-flip test, over the items that both have.

    Figures of a set (FID, mIoU, accuracy) are compared by their jackknife pseudo-values, figures of
    single images by the values themselves (``sisbench.metrics.base.Metric.values``).
    """
    made = []
    for protocol in protocols or material.protocols:
        for dataset, task in material.places:
            other = material.cell_of(versus, dataset, task, protocol)
            scores = [
                s
                for s in material.scores
                if (s.dataset, s.task, s.protocol) == (dataset, task, protocol)
                and CEILING not in s.marks
            ]
            metrics = list(dict.fromkeys(s.metric for s in scores if s.value is not None))
            columns = [
                Column(
                    c.key,
                    c.title,
                    c.group,
                    direction="",
                    unit=c.unit,
                    scale=c.scale,
                    digits=c.digits,
                )
                for c in (material.column(m, m, "") for m in metrics)
            ]
            seeded = any(SEEDED in s.marks for s in scores)
            rows = [r for r in material.methods if r.key != versus and not r.ceiling]
            reasons = {(s.method, s.metric): s.reason for s in scores if s.value is None}
            cells = {}
            for row in rows:
                cell = material.cell_of(row.key, dataset, task, protocol)
                for column in columns:
                    absent = [reasons.get((m, column.key), "") for m in (row.key, versus)]
                    cells[row.key, column.key] = (
                        Cell(reason=absent[0] or f"{versus}: {absent[1]}")
                        if any(absent)
                        else _difference(cell, other, column, protocol, seeded)
                    )
            if rows and columns:
                made.append(_table(versus, protocol, (dataset, task), columns, rows, cells))
    return made


def _table(
    versus: str,
    protocol: str,
    place: tuple[str, str],
    columns: Sequence[Column],
    rows: Sequence[Row],
    cells: dict[tuple[str, str], Cell],
) -> Table:
    title = f"{place[0]}, {place[1]}: difference to {versus} on the same items ({protocol})"
    caption = (
        f"Protocol {protocol}. Each figure is the method's minus that of {versus}, with one "
        "standard error of the paired difference and the two-sided p-value of a sign-flip test.",
    )
    return assemble(
        f"{place[0]}-{place[1]}-versus-{versus}-{protocol}", title, columns, rows, cells, caption
    )


def _difference(
    cell: CellView | None, other: CellView | None, column: Column, protocol: str, seeded: bool
) -> Cell:
    """One paired difference, or a dash with its reason."""
    from sisbench.core.estimates import paired_difference

    pair = [None if c is None else read_values(c, column.key, protocol) for c in (cell, other)]
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
        marks=(SEEDED,) if seeded else (),
        text=f"{value:+.{column.digits}f} ± {se:.{column.digits}f} (p {shown})",
    )
