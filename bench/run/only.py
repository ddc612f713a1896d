"""Work on some cells of a plan alone: ``--only``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sisbench.core.errors import UserError, did_you_mean
from sisbench.run.plan import Cell, Plan


def restricted(plan: Plan, only: Sequence[str]) -> Plan:
    """The plan with work for some of its cells alone; the others stay in it, as not made yet.

    Args:
        only: ``method=SEAN`` (label or name), ``task=transfer`` (name, or with its classes),
            ``dataset=toyfaces`` (label or name). Several of one kind add up, several kinds meet.

    Raises:
        UserError: an unknown kind or value; the nearest one is named.
    """
    chosen: dict[str, set[str]] = {}
    for text in only:
        kind, equals, value = (part.strip() for part in text.partition("="))
        names = [_names(cell).get(kind, ()) for cell in plan.cells]
        if not equals or kind not in _KINDS:
            raise UserError(
                f"--only {text}: expected {', '.join(f'{k}=NAME' for k in _KINDS)}",
                did_you_mean(kind, _KINDS),
            )
        known = {name for own in names for name in own}
        if value not in known:
            raise UserError(f"--only {text}: no {kind} of this run", did_you_mean(value, known))
        chosen.setdefault(kind, set()).add(value)
    if not chosen:
        return plan
    keys = frozenset(
        cell.key
        for cell in plan.cells
        if all(wanted & set(_names(cell)[kind]) for kind, wanted in chosen.items())
    )
    return replace(plan, only=keys)


_KINDS = ("method", "task", "dataset")


def _names(cell: Cell) -> dict[str, tuple[str, ...]]:
    """What a cell is called by, for each kind."""
    return {
        "method": (cell.method.shown, cell.method.name),
        "task": (cell.task.slug, cell.task.name),
        "dataset": (cell.dataset.shown, cell.dataset.name),
    }
