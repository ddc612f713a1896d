"""Methods and layout editors with their weights, on their device; or the reason why not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sisbench import methods
from sisbench.core.errors import UserError
from sisbench.run.elsewhere import Images
from sisbench.run.plan import Cell, Plan, is_editor, method_class
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
    """The method with its weights, or the reason why it cannot be loaded. Images made elsewhere
    take its place as they are."""
    built = method_class(cell.method.name)(**cell.method.options)
    if isinstance(built, Images):
        return built
    progress.say(f"loading {cell.method.shown}")
    space = plan.datasets[cell.dataset.shown].space
    method: Method = built
    try:
        return method.load(space, cell.weights, device)
    except UserError as error:
        return _one_line(error)


def _one_line(error: UserError) -> str:
    return error.message.splitlines()[0] + (f" ({error.hint})" if error.hint else "")


def load_editor(cell: Cell, plan: Plan, device: str) -> Editor | str | None:
    """The layout editor of the run, None where it has none, or why it cannot be loaded."""
    config = plan.config.layout_editor
    if config is None:
        return None
    space = plan.datasets[cell.dataset.shown].space
    try:
        model = methods.editors.get(config.name)(**config.options)
        return Editor(model.load(space, cell.editor_weights, device), config)
    except UserError as error:
        return f"layout editor: {_one_line(error)}"


def unable(method: Method | Images | None, cell: Cell, plan: Plan) -> str:
    """Why this configured method cannot do this cell; "" if it can."""
    from sisbench.methods.base import why_not

    assert method is not None
    if isinstance(method, Images):
        return ""
    dataset = plan.datasets[cell.dataset.shown]
    if method.space != dataset.space:
        method.load(dataset.space, cell.weights, str(method.device))
    if tuple(method.size) != tuple(dataset.size):
        have, want = ("x".join(map(str, s)) for s in (dataset.size, method.size))
        return f"renders {want}, the data set is opened at {have} (set its 'size')"
    return "" if is_editor(cell.method.name) else why_not(method, cell.task.name) or ""
