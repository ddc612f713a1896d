"""Columns of which no method has a score: one sentence says which, why, and what brings them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from sisbench.report.tables import Cell, Column, Row, scrub

_FETCH = re.compile(r"sisbench weights fetch ([\w.-]+)")


def without_empty(
    columns: Sequence[Column], rows: Sequence[Row], cells: Mapping[tuple[str, str], Cell]
) -> tuple[list[Column], str]:
    """(columns that hold a score of a method, a sentence on the others). A table without any score
    keeps all of its columns: their reasons are all that it says."""
    methods = [row.key for row in rows if not row.ceiling]

    def empty(column: Column) -> bool:
        found = (cells.get((key, column.key), Cell()) for key in methods)
        return not any(map(_has, found))

    shown = [column for column in columns if not empty(column)]
    if not shown or len(shown) == len(columns):
        return list(columns), ""
    gone = [column for column in columns if column not in shown]
    scored = [
        k for k in methods if any((k, c.key) in cells and _has(cells[k, c.key]) for c in shown)
    ]
    reasons: dict[str, dict[str, None]] = {}
    for column in gone:
        here = (cells.get((key, column.key), Cell()) for key in scored)
        said = Counter(cell.reason for cell in here if cell.reason)
        reason = said.most_common(1)[0][0] if said else ""
        reasons.setdefault(reason or "no reason was recorded", {})[column.title] = None
    return shown, _sentence(reasons)


def _has(cell: Cell) -> bool:
    return cell.value is not None


def _sentence(reasons: Mapping[str, Mapping[str, None]]) -> str:
    """Titles that one command brings together; each of the others with its reason."""
    wanted: dict[str, None] = {}
    files: dict[str, None] = {}
    others = []
    for reason, titles in reasons.items():
        named = _FETCH.findall(reason)
        if named:
            wanted |= titles
            files |= dict.fromkeys(named)
        else:
            others.append(f"{', '.join(titles)} ({scrub(reason)})")
    if wanted:
        brings = f"{', '.join(wanted)} (sisbench weights fetch {' '.join(files)})"
        others.insert(0, brings)
    return f"Absent for every method: {'; '.join(others)}. --all-columns shows them."
