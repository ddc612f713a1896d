"""Making the images of one cell: decode ahead, render, quantise once, write behind."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from sisbench.core.adapter_file import described
from sisbench.core.cost import operations, parameters, peak_memory, reset_peak
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.store import CellFolder, write_atomic, write_json
from sisbench.core.tasks import TASKS
from sisbench.data import Dataset, Sample
from sisbench.data.loader import prefetch, to_batch
from sisbench.data.prepare import png_bytes
from sisbench.run.items import Item
from sisbench.run.plan import Cell, Plan, same_rendering
from sisbench.run.tasks import Editor, TaskResult, image_faults, run_label_task, run_task

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sisbench.core.batch import Batch
    from sisbench.core.progress import Progress
    from sisbench.methods.base import Method
    from sisbench.methods.editor import LayoutEditor

HOLE_BYTE = 255


@dataclass(frozen=True)
class Cost:
    """What a batch took: seconds, and the peak memory in bytes where the device tells."""

    seconds: float = 0.0
    memory: float | None = None


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
            self.add({name: time.perf_counter() - start})

    def add(self, seconds: Mapping[str, float], images: int = 0) -> None:
        """Count further time and images in."""
        for name, more in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + more
        self.images += images


def pending(root: Path, cell: Cell, share: tuple[int, int] = (0, 1)) -> list[Item]:
    """Items without an image yet, in order; those that failed before are tried again.

    Args:
        share: (k, n) takes the items whose position in the cell is k modulo n.
    """
    done = finished(CellFolder(root / cell.folder))
    k, n = share
    return [item for item in cell.items[k::n] if item.id not in done]


def finished(view: CellFolder) -> set[str]:
    """Ids of the items that have their image."""
    return {
        row["id"]
        for row in view.items()
        if not row["error"] and view.image_path(row["id"]).is_file()
    }


def to_uint8(images: Tensor, rule: str) -> Tensor:
    """The one place where images become 8-bit: (B, 3, H, W) float in [-1, 1] -> (B, H, W, 3) uint8.

    ``round``: half up, as torchvision's save_image; ``truncate``: as the papers' code.
    """
    import torch

    scaled = (images.float() + 1) / 2 * 255
    if rule == "round":
        scaled = scaled + 0.5
    return scaled.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@dataclass(frozen=True)
class Target:
    """Where images go: the cell's folder, its rule of quantisation, the items that it lacks."""

    root: Path
    key: str
    quantise: str
    missing: frozenset[str]


Picture: TypeAlias = "tuple[Target, str, np.ndarray]"
"""Where to, path in the cell's folder, pixels."""


class CellRunner:
    """Makes the missing items of one cell: decode ahead, render, write behind. Cells of the plan
    that differ from it in the quantisation alone get theirs from the same rendering."""

    def __init__(
        self,
        plan: Plan,
        cell: Cell,
        method: Method | LayoutEditor,
        editor: Editor | None,
        timer: Timer,
        progress: Progress,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.plan, self.cell, self.method, self.editor = plan, cell, method, editor
        self.timer, self.progress, self.share = timer, progress, share
        self.targets = [self._target(c) for c in (cell, *same_rendering(cell, plan.cells))]
        self.dataset: Dataset = plan.datasets[cell.dataset.shown]
        self.batch_size = plan.config.engine.batch_size
        self.position = {item.id: index for index, item in enumerate(cell.items)}
        self.parameters = parameters(method)
        self.profiled = not plan.config.engine.profile or share[0] > 0
        self.able = False

    def run(self) -> str:
        """Work off what is pending; safe to be killed at any moment. Returns why the method turned
        out to be unable to do the task, "" where it is able to."""
        try:
            self._run()
        except Unavailable as error:
            return error.message
        return ""

    def _run(self) -> None:
        about = self.method.describe()
        for target in self.targets:
            write_json(target.root / "cell.json", {"key": target.key, "method": about})
        missing = pending(self.plan.config.folder, self.cell, self.share)
        groups = list(_batches(missing, self.batch_size))
        wanted = [[x for i in g for x in (i.target, i.reference) if x] for g in groups]
        label = f"{self.cell.method.shown} {self.cell.task.slug} on {self.cell.dataset.shown}"
        if len(self.plan.protocols) > 1:
            label += f" ({', '.join(p.split('@')[0] for p in self.cell.protocols)})"
        total = len(self.cell.items[self.share[0] :: self.share[1]])
        loaded = prefetch(self.dataset, wanted, self.plan.config.engine.workers)
        writes: list[Future[None]] = []
        with (
            self.progress.bar(label, total, total - len(missing)) as advance,
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
                self.progress.count(sum(i.id in t.missing for i in group for t in self.targets))
            with self.timer.stage("write"):
                for future in writes:
                    future.result()
        if self.share == (0, 1):
            for target in self.targets:
                merge_items(target.root)

    def _target(self, cell: Cell) -> Target:
        root = self.plan.config.folder
        missing = frozenset(item.id for item in pending(root, cell, self.share))
        return Target(root / cell.folder, cell.key, cell.protocol.quantise, missing)

    def _make(
        self, group: Sequence[Item], samples: dict[str, Sample | UserError]
    ) -> tuple[list[dict[str, Any]], list[Picture]]:
        """(item rows, pictures to write) of one batch."""
        rows: list[dict[str, Any]] = []
        pictures: list[Picture] = []
        usable = []
        for item in group:
            faults = [samples[x] for x in (item.target, item.reference) if x]
            fault = next((f for f in faults if isinstance(f, UserError)), None)
            if fault is None:
                usable.append(item)
            else:
                rows.append(self._row(item, error=fault.message))
        counted = self._operations(usable, samples)
        for part, result, cost in self._render(usable, samples):
            if isinstance(result, str):
                rows.extend(self._row(item, error=result) for item in part)
                continue
            wrong = image_faults(result.image)
            eight_bit = {
                t: to_uint8(result.image, t.quantise).cpu().numpy()
                for t in self.targets
                if any(item.id in t.missing for item in part)
            }
            edited, absent = result.edited.cpu(), result.absent.cpu().tolist()
            label = None if result.label is None else result.label.cpu().numpy()
            for k, item in enumerate(part):
                if wrong[k]:
                    rows.append(self._row(item, error=wrong[k]))
                    continue
                classes = edited[k].nonzero()[:, 0].tolist()
                row = self._row(item, classes, absent[k], cost, len(part))
                rows.append(row | {"flops": counted.get(item.id)})
                wanted = [t for t in eight_bit if item.id in t.missing]
                pictures += [(t, f"images/{item.id}.png", eight_bit[t][k]) for t in wanted]
                if label is not None:
                    byte = np.where(label[k] < 0, HOLE_BYTE, label[k]).astype(np.uint8)
                    pictures += [(t, f"labels/{item.id}.png", byte) for t in wanted]
        return rows, pictures

    def _operations(
        self, items: Sequence[Item], samples: dict[str, Sample | UserError]
    ) -> dict[str, float]:
        """Operations of the cell's first image by its id, where profiling is on."""
        if self.profiled or not items:
            return {}
        self.profiled = True
        try:
            return {items[0].id: operations(lambda: self._forward(items[:1], samples))}
        except Exception as error:  # the image itself is made, or fails, on its own
            self.progress.say(f"not profiled: {described(error)}")
            return {}

    def _render(
        self, items: Sequence[Item], samples: dict[str, Sample | UserError]
    ) -> Iterator[tuple[Sequence[Item], TaskResult | str, Cost]]:
        """(items, what came of them or the error, its cost); halves a batch that does not
        fit.

        Raises:
            Unavailable: the method is unable to do the task, before its first image.
        """
        if not items:
            return
        try:
            result, cost = self._forward(items, samples)
            self.able = True
        except Exception as error:  # a method is anybody's: it costs itself one item
            if isinstance(error, Unavailable) and not self.able:
                raise
            if len(items) == 1:
                yield items, described(error), Cost()
                return
            if is_out_of_memory(error):
                _free(self.method.device)
                self.progress.say(f"out of memory at batch size {len(items)}: halved")
            half = (len(items) + 1) // 2
            yield from self._render(items[:half], samples)
            yield from self._render(items[half:], samples)
            return
        yield items, result, cost

    def _forward(
        self, items: Sequence[Item], samples: dict[str, Sample | UserError]
    ) -> tuple[TaskResult, Cost]:
        space, device = self.dataset.space, self.method.device

        def batch(ids: list[str]) -> Any:
            return to_batch([s for i in ids if isinstance(s := samples[i], Sample)], space).to(
                device
            )

        target = batch([i.target for i in items])
        reference = batch([i.reference for i in items]) if items[0].reference else None
        with self.timer.stage("network"):
            reset_peak(device)
            start = time.perf_counter()
            result = self._call(items, target, reference)
            _synchronise(device)
            seconds = time.perf_counter() - start
        return result, Cost(seconds, peak_memory(device))

    def _call(self, items: Sequence[Item], target: Batch, reference: Batch | None) -> TaskResult:
        task, protocol = self.cell.task, self.cell.protocol
        if TASKS[task.name].by == "editor":
            return run_label_task(self.method, task, protocol, items, target)  # type: ignore[arg-type]
        return run_task(self.method, task, protocol, items, target, reference, self.editor)  # type: ignore[arg-type]

    def _row(
        self,
        item: Item,
        classes: Sequence[int] = (),
        absent: int = 0,
        cost: Cost = Cost(),
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
            "seconds": cost.seconds / max(batch, 1),
            "batch": batch,
            "peak_memory": cost.memory,
            "parameters": self.parameters,
            "error": error,
        }

    def _write(self, rows: list[dict[str, Any]], pictures: list[Picture]) -> None:
        """Pictures first, then the rows that vouch for them."""
        for target, name, array in pictures:
            write_atomic(target.root / name, png_bytes(array))
        for target in self.targets:
            own = [row for row in rows if row["id"] in target.missing]
            if own:
                first = min(row["index"] for row in own)
                write_items(target.root / "items" / f"part-{first:06d}.parquet", own)


def merge_items(root: Path) -> None:
    """The item rows of a cell's folder: many small parts become one file. A kill in between leaves
    rows twice, which is harmless."""
    folder = root / "items"
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        return
    write_items(folder / "all.parquet", CellFolder(root).items())
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
            ("peak_memory", pa.float64()),
            ("parameters", pa.float64()),
            ("flops", pa.float64()),
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
    return (
        isinstance(error, (kind, MemoryError))
        or "out of memory" in text
        or "can't allocate memory" in text
    )


def _free(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()


def _synchronise(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
