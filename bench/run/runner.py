"""The runner: works off a plan method by method, resumes, and keeps the manifest."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sisbench.core.devices import exact_arithmetic, pick_devices
from sisbench.core.errors import UserError
from sisbench.core.provenance import provenance
from sisbench.core.store import SCHEMA, CellView, write_json
from sisbench.run.engines.local import spread
from sisbench.run.images import CellRunner, Timer, finished, pending
from sisbench.run.loading import by_method, load_editor, load_method, unable
from sisbench.run.plan import Cell, Plan, method_class

if TYPE_CHECKING:
    from sisbench.core.progress import Progress


@contextmanager
def run_lock(root: Path) -> Iterator[None]:
    """One process a run folder; the lock goes with its process, also under kill -9.

    Raises:
        UserError: another process works on this run.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as handle:
        _lock(handle, root)
        yield


def _lock(handle: IO[str], root: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UserError(
            f"another process works on {root}", "wait for it, or give this run another 'output'"
        ) from error


def generate(plan: Plan, progress: Progress, strict: bool = False) -> Timer:
    """Make every missing image of the plan and write the manifest.

    Args:
        plan: from ``sisbench.run.plan.make_plan``.
        progress: where the bars go.
        strict: a cell that cannot be filled is an error, not a dash.

    Raises:
        UserError: under ``strict``, the first reason for a dash.
    """
    root = plan.config.folder
    devices = pick_devices(plan.config.engine.device)
    device = devices[0]
    exact_arithmetic()
    about = provenance(devices)
    entries = [_entry(plan, cell) for cell in plan.cells]
    timer = Timer()
    _write_manifest(plan, entries, about)
    if len(devices) > 1:
        timer = spread(plan, devices, progress)
    for position, group in by_method(plan.cells):
        work = [(i, c) for i, c in enumerate(group, position) if not c.reason and pending(root, c)]
        loaded = load_method(work[0][1], plan, device, progress) if work else None
        editor = load_editor(work[0][1], plan, device) if work else None
        for index, cell in work:
            faults = [f for f in (loaded, editor) if isinstance(f, str)]
            reason = faults[0] if faults else unable(loaded, cell, plan)  # type: ignore[arg-type]
            if reason:
                entries[index] |= {"status": "impossible", "reason": reason}
                continue
            entries[index]["method"] |= loaded.describe()  # type: ignore[union-attr]
            reason = CellRunner(plan, cell, loaded, editor, timer, progress).run()  # type: ignore[arg-type]
            if reason:
                entries[index] |= {"status": "impossible", "reason": reason}
        for index, cell in enumerate(group, position):
            _finish(root, cell, entries[index], strict)
        _write_manifest(plan, entries, about)
        del loaded, editor
    return timer


def _entry(plan: Plan, cell: Cell) -> dict[str, Any]:
    """The cell as the manifest and its own cell.json describe it."""
    dataset = plan.datasets[cell.dataset.shown]
    cls = method_class(cell.method.name)
    editor = plan.config.layout_editor
    return {
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
            "split": dataset.split,
            "space": dataset.space.name,
            "size": list(dataset.size),
            "n": len(dataset),
            "fingerprint": plan.prints[cell.dataset.shown],
            "config": cell.dataset.model_dump(mode="json"),
        },
        "task": cell.task.model_dump(mode="json") | {"slug": cell.task.slug},
        "protocols": list(cell.protocols),
        "generation": dict(cell.generation),
        "items": len(cell.items),
        "status": "impossible" if cell.reason else "partial",
        "reason": cell.reason,
    }


def _finish(root: Path, cell: Cell, entry: dict[str, Any], strict: bool) -> None:
    """Settle a cell's status from what lies on disk."""
    view = CellView(root / cell.folder, {"key": cell.key})
    if not cell.reason and entry["status"] != "impossible":
        done = len(finished(view))
        first = next((row["error"] for row in view.items() if row["error"]), "")
        failed = len(cell.items) - done
        entry["status"] = "done" if not failed else ("partial" if done else "failed")
        entry["reason"] = f"{failed} of {len(cell.items)} items failed: {first}" if failed else ""
        own = view.folder / "cell.json"
        if own.is_file():  # a resumed or finished cell keeps what it was made with
            from sisbench.core.store import read_json

            entry["method"] |= read_json(own)["method"]
    if strict and entry["status"] != "done":
        raise UserError(
            f"{cell.folder}: {entry['reason']}", "leave out --strict to get a dash instead"
        )


def _write_manifest(plan: Plan, entries: list[dict[str, Any]], about: dict[str, Any]) -> None:
    write_json(
        plan.config.folder / "run.json",
        {
            "schema": SCHEMA,
            "name": plan.config.name,
            "config": plan.config.model_dump(mode="json"),
            "protocols": [p.model_dump(mode="json") | {"id": p.id} for p in plan.protocols],
            "provenance": about,
            "cells": entries,
        },
    )
