"""The runner: works off a plan method by method, resumes, and keeps the manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sisbench.core.devices import exact_arithmetic, pick_devices
from sisbench.core.errors import UserError
from sisbench.core.log import NOT_YET, SCHEMA, CellEntry, Manifest, MethodEntry, ProtocolEntry
from sisbench.core.provenance import provenance
from sisbench.core.store import CellFolder, RunStore
from sisbench.run.elsewhere import Images
from sisbench.run.engines.local import spread
from sisbench.run.images import Timer
from sisbench.run.imported import fill_cell
from sisbench.run.loading import Unable, by_method, load_editor, load_method, unable
from sisbench.run.method_entry import method_class
from sisbench.run.plan import Cell, Plan
from sisbench.run.preflight import STRICT_HINT, check_disk, known, preflight
from sisbench.run.stored import finished, merge_items, pending
from sisbench.run.trial import tell_failures, trials

if TYPE_CHECKING:
    from sisbench.core.progress import Progress
    from sisbench.methods.base import Method
    from sisbench.run.tasks import Editor


def generate(plan: Plan, progress: Progress, strict: bool = False) -> Timer:
    """Make every missing image of the plan and write the manifest.

    Args:
        plan: from ``sisbench.run.plan.make_plan``.
        progress: where the bars go.
        strict: a cell that cannot be filled is an error, not an empty cell.

    Raises:
        UserError: under ``strict``, the first reason for an empty cell, before any image is made
            where it is known by then.
    """
    root = plan.config.folder
    devices = pick_devices(plan.config.engine.device)
    device = devices[0]
    exact_arithmetic()
    about = provenance(devices)
    missing = [c for c in plan.cells if plan.wanted(c) and not c.reason and _open(root, c)]
    found = preflight(plan, missing)
    missing = [c for c in missing if c.key not in found]
    check_disk(plan, missing, progress)
    plan = known(plan, found, strict, progress)
    timer = Timer()
    _write_manifest(plan, [_entry(plan, cell) for cell in plan.cells], about)
    tried = trials(plan, missing, device, timer, progress)
    missing = [c for c in missing if c.key not in tried]
    plan = known(plan, tried, strict, progress)
    entries = [_entry(plan, cell) for cell in plan.cells]
    _write_manifest(plan, entries, about)
    open_keys = frozenset(cell.key for cell in missing)
    if len(devices) > 1:
        timer = spread(replace(plan, only=open_keys), devices, progress)
    for position, group in by_method(plan.cells):
        work = [(i, c) for i, c in enumerate(group, position) if c.key in open_keys]
        loaded = load_method(work[0][1], plan, device, progress) if work else None
        editor = load_editor(work[0][1], plan, device) if work else None
        for index, cell in work:
            reason = _make(plan, cell, loaded, editor, timer, progress)
            if reason is not None:
                changes = {"status": _status(reason.failed), "reason": reason.reason}
                entries[index] = entries[index].model_copy(update=changes)
        for index, cell in enumerate(group, position):
            merge_items(root / cell.folder)  # what shards have left, where nothing was missing
            entries[index] = _settled(plan, cell, entries[index], strict)
            if cell.key in open_keys and entries[index].status in ("partial", "failed"):
                tell_failures(root, cell, progress)
        _write_manifest(plan, entries, about)
        del loaded, editor
    return timer


def _make(
    plan: Plan,
    cell: Cell,
    method: Method | Images | str | None,
    editor: Editor | str | None,
    timer: Timer,
    progress: Progress,
) -> Unable | None:
    """Make the images of a cell; why there are none, None where it was tried."""
    for loaded in (method, editor):
        if isinstance(loaded, str):
            return Unable(loaded, failed=True)
    assert method is not None  # loaded where there is work
    assert not isinstance(method, str)
    assert not isinstance(editor, str)
    found = unable(method, cell, plan)
    if found is None:
        reason = fill_cell(plan, cell, method, editor, timer, progress)
        found = Unable(reason) if reason else None
    return found


def _status(failed: bool) -> str:
    return "failed" if failed else "impossible"


def _open(root: Path, cell: Cell) -> bool:
    """Whether a cell lacks images, or the description of the method that made them."""
    if pending(root, cell):
        return True
    try:
        return CellFolder(root / cell.folder).log() is None
    except UserError:  # damaged: written anew
        return True


def _entry(plan: Plan, cell: Cell) -> CellEntry:
    """The cell as the manifest describes it before anything is loaded."""
    dataset = plan.datasets.get(cell.dataset.shown)
    opened: dict[str, Any] = {}
    if dataset is not None:
        opened = {
            "split": dataset.split,
            "space": dataset.space.name,
            "size": list(dataset.size),
            "n": len(dataset),
            "fingerprint": plan.fingerprints[cell.dataset.shown],
        }
    cls = method_class(cell.method.name)
    editor = plan.config.layout_editor
    return CellEntry.model_validate(
        {
            "editor": None if editor is None else editor.model_dump(mode="json"),
            "key": cell.key,
            "folder": cell.folder,
            "method": {
                "label": cell.method.shown,
                "name": cell.method.name,
                "title": cell.method.label or cls.title or cell.method.shown,
                "paper": cls.paper,
                "weights": {"source": cell.method.weights, "sha256": cell.identity},
            },
            "dataset": {
                "label": cell.dataset.shown,
                "name": cell.dataset.name,
                **opened,
                "config": cell.dataset.model_dump(mode="json"),
            },
            "task": cell.task.model_dump(mode="json") | {"slug": cell.task.slug},
            "protocols": list(cell.protocols),
            "generation": dict(cell.generation),
            "items": len(cell.items),
            "status": _status(cell.failed) if cell.reason else "partial",
            "reason": cell.reason,
        }
        | _elsewhere(cell)
    )


def _elsewhere(cell: Cell) -> dict[str, list[str]]:
    """What the manifest says of images made elsewhere."""
    found = cell.found
    if found is None:
        return {}
    lists = {"remarks": found.remarks, "missing": found.missing, "unused": found.unused}
    return {name: list(values) for name, values in lists.items()}


def _settled(plan: Plan, cell: Cell, entry: CellEntry, strict: bool) -> CellEntry:
    """The entry with the status that follows from what lies on disk.

    Raises:
        UserError: under ``strict``, the cell is not done.
    """
    view = CellFolder(plan.config.folder / cell.folder)
    if not cell.reason and entry.status == "partial":
        done = len(finished(view))
        first = next((row.error for row in view.item_rows() if row.error), "")
        failed = len(cell.items) - done
        if failed and not plan.wanted(cell):
            reason = f"{NOT_YET}: {failed:,} of {len(cell.items):,} images"
            return entry.model_copy(update={"reason": reason})
        entry = entry.model_copy(
            update={
                "status": "done" if not failed else ("partial" if done else "failed"),
                "reason": f"{failed} of {len(cell.items)} items failed: {first}" if failed else "",
                "method": _described(view, entry.method),
            }
        )
    if strict and plan.wanted(cell) and entry.status != "done":
        raise UserError(f"{cell.folder}: {entry.reason}", STRICT_HINT)
    return entry


def _described(view: CellFolder, method: MethodEntry) -> MethodEntry:
    """The method with what its cell.json says of it: a resumed or finished cell keeps what it was
    made with. Its label and title stay the configuration's."""
    log = view.log()
    if log is None:
        return method
    own = {"label": method.label, "title": method.title}
    return MethodEntry.model_validate(method.written() | log.method | own)


def _write_manifest(plan: Plan, entries: list[CellEntry], about: dict[str, Any]) -> None:
    protocols = [
        ProtocolEntry.model_validate(p.model_dump(mode="json") | {"id": p.id})
        for p in plan.protocols
    ]
    RunStore(plan.config.folder).write_manifest(
        Manifest(
            version=SCHEMA,
            name=plan.config.name,
            config=plan.config.model_dump(mode="json"),
            protocols=tuple(protocols),
            provenance=about,
            cells=tuple(entries),
        )
    )


def announce(plan: Plan, about: dict[str, Any]) -> None:
    """Write the manifest where there is none of this plan yet, for a shard: it never replaces what
    the whole run has written of the same cells. Shards that do so at once write the same cells.

    Args:
        about: as ``sisbench.core.provenance.provenance`` gives it.
    """
    entries = [_entry(plan, cell) for cell in plan.cells]
    try:
        found = RunStore(plan.config.folder).manifest()
    except UserError:  # none, damaged, or of another schema
        known: dict[str, CellEntry] = {}
    else:
        known = {cell.key: cell for cell in found.cells}
        if found.config == plan.config.model_dump(mode="json") and all(
            entry.key in known for entry in entries
        ):
            return
    _write_manifest(plan, [known.get(entry.key, entry) for entry in entries], about)
