"""A few images of every cell of somebody's own method, before the long work: a method that raises
on all of them is known, and its other images are not tried."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sisbench import methods
from sisbench.core.progress import Progress
from sisbench.core.store import CellFolder
from sisbench.run.elsewhere import Images
from sisbench.run.images import CellRunner, Timer
from sisbench.run.loading import Unable, by_method, load_editor, load_method, unable
from sisbench.run.method_entry import method_class
from sisbench.run.plan import Cell, Plan
from sisbench.run.stored import finished

if TYPE_CHECKING:
    from sisbench.methods.base import Method
    from sisbench.methods.editor import LayoutEditor
    from sisbench.run.tasks import Editor

TRIES = 5
"""Images that a method must fail on, with no success among them, before the others are left."""
_NAMED = 5
"""Failed items that the console names for a cell; more are counted."""


def trials(
    plan: Plan, cells: Sequence[Cell], device: str, timer: Timer, progress: Progress
) -> dict[str, Unable]:
    """Cells (by key) that get no further images: their method does not load, or each of the
    ``TRIES`` images that it was asked for failed. Images that it made are kept.

    Methods of sisbench's are passed over, and cells that have an image already.
    """
    import torch

    found: dict[str, Unable] = {}
    for _, group in by_method([c for c in cells if is_anybodys(plan, c)]):
        untried = [c for c in group if not finished(CellFolder(plan.config.folder / c.folder))]
        if not untried:
            continue
        progress.say(f"trying {untried[0].method.shown}")
        method = load_method(untried[0], plan, device, Progress(quiet=True))
        editor = load_editor(untried[0], plan, device)
        fault = next((x for x in (method, editor) if isinstance(x, str)), "")
        if fault:
            found |= {c.key: Unable(fault, failed=True) for c in group}
            continue
        assert not isinstance(method, str | Images)
        assert not isinstance(editor, str)
        for cell in untried:
            why = unable(method, cell, plan)
            if why is None:
                why = trial(plan, cell, method, editor, timer)
            if why is not None:
                found[cell.key] = why
                tell_failures(plan.config.folder, cell, progress)
        on_gpu = method.device.type == "cuda"
        del method, editor
        if on_gpu:  # the long work may be other processes'
            torch.cuda.empty_cache()
    return found


def trial(
    plan: Plan,
    cell: Cell,
    method: Method | LayoutEditor,
    editor: Editor | None,
    timer: Timer,
    share: tuple[int, int] = (0, 1),
) -> Unable | None:
    """Why a cell, or a share of it, is given up after its first images; None where it goes on, as
    it does where it has an image."""
    folder = CellFolder(plan.config.folder / cell.folder)
    if finished(folder):
        return None
    runner = CellRunner(plan, cell, method, editor, timer, Progress(quiet=True), share)
    runner.profiled = True  # it counts operations of one image: of the first of the long work
    lacks = runner.run(TRIES)
    if lacks:
        return Unable(lacks)
    if runner.made or runner.tried < min(TRIES, len(cell.items)):
        return None
    rows = folder.item_rows()
    first = next((row.error for row in rows if row.error), "")
    left = len(cell.items) - len(rows)
    if not left:
        return Unable(f"{len(rows)} of {len(cell.items)} items failed: {first}", failed=True)
    said = f"{len(rows)} of {len(rows)} trial images failed, {left:,} more were not tried: {first}"
    return Unable(said, failed=True)


def is_anybodys(plan: Plan, cell: Cell) -> bool:
    """Whether a method, or the layout editor before it, is not one of sisbench's."""
    editor = plan.config.layout_editor
    classes = [] if cell.found is not None else [method_class(cell.method.name)]
    if editor is not None and classes:
        classes.append(methods.editors.get(editor.name))
    return any(not cls.__module__.startswith("sisbench.") for cls in classes)


def tell_failures(root: Path, cell: Cell, progress: Progress) -> None:
    """Name the items of a cell that failed."""
    where = f"{cell.method.shown} {cell.task.slug} on {cell.dataset.shown}"
    failed = [row for row in CellFolder(root / cell.folder).item_rows() if row.error]
    for row in failed[:_NAMED]:
        progress.say(f"failed in {where}: {row.id}: {row.error}")
    if len(failed) > _NAMED:
        progress.say(f"failed in {where}: {len(failed) - _NAMED:,} more items")
