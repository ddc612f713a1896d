"""The runner: works off a plan method by method, resumes, and keeps the manifest."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import methods
from bench.cells import Cell, Plan, is_editor, method_class
from bench.errors import UserError
from bench.generation import CellRunner, Timer, finished, pending
from bench.provenance import provenance
from bench.store import SCHEMA, CellView, write_json
from bench.tasks import Editor

if TYPE_CHECKING:
    from bench.progress import Progress
    from methods.base import Method


def pick_device(wanted: str) -> str:
    """``auto`` as "cuda" where there is a GPU, else "cpu"; anything else as it stands.

    Raises:
        UserError: the device is not there.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, index = wanted.partition(":")
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    number = index if colon else "0"
    if not number.isdecimal() or int(number) >= there.get(kind, 0):
        raise UserError(f"no device '{wanted}' here", "use device: auto, or see: sisbench doctor")
    return wanted


def pick_devices(wanted: str) -> list[str]:
    """The devices of ``a,b``, one each process; ``all`` takes every GPU.

    Raises:
        UserError: one of them is not there.
    """
    import torch

    if wanted != "all":
        return [pick_device(part.strip()) for part in wanted.split(",")]
    if not torch.cuda.device_count():
        raise UserError("no device 'all' here: there is no GPU", "use device: auto")
    return [f"cuda:{k}" for k in range(torch.cuda.device_count())]


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


def exact_arithmetic() -> None:
    """No TF32 on GPUs: figures that are reported come from float32 products."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def generate(plan: Plan, progress: Progress, strict: bool = False) -> Timer:
    """Make every missing image of the plan and write the manifest.

    Args:
        plan: from ``bench.cells.make_plan``.
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
        from bench.engines.local import spread

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
            CellRunner(plan, cell, loaded, editor, timer, progress).run()  # type: ignore[arg-type]
        for index, cell in enumerate(group, position):
            _finish(root, cell, entries[index], strict)
        _write_manifest(plan, entries, about)
        del loaded, editor
    return timer


def by_method(cells: Sequence[Cell]) -> Iterator[tuple[int, list[Cell]]]:
    """(position of its first cell, the cells of one method), in plan order."""
    start = 0
    for end in range(1, len(cells) + 1):
        if end == len(cells) or cells[end].method != cells[start].method:
            yield start, list(cells[start:end])
            start = end


def load_method(cell: Cell, plan: Plan, device: str, progress: Progress) -> Method | str:
    """The method with its weights, or the reason why it cannot be loaded."""
    progress.say(f"loading {cell.method.shown}")
    space = plan.datasets[cell.dataset.shown].space
    method: Method = method_class(cell.method.name)(**cell.method.options)
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


def unable(method: Method | None, cell: Cell, plan: Plan) -> str:
    """Why this configured method cannot do this cell; "" if it can."""
    from methods.base import why_not

    assert method is not None
    dataset = plan.datasets[cell.dataset.shown]
    if method.space != dataset.space:
        method.load(dataset.space, cell.weights, str(method.device))
    if tuple(method.size) != tuple(dataset.size):
        have, want = ("x".join(map(str, s)) for s in (dataset.size, method.size))
        return f"renders {want}, the data set is opened at {have} (set its 'size')"
    return "" if is_editor(cell.method.name) else why_not(method, cell.task.name) or ""


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
            from bench.store import read_json

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
