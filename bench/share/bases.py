"""Scores of a merged run: those that rest on something else than their column's are left empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sisbench.core.log import BASIS, CEILING, ScoreRecord
from sisbench.core.store import CellView
from sisbench.share.sources import Merging, Source, score_name

_RESTS_ON = (*BASIS, "real_split")


def check_bases(found: Merging) -> None:
    """Empty the scores that rest on something else than the first of their column."""
    first: dict[tuple[str, ...], tuple[Source, dict[str, str]]] = {}
    for at, one in enumerate(found.taken):
        scores = []
        for score in one.scores:
            column = (score.dataset, score.task, score.metric, score.protocol)
            mine = {k: str(score.extra.get(k, "")) for k in _RESTS_ON}
            if score.value is None:
                scores.append(score)
                continue
            owner, theirs = first.setdefault(column, (one.source, mine))
            differing = [k for k in _RESTS_ON if mine[k] != theirs[k]]
            if differing:
                why = "; ".join(
                    f"{k.replace('_', ' ')} {mine[k] or 'none'}, {owner.name} has "
                    f"{theirs[k] or 'none'}"
                    for k in differing
                )
                found.refused.append(f"{one.source.name}: {score_name(score)}: {why}")
                score = _emptied(score, f"refused in merging: {why}")
            scores.append(score)
        found.taken[at] = replace(one, scores=tuple(scores))


def _emptied(score: ScoreRecord, reason: str) -> ScoreRecord:
    return ScoreRecord(
        method=score.method,
        title=score.title,
        dataset=score.dataset,
        task=score.task,
        metric=score.metric,
        protocol=score.protocol,
        value=None,
        reason=reason,
        marks=score.marks,
        cell=score.cell,
    )


def take_ceilings(found: Merging, accepted: Sequence[tuple[Source, Sequence[CellView]]]) -> None:
    """Scores of the photographs, from the first run that has each, where its data were accepted."""
    columns = {(s.dataset, s.task, s.metric, s.protocol) for s in found.scores}
    seen: set[tuple[str, ...]] = set()
    for source, cells in accepted:
        labels = {c.entry.dataset.label for c in cells}
        for score in source.scores.scores:
            column = (score.dataset, score.task, score.metric, score.protocol)
            if CEILING in score.marks and score.dataset in labels and column in columns - seen:
                seen.add(column)
                found.ceilings.append(score)
