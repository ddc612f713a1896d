"""What a run would meet, tried out: every item, every method and checkpoint, one image a cell."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sisbench.config import IMAGES, EditorConfig, MethodConfig, RunConfig
from sisbench.core.adapter_file import as_user_error, described
from sisbench.core.cost import parameters
from sisbench.core.devices import pick_devices
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.core.tasks import TASKS
from sisbench.data import Dataset, open_dataset
from sisbench.data.check import check_items
from sisbench.data.loader import to_batch
from sisbench.diagnose.finding import Finding
from sisbench.run.elsewhere import Images
from sisbench.run.loading import Unable, by_method, load_editor, load_method, unable
from sisbench.run.method_entry import find_weights, method_class
from sisbench.run.native import fit
from sisbench.run.plan import Cell, Plan, make_plan
from sisbench.run.preflight import bytes_needed, existing, preflight, size_text
from sisbench.run.stored import pending
from sisbench.run.tasks import Editor, image_faults, run_label_task, run_task

if TYPE_CHECKING:
    from sisbench.methods.base import Method

_NAMED = 5
"""Bad items that are named; more are counted."""


def datasets_of(
    config: RunConfig, quick: bool, progress: Progress, opened: dict[str, Dataset]
) -> Iterator[Finding]:
    """Every data set, each on its own; those that open go into ``opened``."""
    for d in config.datasets:
        label = f"data set {d.shown}"
        try:
            data = opened[d.shown] = open_dataset(d.name, **d.arguments)
            yield from _items(label, data, quick, progress)
        except Exception as error:  # a data set is anybody's
            found = as_user_error(error)
            yield Finding("fail", f"{label}: {found.message}", found.hint)
            continue
        for remark in data.remarks():
            yield Finding("warn", f"{label}: {remark}")
        if d.train is None:
            continue
        try:
            train = open_dataset(d.name, **{**d.arguments, **d.train})
            yield from _items(f"{label} (train)", train, quick, progress)
        except Exception as error:  # as above
            found = as_user_error(error)
            yield Finding("fail", f"{label} (train): {found.message}", found.hint)


def _items(label: str, data: Dataset, quick: bool, progress: Progress) -> Iterator[Finding]:
    """What decoding says: of every item, or of the first."""
    size = "x".join(map(str, data.size))
    if quick:
        data.load(data.ids[0])
        yield Finding("ok", f"{label}: {len(data):,} at {size}, the first decodes")
        return
    faults = check_items(data, progress)
    for fault in faults[:_NAMED]:
        yield Finding("fail", f"{label}: {fault}", "mend or remove it: its scores lack this item")
    if len(faults) > _NAMED:
        yield Finding("fail", f"{label}: {len(faults) - _NAMED:,} more items do not decode")
    if not faults:
        yield Finding("ok", f"{label}: {len(data):,} at {size}, every item decodes")


def methods_of(
    config: RunConfig, datasets: Mapping[str, Dataset], quick: bool
) -> Iterator[Finding]:
    """Every method and layout editor, each on its own: options, weights, networks, sizes, one image
    of every task."""
    editor = config.layout_editor
    if editor is not None:
        yield from _loads(f"layout editor {editor.name}", editor, datasets.values())
    for m in config.methods:
        yield from _loads(f"method {m.shown}", m, datasets.values())
    if not datasets:
        return
    usable = tuple(d for d in config.datasets if d.shown in datasets)
    known = tuple(m for m in config.methods if _is_known(m))
    if not known:
        return
    changed = config.model_copy(update={"datasets": usable, "methods": known})
    try:
        plan = make_plan(changed)
    except UserError as error:
        yield Finding("fail", error.message, error.hint)
        return
    yield from _cells(plan, quick)


def _is_known(method: MethodConfig) -> bool:
    try:
        method_class(method.name)(**method.options)
    except Exception:  # its finding has said so
        return False
    return True


def _loads(
    label: str, method: MethodConfig | EditorConfig, datasets: Iterable[Dataset]
) -> Iterator[Finding]:
    """Whether a method is built for every label space and takes its weights."""
    try:
        files = find_weights(method)
    except UserError as error:
        yield Finding("fail", f"{label}: {error.message}", error.hint)
        return
    if files.fault:
        yield Finding("fail", f"{label}: {files.fault}")
        return
    if method.name == IMAGES:
        yield Finding("ok", f"{label}: images in {method.options['root']}")
        return
    for space in {data.space.name: data.space for data in datasets}.values():
        try:
            model = method_class(method.name)(**method.options).load(space, files.path, "cpu")
        except Exception as error:  # a method is anybody's
            found = as_user_error(error)
            yield Finding("fail", f"{label}: {found.message}", found.hint)
            continue
        count = parameters(model)
        said = f"{label}: {'no' if not count else f'{count:,.0f}'} parameters"
        size = "x".join(map(str, model.size))
        where = f"weights at {files.path}" if files.path else "without weights"
        if str(files.path).startswith("seeded:"):
            yield Finding("warn", f"{said}, seeded test weights: scores mean nothing")
        else:
            yield Finding("ok", f"{said}, {where}, loads for {space.name}, draws {size}")


def _cells(plan: Plan, quick: bool) -> Iterator[Finding]:
    """Cells that get no images, and what the others will take."""
    able = [cell for cell in plan.cells if not cell.reason]
    found = preflight(plan, able)
    for cell in plan.cells:
        why = found.get(cell.key) or (Unable(cell.reason) if cell.reason else None)
        if why is not None and not cell.failed:  # what is missing has a finding of its own
            place = f"{cell.method.shown}, {cell.task.slug} on {cell.dataset.shown}"
            yield Finding("fail" if why.failed else "warn", f"{place}: no images: {why.reason}")
    able = [cell for cell in able if cell.key not in found]
    missing = {c.key: len(pending(plan.config.folder, c)) for c in able}
    images = sum(missing.values())
    needed, folder = bytes_needed(plan, able), existing(plan.config.folder)
    free = shutil.disk_usage(folder).free
    said = f"{images:,} images to make, about {size_text(needed)}; {size_text(free)} free"
    yield Finding("ok" if free > needed else "fail", said, "" if free > needed else "make room")
    if not quick and images:
        yield from _trials(plan, able, missing)


def _trials(plan: Plan, cells: Sequence[Cell], missing: Mapping[str, int]) -> Iterator[Finding]:
    """One image of every cell, timed after a first one; the time that all will take."""
    device = pick_devices(plan.config.engine.device)[0]
    seconds = 0.0
    for _, group in by_method(cells):
        method = load_method(group[0], plan, device, Progress(quiet=True))
        editor = load_editor(group[0], plan, device)
        for loaded in (method, editor):
            if isinstance(loaded, str):
                yield Finding("fail", f"method {group[0].method.shown}: {loaded}")
        if isinstance(method, str | Images) or isinstance(editor, str):
            continue
        for cell in group:
            place = f"{cell.method.shown}, {cell.task.slug} on {cell.dataset.shown}"
            why = unable(method, cell, plan)
            if why is not None:
                yield Finding("fail" if why.failed else "warn", f"{place}: {why.reason}")
                continue
            took, fault = trial(plan, cell, method, editor)
            if fault:
                yield Finding("fail", f"{place}: its first image fails: {fault}")
            seconds += took * missing[cell.key]
    many = plan.config.engine.batch_size
    said = f"about {_duration(seconds)} on {device}, from one image a cell"
    yield Finding("ok", f"{said}; batches of {many} may be faster; scoring comes on top")


def trial(plan: Plan, cell: Cell, method: Method, editor: Editor | None) -> tuple[float, str]:
    """(seconds that an image takes, why it fails); nothing is kept."""
    item, data = cell.items[0], plan.datasets[cell.dataset.shown]
    seconds = 0.0
    try:
        data = fit(method, data, cell.method.resize).dataset
        target = to_batch([data.load(item.target)], data.space).to(method.device)
        reference = None
        if item.reference:
            reference = to_batch([data.load(item.reference)], data.space).to(method.device)
        for _ in range(2):  # the first pays for what is set up once
            start = time.perf_counter()
            if TASKS[cell.task.name].by == "editor":
                args = (method, cell.task, cell.protocol, [item], target)
                result = run_label_task(*args)  # type: ignore[arg-type]
            else:
                result = run_task(
                    method, cell.task, cell.protocol, [item], target, reference, editor
                )
            wrong = image_faults(result.image)[0]
            seconds = time.perf_counter() - start
    except Exception as error:  # a method is anybody's
        return seconds, described(error)
    return seconds, wrong


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
