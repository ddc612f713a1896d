"""The table that every format renders: rows, columns, ranked cells, footnotes, caption."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from sisbench.core.log import SEEDED, MetricFacts

DASH = "–"
DAGGER = "†"
ARROWS = {"up": "↑", "down": "↓", "": ""}
SEEDED_SENTENCE = f"{DAGGER} weights are seeded test weights: scores say nothing about the method."


@dataclass(frozen=True)
class Column:
    """One score over all rows.

    Attributes:
        key: unique in the table, as ``celebamask_hq/reconstruct/fid@ca2sis2024``.
        title: as ``FID``; group: header above it, shared by neighbours.
        direction: "up", "down", or "" (never ranked).
        unit, scale, digits: as in the metric's description.
    """

    key: str
    title: str
    group: str = ""
    direction: str = ""
    unit: str = ""
    scale: float = 1.0
    digits: int = 2

    @property
    def header(self) -> str:
        """Title, unit where the title does not say it, arrow: ``PSNR (dB) ↑``."""
        named = self.title.split()[-1:] == [self.unit] or f"({self.unit})" in self.title
        unit = f" ({self.unit})" if self.unit and not named else ""
        return f"{self.title}{unit} {ARROWS[self.direction]}".rstrip()

    def printed(self, value: float) -> str:
        """A stored value in printed digits; never a negative zero."""
        text = f"{value * self.scale:.{self.digits}f}"
        return text.lstrip("-") if not text.strip("-0.") else text


@dataclass(frozen=True)
class Row:
    """One method, or the real photographs.

    Attributes:
        key: unique in the table; title: as printed.
        block: rows of one block are ranked among themselves; a labelled block gets a header line.
        ceiling: stands above its block and is never ranked.
        ranked: False keeps the row out of the ranking where it stands.
    """

    key: str
    title: str
    block: str = ""
    ceiling: bool = False
    ranked: bool = True


@dataclass(frozen=True)
class Cell:
    """One score or an empty cell.

    Attributes:
        value: stored value, or None with a ``reason``.
        se, ci, n, n_real, marks: see ``sisbench.metrics.base.Score``.
        basis: what the score rests on (extractor, parser, ...), one sentence part.
        text: printed digits; filled by ``assemble`` unless given (published scores).
        p: of a paired test, in [0, 1].
        rank: 1 best, 2 second best, 0 neither; notes: positions in ``Table.notes``.
    """

    value: float | None = None
    reason: str = ""
    se: float | None = None
    ci: tuple[float, float] | None = None
    n: int = 0
    n_real: int | None = None
    marks: tuple[str, ...] = ()
    basis: str = ""
    text: str = ""
    error: str = ""
    p: float | None = None
    rank: int = 0
    notes: tuple[int, ...] = ()

    @property
    def seeded(self) -> bool:
        return self.value is not None and SEEDED in self.marks


@dataclass(frozen=True)
class Table:
    """What a renderer needs; ``cells[row][column]``, ``notes`` deduplicated footnotes, ``absent`` a
    line on columns that are left out."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    cells: tuple[tuple[Cell, ...], ...]
    caption: tuple[str, ...]
    notes: tuple[str, ...]
    absent: str = ""

    def seeded(self, row: int) -> bool:
        """Whether a score of the row rests on seeded weights."""
        return any(cell.seeded for cell in self.cells[row])

    def groups(self) -> list[tuple[str, int]]:
        """(header, width) of neighbouring columns; empty where no column has a group."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(name for name, _ in spans) else []

    def blocks(self) -> list[tuple[str, list[int]]]:
        """(header, row positions) of neighbouring rows."""
        spans: list[tuple[str, list[int]]] = []
        for at, row in enumerate(self.rows):
            if spans and spans[-1][0] == row.block:
                spans[-1][1].append(at)
            else:
                spans.append((row.block, [at]))
        return spans


def symbol(note: int) -> str:
    """Footnote letter: a, b, ..., z, aa, ab, ..."""
    letters = ""
    note += 1
    while note:
        note, rest = divmod(note - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return letters


_ABSOLUTE = re.compile(r"(?<![\w.:/~])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\'\"<>:,;()\[\]]+){2,}")


def scrub(text: str) -> str:
    """``text`` with absolute paths cut to their last part, so that a report can be handed on."""
    return _ABSOLUTE.sub(lambda m: "…/" + re.split(r"[/\\]", m.group())[-1], text)


def one_line(text: str) -> str:
    """``text`` without line breaks, control characters and marks that turn the direction of what
    follows."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def slug(text: str) -> str:
    """A file name for ``text``: letters, digits, ``_ . -``; never a path, never hidden."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", text)
    return re.sub(r"_*-_*", "-", safe).strip("_.-") or "unnamed"


def count(n: int) -> str:
    """2824 -> ``2,824``."""
    return f"{n:,}"


def sets_of(cell: Cell) -> str:
    """``2,000 generated and 2,824 real images``."""
    if cell.n_real is None:
        return f"{count(cell.n)} " + ("image" if cell.n == 1 else "images")
    return f"{count(cell.n)} generated and {count(cell.n_real)} real images"


def assemble(
    name: str,
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Row],
    cells: Mapping[tuple[str, str], Cell],
    caption: Iterable[str],
    *,
    uncertainty: bool = False,
) -> Table:
    """Rank, footnote and caption the cells, which are keyed by (row key, column key).

    A missing cell becomes an empty cell whose footnote says that the method was not measured there.

    Args:
        caption: opening sentences; those on set sizes, basis and seeded weights are added.
        uncertainty: print ± one standard error.
    """
    ordered = sorted(rows, key=lambda r: ([x.block for x in rows].index(r.block), not r.ceiling))
    absent = Cell(reason="not measured in this run")
    grid = [
        [_print(cells.get((r.key, c.key), absent), c, uncertainty) for c in columns]
        for r in ordered
    ]
    remarks: dict[tuple[int, int], list[str]] = {}
    usual: list[tuple[Column, Cell]] = []
    for x, column in enumerate(columns):
        found = _rank_column(x, column, ordered, grid, remarks)
        usual += [(column, cell) for cell in found if cell.n]
    notes: list[str] = []
    for y, line in enumerate(grid):
        for x, cell in enumerate(line):
            grid[y][x] = _footnote(cell, remarks.get((y, x), []), notes)
    closing = [SEEDED_SENTENCE] if any(c.seeded for line in grid for c in line) else []
    if uncertainty and any(c.error for line in grid for c in line):
        closing.insert(0, "± is one standard error; sisbench explain NAME says over what.")
    return Table(
        name=slug(name),
        title=title,
        columns=tuple(columns),
        rows=tuple(ordered),
        cells=tuple(tuple(line) for line in grid),
        caption=tuple(scrub(s) for s in [*caption, *_sets_sentences(usual), *closing]),
        notes=tuple(notes),
    )


def _print(cell: Cell, column: Column, uncertainty: bool) -> Cell:
    if cell.value is None or not math.isfinite(cell.value):
        reason = cell.reason or ("the score is not finite" if cell.value is not None else "")
        return replace(cell, value=None, text=DASH, reason=reason or "no reason was recorded")
    error = column.printed(cell.se) if uncertainty and cell.se is not None else ""
    return replace(cell, text=cell.text or column.printed(cell.value), error=error)


def _rank_column(
    x: int,
    column: Column,
    rows: Sequence[Row],
    grid: list[list[Cell]],
    remarks: dict[tuple[int, int], list[str]],
) -> list[Cell]:
    """Fill the ranks of a column, block by block; the usual cell of each block (for the caption).

    Only scores over sets of the same sizes and on the same basis compete, and seeded weights
    never do. Ties are decided on the printed digits.
    """
    usual: list[Cell] = []
    for block in dict.fromkeys(r.block for r in rows):
        filled = [
            y for y, r in enumerate(rows) if r.block == block and grid[y][x].value is not None
        ]
        compete = [y for y in filled if rows[y].ranked and not rows[y].ceiling]
        if not compete:
            usual += [grid[y][x] for y in filled[:1]]
            continue
        tally = Counter((grid[y][x].n, grid[y][x].n_real or 0, grid[y][x].basis) for y in compete)
        common = max(tally, key=lambda k: (tally[k], k))
        for y in filled:
            cell = grid[y][x]
            if (cell.n, cell.n_real or 0, cell.basis) == common:
                if not any(u.n == cell.n and u.n_real == cell.n_real for u in usual):
                    usual.append(cell)
            elif not rows[y].ceiling or (cell.n, cell.n_real or 0) != common[:2]:
                compete = [other for other in compete if other != y]
                basis = f", {cell.basis}" if cell.basis else ""
                remarks.setdefault((y, x), []).append(f"from {sets_of(cell)}{basis}: not ranked")
        _mark_best(x, column, [y for y in compete if not grid[y][x].seeded], grid)
    return usual


def _mark_best(x: int, column: Column, compete: Sequence[int], grid: list[list[Cell]]) -> None:
    if not column.direction or len(compete) < 2:
        return
    printed = {y: Decimal(grid[y][x].text) for y in compete}
    best = sorted(set(printed.values()), reverse=column.direction == "up")[:2]
    for y, value in printed.items():
        if value in best:
            grid[y][x] = replace(grid[y][x], rank=best.index(value) + 1)


def _sets_sentences(usual: Sequence[tuple[Column, Cell]]) -> list[str]:
    """One sentence for each set size and basis, naming its columns; the group only where a title
    stands for several."""
    said: dict[tuple[str, str], str] = {}
    for column, cell in usual:
        basis = f"; {cell.basis}" if cell.basis else ""
        said[column.title, column.group] = f"{sets_of(cell)}{basis}"
    names: dict[str, list[str]] = {}
    for (title, group), sentence in said.items():
        alone = len({s for (t, _), s in said.items() if t == title}) == 1
        name = title if alone else f"{title} ({group})"
        if name not in names.setdefault(sentence, []):
            names[sentence].append(name)
    return [f"{', '.join(who)}: {sentence}." for sentence, who in names.items()]


def _footnote(cell: Cell, remarks: Sequence[str], notes: list[str]) -> Cell:
    texts = [cell.reason] if cell.value is None else [*cell.marks, *remarks]
    numbers = []
    for text in map(scrub, texts):
        if text == SEEDED:
            continue
        if text not in notes:
            notes.append(text)
        numbers.append(notes.index(text))
    return replace(cell, notes=tuple(numbers))


def describe(name: str, metrics: Mapping[str, MetricFacts]) -> dict[str, Any]:
    """Title, direction, unit, scale, digits of a metric, as the run's scores.json describes it; a
    name it does not describe stands for itself and is never ranked."""
    facts = metrics.get(name, MetricFacts()).model_dump(exclude={"bounds"}, exclude_none=True)
    known = ("title", "direction", "unit", "scale", "digits")
    return {k: facts[k] for k in known} | ({} if facts["title"] else {"title": name})
