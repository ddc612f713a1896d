"""What is known before networks are loaded and images are drawn: weights of another network, sizes
that do not fit, full disks."""

from __future__ import annotations

import dis
import inspect
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sisbench.core.adapter_file import described
from sisbench.core.errors import UserError
from sisbench.run.loading import Unable, by_method
from sisbench.run.method_entry import check_kind, method_class
from sisbench.run.native import size_misfit
from sisbench.run.plan import Cell, Plan
from sisbench.run.stored import pending

if TYPE_CHECKING:
    from sisbench.core.label_space import LabelSpace
    from sisbench.core.progress import Progress

STRICT_HINT = "leave out --strict to go on without it"
BYTES_A_PIXEL = 2.0
"""Of a photograph as PNG; noise has 3, photographs of the benchmark's data sets 1.3 to 1.9."""
BYTES_A_SAMPLE = 16_384
"""Rows of the metrics for one image: 2048 float32 features, confusions, values."""


def preflight(plan: Plan, cells: Sequence[Cell]) -> dict[str, Unable]:
    """Cells (by key) that are known to get no images, before anything is loaded or drawn."""
    found: dict[str, Unable] = {}
    editors: dict[str, str] = {}
    for _, group in by_method(cells):
        sizes: dict[str, tuple[int, int] | str | None] = {}
        for cell in group:
            dataset = plan.datasets[cell.dataset.shown]
            if dataset.space.name not in sizes:
                sizes[dataset.space.name] = _size(cell, dataset.space)
            if dataset.space.name not in editors:
                editors[dataset.space.name] = _editor_fault(plan, cell, dataset.space)
            size = sizes[dataset.space.name]
            reason = size if isinstance(size, str) else editors[dataset.space.name]
            if not reason and isinstance(size, tuple):
                reason = size_misfit(size, dataset.size, cell.method.resize)
            if reason:
                found[cell.key] = Unable(reason, failed=True)
    return found


def known(plan: Plan, found: Mapping[str, Unable], strict: bool, progress: Progress) -> Plan:
    """The plan with the reasons that were found for some cells (by key); each is said, once.

    Raises:
        UserError: under ``strict``, a cell that is wanted and gets no images.
    """
    cells = [_without(cell, found.get(cell.key)) for cell in plan.cells]
    said: dict[tuple[str, str], int] = {}
    for cell in cells:
        if not (cell.reason and plan.wanted(cell)):
            continue
        if strict:
            raise UserError(f"{cell.folder}: {cell.reason}", STRICT_HINT)
        if cell.key in found:
            said[cell.method.shown, cell.reason] = said.get((cell.method.shown, cell.reason), 0) + 1
    for (method, reason), count in said.items():
        counted = "1 cell" if count == 1 else f"{count} cells"
        progress.say(f"note: no images of {method} ({counted}): {reason}")
    return replace(plan, cells=cells)


def _without(cell: Cell, found: Unable | None) -> Cell:
    return cell if found is None else replace(cell, reason=found.reason, failed=found.failed)


def _size(cell: Cell, space: LabelSpace) -> tuple[int, int] | str | None:
    """(H, W) that a method draws; why it cannot be built; None where only loading tells, and for
    images made elsewhere."""
    if cell.found is not None:
        return None
    cls = method_class(cell.method.name)
    try:
        method = cls(**cell.method.options)
        if not cls.__module__.startswith("sisbench."):
            return None if _sets_size(cls) else _pair(method.size)
        _prepare(method, space, cell.weights)
        return _pair(method.size)
    except Exception as error:  # a method is anybody's: it costs itself its cells
        return described(error)


def _prepare(method: Any, space: LabelSpace, weights: str | None) -> None:
    """Build a method of sisbench's and compare its keys with those of its weights; nothing is
    loaded. What a ``load`` of its own reads is not known.

    Raises:
        UserError: it cannot be built so, or the weights do not fit.
    """
    from sisbench.core.unset import UnsetParameters
    from sisbench.methods.loadable import Loadable, compare_keys, needs_none

    if weights and not weights.startswith("seeded:"):
        if type(method).load is Loadable.load:
            compare_keys(method, space, Path(weights))
            return
        check_kind(method, Path(weights))
    with UnsetParameters():
        method.setup(space)
    if weights is None:
        needs_none(method)


def _editor_fault(plan: Plan, cell: Cell, space: LabelSpace) -> str:
    """Why the run's layout editor cannot be had for a label space, "" where it can or has none."""
    config = plan.config.layout_editor
    if config is None:
        return ""
    try:
        cls = method_class(config.name)
        if cls.__module__.startswith("sisbench."):
            _prepare(cls(**config.options), space, cell.editor_weights)
    except Exception as error:  # as of a method
        return f"layout editor: {described(error)}"
    return ""


def _pair(size: Any) -> tuple[int, int]:
    high, wide = size
    return int(high), int(wide)


def _sets_size(cls: type) -> bool:
    """Whether a method of the user's sets its size when it is built, which may be costly."""
    ours = ("sisbench.", "builtins", "abc")
    own = [c for c in cls.__mro__ if not c.__module__.startswith(ours)]
    named = [(name, value) for c in own for name, value in vars(c).items()]
    calls = [f for name, f in named if inspect.isfunction(f) and name != "__init__"]
    steps = [step for call in calls for step in dis.get_instructions(call)]
    computed = any(name == "size" and isinstance(value, property) for name, value in named)
    return computed or any(s.opname == "STORE_ATTR" and s.argval == "size" for s in steps)


def bytes_needed(plan: Plan, cells: Sequence[Cell], share: tuple[int, int] = (0, 1)) -> int:
    """Estimate of what the missing images of a share of ``cells`` and their rows take on disk."""
    total = 0.0
    for cell in cells:
        high, wide = plan.datasets[cell.dataset.shown].size
        each = high * wide * BYTES_A_PIXEL + BYTES_A_SAMPLE
        total += len(pending(plan.config.folder, cell, share)) * each
    return int(total)


def check_disk(
    plan: Plan, cells: Sequence[Cell], progress: Progress, share: tuple[int, int] = (0, 1)
) -> None:
    """Say what the run will take and what is free; a warning where it may not be enough.

    Raises:
        UserError: clearly too little: less than half of the estimate is free.
    """
    needed = bytes_needed(plan, cells, share)
    free = shutil.disk_usage(existing(plan.config.folder)).free
    text = f"the images take about {size_text(needed)}, {size_text(free)} are free at "
    text += f"{existing(plan.config.folder).resolve()}"
    if free >= needed:
        if needed:
            progress.say(text)
        return
    if free < needed / 2:
        raise UserError(text, "make room, give another 'output', or fewer items (--limit)")
    progress.say(f"note: {text}")


def existing(folder: Path) -> Path:
    """``folder``, or the nearest one above it that is there."""
    while not folder.exists():
        folder = folder.parent
    return folder


def size_text(count: float) -> str:
    """``1.5 GiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
