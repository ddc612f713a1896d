"""Scores of two folders as a table for people, JSON or CSV for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from sisbench import metrics
from sisbench.core.frames import score_frame
from sisbench.core.log import BASIS, ScoreRecord

_ARROWS = {"up": " ↑", "down": " ↓"}


def as_json(scores: Sequence[ScoreRecord]) -> str:
    """A list of objects, one a score; a score that cannot be had is null with its reason."""
    return json.dumps([asdict(s) for s in scores], indent=1, ensure_ascii=False, allow_nan=False)  # type: ignore[call-overload]


def as_csv(scores: Sequence[ScoreRecord]) -> str:
    """One row a score, with the columns of ``Run.scores``."""
    text: str = score_frame(scores).to_csv(index=False)
    return text


def as_table(scores: Sequence[ScoreRecord]) -> list[RenderableType]:
    """A table of the scores, then one line for each that cannot be had."""
    done = [s for s in scores if s.value is not None]
    found: list[RenderableType] = []
    if done:
        first = done[0]
        title = f"{first.method} against {first.dataset} ({first.protocol})"
        table = Table("score", "value", "s.e.", "n", "n real", "rests on", title=escape(title))
        for score in done:
            table.add_row(*map(escape, _row(score)))
        found.append(table)
    return found + [escape(f"no {s.metric}: {s.reason}") for s in scores if s.value is None]


def _row(score: ScoreRecord) -> tuple[str, ...]:
    cls = metrics.registry.get(score.metric.partition("@")[0])
    unit = f" ({cls.unit})" if cls.unit else ""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value * cls.scale:.{cls.digits}f}"

    basis = [str(score.extra[key]) for key in BASIS if score.extra.get(key)]
    title = f"{cls.title or score.metric}{unit}{_ARROWS.get(cls.direction, '')}"
    n_real = "" if score.n_real is None else str(score.n_real)
    rests = "; ".join([*basis, *score.marks])
    return title, number(score.value), number(score.se), str(score.n), n_real, rests
