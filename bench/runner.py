"""The runner: works off a plan cell by cell, resumes where it was stopped, and scores what it
made."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

import methods
from bench.cells import Cell, Plan, is_editor, method_class
from bench.data import Dataset, Sample
from bench.data.loader import prefetch, to_batch
from bench.data.prepare import png_bytes
from bench.errors import UserError
from bench.provenance import provenance
from bench.store import SCHEMA, CellView, RunStore, write_atomic, write_json
from bench.tasks import Editor, Item, Made, make, make_layout

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bench.progress import Progress
    from bench.types import Batch
    from methods.base import Method
    from methods.editor import LayoutEditor

HOLE_BYTE = 255


@dataclass
class Timer:
    """Seconds by stage: where the time of a run went."""

    seconds: dict[str, float] = field(default_factory=dict)
    images: int = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def pick_device(wanted: str) -> str:
    """``auto`` as "cuda" where there is a GPU, else "cpu"; anything else as it stands.

    Raises:
        UserError: the device is not there.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = wanted.split(":")[0]
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(kind, False):
        raise UserError(f"no device '{wanted}' here", "use device: auto, or see: sisbench doctor")
    return wanted


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
    device = pick_device(plan.config.engine.device)
    exact_arithmetic()
    about = provenance(device)
    entries = [_entry(plan, cell) for cell in plan.cells]
    timer = Timer()
    _write_manifest(plan, entries, about)
    for position, group in _by_method(plan.cells):
        work = [(i, c) for i, c in enumerate(group, position) if not c.reason and _pending(root, c)]
        loaded = _load(work[0][1], plan, device, progress) if work else None
        editor = _load_editor(work[0][1], plan, device) if work else None
        for index, cell in work:
            faults = [f for f in (loaded, editor) if isinstance(f, str)]
            reason = faults[0] if faults else _unable(loaded, cell, plan)  # type: ignore[arg-type]
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


def _by_method(cells: Sequence[Cell]) -> Iterator[tuple[int, list[Cell]]]:
    """(position of its first cell, the cells of one method), in plan order."""
    start = 0
    for end in range(1, len(cells) + 1):
        if end == len(cells) or cells[end].method != cells[start].method:
            yield start, list(cells[start:end])
            start = end


def _load(cell: Cell, plan: Plan, device: str, progress: Progress) -> Method | str:
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


def _load_editor(cell: Cell, plan: Plan, device: str) -> Editor | str | None:
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


def _unable(method: Method | None, cell: Cell, plan: Plan) -> str:
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


def _pending(root: Path, cell: Cell) -> list[Item]:
    """Items without an image yet, in order; those that failed before are tried again."""
    done = finished(CellView(root / cell.folder, {"key": cell.key}))
    return [item for item in cell.items if item.id not in done]


def finished(view: CellView) -> set[str]:
    """Ids of the items that have their image."""
    return {
        row["id"]
        for row in view.items()
        if not row["error"] and view.image_path(row["id"]).is_file()
    }


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
            "protocol": plan.protocol.model_dump(mode="json") | {"id": plan.protocol.id},
            "provenance": about,
            "cells": entries,
        },
    )


def to_uint8(images: Tensor, rule: str) -> Tensor:
    """The one place where images become 8-bit: (B, 3, H, W) float in [-1, 1] -> (B, H, W, 3) uint8.

    ``round``: half up, as torchvision's save_image; ``truncate``: as the papers' code.
    """
    import torch

    scaled = (images.float() + 1) / 2 * 255
    if rule == "round":
        scaled = scaled + 0.5
    return scaled.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class CellRunner:
    """Makes the missing items of one cell: decode ahead, render, write behind."""

    def __init__(
        self,
        plan: Plan,
        cell: Cell,
        method: Method | LayoutEditor,
        editor: Editor | None,
        timer: Timer,
        progress: Progress,
    ) -> None:
        self.plan, self.cell, self.method, self.editor = plan, cell, method, editor
        self.timer, self.progress = timer, progress
        self.root = plan.config.folder / cell.folder
        self.dataset: Dataset = plan.datasets[cell.dataset.shown]
        self.batch_size = plan.config.engine.batch_size
        self.position = {item.id: index for index, item in enumerate(cell.items)}

    def run(self) -> None:
        """Work off what is pending; safe to be killed at any moment."""
        about = {"key": self.cell.key, "method": self.method.describe()}
        write_json(self.root / "cell.json", about)
        pending = _pending(self.plan.config.folder, self.cell)
        groups = list(_batches(pending, self.batch_size))
        wanted = [[x for i in g for x in (i.target, i.reference) if x] for g in groups]
        label = f"{self.cell.method.shown} {self.cell.task.slug} on {self.cell.dataset.shown}"
        total = len(self.cell.items)
        loaded = prefetch(self.dataset, wanted, self.plan.config.engine.workers)
        writes: list[Future[None]] = []
        with (
            self.progress.bar(label, total, total - len(pending)) as advance,
            ThreadPoolExecutor(1) as pool,
        ):
            for group in groups:
                with self.timer.stage("decode"):
                    samples = next(loaded)
                rows, pictures = self._make(group, samples)
                with self.timer.stage("write"):
                    while len(writes) > 2:
                        writes.pop(0).result()
                    writes.append(pool.submit(self._write, rows, pictures))
                self.timer.images += len(group)
                advance(len(group))
            with self.timer.stage("write"):
                for future in writes:
                    future.result()
        self._merge()

    def _make(
        self, group: Sequence[Item], samples: dict[str, Sample | UserError]
    ) -> tuple[list[dict[str, Any]], list[tuple[str, np.ndarray]]]:
        """(item rows, pictures to write as (path in the cell, array)) of one batch."""
        rows, pictures = [], []
        usable = []
        for item in group:
            faults = [samples[x] for x in (item.target, item.reference) if x]
            fault = next((f for f in faults if isinstance(f, UserError)), None)
            if fault is None:
                usable.append(item)
            else:
                rows.append(self._row(item, error=fault.message))
        for part, made, seconds in self._render(usable, samples):
            if isinstance(made, str):
                rows.extend(self._row(item, error=made) for item in part)
                continue
            eight_bit = to_uint8(made.image, self.plan.protocol.quantise).cpu().numpy()
            finite = made.image.flatten(1).isfinite().all(1).cpu()
            for k, item in enumerate(part):
                if not bool(finite[k]):
                    rows.append(self._row(item, error="the method rendered non-finite values"))
                    continue
                classes = made.edited[k].nonzero()[:, 0].tolist()
                each = seconds / len(part)
                rows.append(self._row(item, classes, int(made.absent[k]), each, len(part)))
                pictures.append((f"images/{item.id}.png", eight_bit[k]))
                if made.label is not None:
                    drawn = made.label[k].cpu().numpy()
                    byte = np.where(drawn < 0, HOLE_BYTE, drawn).astype(np.uint8)
                    pictures.append((f"labels/{item.id}.png", byte))
        return rows, pictures

    def _render(
        self, items: Sequence[Item], samples: dict[str, Sample | UserError]
    ) -> Iterator[tuple[Sequence[Item], Made | str, float]]:
        """(items, what was made of them or the error, seconds); halves a batch that does not
        fit."""
        if not items:
            return
        try:
            made, seconds = self._forward(items, samples)
        except (RuntimeError, ValueError, UserError) as error:
            if len(items) == 1:
                yield items, f"{type(error).__name__}: {str(error).splitlines()[0][:300]}", 0.0
                return
            if is_out_of_memory(error):
                _free(self.method.device)
                self.progress.say(f"out of memory at batch size {len(items)}: halved")
            half = (len(items) + 1) // 2
            yield from self._render(items[:half], samples)
            yield from self._render(items[half:], samples)
            return
        yield items, made, seconds

    def _forward(
        self, items: Sequence[Item], samples: dict[str, Sample | UserError]
    ) -> tuple[Made, float]:
        space, device = self.dataset.space, self.method.device

        def batch(ids: list[str]) -> Any:
            return to_batch([s for i in ids if isinstance(s := samples[i], Sample)], space).to(
                device
            )

        target = batch([i.target for i in items])
        reference = batch([i.reference for i in items]) if items[0].reference else None
        with self.timer.stage("network"):
            start = time.perf_counter()
            made = self._call(items, target, reference)
            _synchronise(device)
            seconds = time.perf_counter() - start
        return made, seconds

    def _call(self, items: Sequence[Item], target: Batch, reference: Batch | None) -> Made:
        from methods.editor import LayoutEditor

        protocol = self.plan.protocol
        if isinstance(self.method, LayoutEditor):
            return make_layout(self.method, protocol, items, target)
        task = self.cell.task
        return make(self.method, task, protocol, items, target, reference, self.editor)

    def _row(
        self,
        item: Item,
        classes: Sequence[int] = (),
        absent: int = 0,
        seconds: float = 0.0,
        batch: int = 0,
        error: str = "",
    ) -> dict[str, Any]:
        return {
            "id": item.id,
            "index": self.position[item.id],
            "target": item.target,
            "reference": item.reference,
            "alpha": item.alpha,
            "classes": list(classes),
            "absent": absent,
            "seconds": seconds,
            "batch": batch,
            "error": error,
        }

    def _write(self, rows: list[dict[str, Any]], pictures: list[tuple[str, np.ndarray]]) -> None:
        """Pictures first, then the rows that vouch for them."""
        for name, array in pictures:
            write_atomic(self.root / name, png_bytes(array))
        first = min(row["index"] for row in rows)
        write_items(self.root / "items" / f"part-{first:06d}.parquet", rows)

    def _merge(self) -> None:
        """Many small parts become one file; a kill in between leaves rows twice, which is
        harmless."""
        folder = self.root / "items"
        parts = sorted(folder.glob("part-*.parquet"))
        rows = CellView(self.root, {"key": self.cell.key}).items()
        write_items(folder / "all.parquet", rows)
        for part in parts:
            part.unlink()


def write_items(path: Path, rows: list[dict[str, Any]]) -> None:
    """Item rows as one parquet file, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("id", pa.string()),
            ("index", pa.int64()),
            ("target", pa.string()),
            ("reference", pa.string()),
            ("alpha", pa.float64()),
            ("classes", pa.list_(pa.int64())),
            ("absent", pa.int64()),
            ("seconds", pa.float64()),
            ("batch", pa.int64()),
            ("error", pa.string()),
        ]
    )
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema), buffer)
    write_atomic(path, buffer.getvalue().to_pybytes())


def _batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive items of one alpha, at most ``size`` together."""
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) == size or batch[0].alpha != item.alpha):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch ran out of memory, on any device."""
    import torch

    kind = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
    text = str(error).lower()
    return isinstance(error, kind) or "out of memory" in text or "can't allocate memory" in text


def _free(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()


def _synchronise(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def open_run(root: Path) -> RunStore:
    """An existing run.

    Raises:
        UserError: there is none.
    """
    store = RunStore(root)
    store.manifest()
    return store
