"""Methods and layout editors with their weights, on their device; or the reason why not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sisbench import methods
from sisbench.core.adapter_file import described
from sisbench.run.elsewhere import Images
from sisbench.run.method_entry import is_editor, method_class
from sisbench.run.native import fit
from sisbench.run.plan import Cell, Plan
from sisbench.run.tasks import Editor

if TYPE_CHECKING:
    from sisbench.core.progress import Progress
    from sisbench.methods.base import Method


def by_method(cells: Sequence[Cell]) -> Iterator[tuple[int, list[Cell]]]:
    """(position of its first cell, the cells of one method), in plan order."""
    start = 0
    for end in range(1, len(cells) + 1):
        if end == len(cells) or cells[end].method != cells[start].method:
            yield start, list(cells[start:end])
            start = end


def load_method(cell: Cell, plan: Plan, device: str, progress: Progress) -> Method | Images | str:
    """The method with its weights, or the reason why it cannot be loaded, whatever it raised.
    Images made elsewhere take its place as they are."""
    if cell.found is not None:
        return Images(**cell.method.options)
    progress.say(f"loading {cell.method.shown}")
    space = plan.datasets[cell.dataset.shown].space
    try:
        method: Method = method_class(cell.method.name)(**cell.method.options)
        method = method.load(space, cell.weights, device)
        json.dumps(method.describe())  # what cell.json will hold
    except Exception as error:  # a method is anybody's: it costs itself its cells
        return described(error)
    return method


def load_editor(cell: Cell, plan: Plan, device: str) -> Editor | str | None:
    """The layout editor of the run, None where it has none, or why it cannot be loaded."""
    config = plan.config.layout_editor
    if config is None:
        return None
    space = plan.datasets[cell.dataset.shown].space
    try:
        model = methods.editors.get(config.name)(**config.options)
        return Editor(model.load(space, cell.editor_weights, device), config)
    except Exception as error:  # as of a method
        return f"layout editor: {described(error)}"


@dataclass(frozen=True)
class Unable:
    """Why a cell gets no images.

    Attributes:
        reason: one line; failed: something that was asked for is missing or broken, as against a
            task that the method, by what it is, does not do.
    """

    reason: str
    failed: bool = False


def unable(method: Method | Images, cell: Cell, plan: Plan) -> Unable | None:
    """Why this configured method cannot do this cell; None if it can."""
    from sisbench.methods.base import why_not

    if isinstance(method, Images):
        return None
    dataset = plan.datasets[cell.dataset.shown]
    try:
        if method.space != dataset.space:
            method.load(dataset.space, cell.weights, str(method.device))
        fit(method, dataset, cell.method.resize)
        reason = "" if is_editor(cell.method.name) else why_not(method, cell.task.name) or ""
    except Exception as error:  # as above
        return Unable(described(error), failed=True)
    return Unable(reason) if reason else None
