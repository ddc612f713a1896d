"""What became of a run: cells by state, scores, each distinct reason once, and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sisbench.core.errors import UserError
from sisbench.core.log import CEILING, NOT_YET, CellEntry, ScoreRecord
from sisbench.core.store import RunStore
from sisbench.report.tables import one_line

STATES = {
    "done": "done",
    "partial": "partly done",
    "impossible": "impossible",
    "failed": "failed",
    NOT_YET: NOT_YET,
}


_UNITS = {"absent": "scores", "undefined": "metrics"}


@dataclass(frozen=True)
class Why:
    """One reason, once: what it hit, how many of them, and their names."""

    what: str
    count: int
    reason: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What a run has come to.

    Attributes:
        states: how many cells are in each state, by the words of ``STATES``.
        scores, absent: scores of methods that were made, and that could not be had.
        reasons: why cells are not done and scores are absent, the most frequent first.
        complete: nothing failed that was asked for, and something was made.
    """

    states: dict[str, int]
    scores: int
    absent: int
    reasons: tuple[Why, ...]
    complete: bool

    @property
    def exit_code(self) -> int:
        return 0 if self.complete else 1

    def lines(self) -> Iterator[str]:
        """The summary, as the console prints it."""
        total = sum(self.states.values())
        cells = ", ".join(f"{n:,} {state}" for state, n in self.states.items() if n)
        scores = f"{self.scores:,} {'score' if self.scores == 1 else 'scores'}" + (
            f", {self.absent:,} absent" if self.absent else ""
        )
        yield f"{total:,} {'cell' if total == 1 else 'cells'}: {cells}; {scores}"
        for why in self.reasons:
            unit = _UNITS.get(why.what, "cells")
            unit = unit.removesuffix("s") if why.count == 1 else unit
            names = ", ".join(why.names[:4]) + (", ..." if len(why.names) > 4 else "")
            yield f"  {why.what}: {why.count:,} {unit} ({names}): {why.reason}"


def outcome(
    run: Path,
    scored: bool = True,
    metrics: Sequence[str] | None = None,
    protocols: Sequence[str] = (),
) -> Outcome:
    """Read what became of a run.

    Args:
        run: its folder.
        scored: False where only images were asked for.
        metrics: those that were asked for now; None takes the configuration's.
        protocols: names or ids of those that were asked for; () takes all.

    Raises:
        UserError: no run there, or a damaged manifest.
    """
    store = RunStore(run)
    manifest = store.manifest()
    scores: Sequence[ScoreRecord] = ()
    if scored:
        try:
            scores = store.scores_file().scores
        except UserError:
            scores = ()
    states = dict.fromkeys(STATES.values(), 0)
    for cell in manifest.cells:
        states[_state(cell)] += 1
    usable = {c.key for c in manifest.cells if _state(c) in ("done", "partly done")}
    asked = tuple(metrics or manifest.config.get("metrics") or ())
    own = [
        s
        for s in scores
        if CEILING not in s.marks
        and not (metrics and s.metric.split("@")[0] not in metrics)
        and not (protocols and not {s.protocol, s.protocol.split("@")[0]} & set(protocols))
    ]
    there = [s for s in own if s.value is not None]
    absent = [s for s in own if s.value is None and s.cell in usable]
    lost = [s for s in absent if s.metric.split("@")[0] in asked]
    known = {s.metric.split("@")[0] for s in own}
    undefined = [name for name in asked if name not in known] if scored else []
    broken = states["failed"] + states["partly done"]
    something = bool(there) if scored else bool(states["done"])
    return Outcome(
        states=states,
        scores=len(there),
        absent=len(absent),
        reasons=(*_of_cells(manifest.cells), *_of_scores(absent), *_of_names(undefined)),
        complete=something and not broken and not lost and not undefined,
    )


def _state(cell: CellEntry) -> str:
    if cell.status == "partial" and cell.reason.startswith(NOT_YET):
        return NOT_YET
    return STATES[cell.status]


def _of_cells(cells: Sequence[CellEntry]) -> Iterator[Why]:
    found: dict[tuple[str, str], list[CellEntry]] = {}
    for cell in cells:
        state = _state(cell)
        if state not in ("done", NOT_YET):
            found.setdefault((state, one_line(cell.reason)), []).append(cell)
    for (state, reason), hit in sorted(found.items(), key=lambda entry: -len(entry[1])):
        names = dict.fromkeys(f"{c.method.label} {c.task.slug}" for c in hit)
        yield Why(state, len(hit), reason, tuple(names))


def _of_names(undefined: Sequence[str]) -> Iterator[Why]:
    if undefined:
        reason = "no task of this run defines it (see: sisbench explain METRIC)"
        yield Why("undefined", len(undefined), reason, tuple(undefined))


def _of_scores(absent: Sequence[ScoreRecord]) -> Iterator[Why]:
    tally = Counter(one_line(s.reason) for s in absent)
    for reason, count in tally.most_common():
        names = dict.fromkeys(s.metric for s in absent if one_line(s.reason) == reason)
        yield Why("absent", count, reason, tuple(names))
