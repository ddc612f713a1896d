"""Scores that a run has from before: which of them stay when it is scored again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sisbench.core.errors import UserError
from sisbench.core.log import ScoreRecord, ScoresFile
from sisbench.core.progress import Progress
from sisbench.core.store import RunStore


def earlier(store: RunStore, progress: Progress) -> ScoresFile | None:
    """The scores that are there; None where there are none, or they are damaged (it says so)."""
    if not (store.root / "scores.json").is_file():
        return None
    try:
        return store.scores_file()
    except UserError as error:
        progress.say(f"{error.message}; scores that were not asked for now are gone")
        return None


def kept(
    scores: Sequence[ScoreRecord],
    closed: Mapping[str, UserError],
    before: ScoresFile | None,
    progress: Progress,
) -> list[ScoreRecord]:
    """``scores``, and where a data set could not be opened those that were made before of the same
    images; what became of each such data set is said."""
    known = {(s.cell, s.metric, s.protocol): s for s in (before.scores if before else ()) if s.cell}
    found = []
    for score in scores:
        stays = known.get((score.cell, score.metric, score.protocol))
        found.append(stays if score.dataset in closed and stays is not None else score)
    for label, error in closed.items():
        stay = sum(s.dataset == label and s.value is not None for s in found)
        more = f"; {stay} scores from before stay" if stay else ""
        progress.say(f"data set {label}: {error.message}{more}")
    return found


def joined(
    before: Sequence[ScoreRecord], new: Sequence[ScoreRecord], cells: set[str]
) -> list[ScoreRecord]:
    """``new`` in the places of the scores that they replace, then the rest; earlier scores of
    images that the run no longer has are left out."""

    def key(score: ScoreRecord) -> tuple[str, ...]:
        return score.method, score.dataset, score.task, score.metric, score.protocol

    found = {key(s): s for s in before if not s.cell or s.cell in cells}
    return list((found | {key(s): s for s in new}).values())
