"""Making the images of one cell: decode ahead, render, quantise once, write behind."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sisbench.core.adapter_file import described
from sisbench.core.cost import operations, parameters, peak_memory, reset_peak
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.store import CellFolder, write_json
from sisbench.core.tasks import TASKS
from sisbench.data import Dataset, Sample
from sisbench.data.loader import prefetch, to_batch
from sisbench.run.items import Item
from sisbench.run.native import fit
from sisbench.run.plan import Cell, Plan, same_rendering
from sisbench.run.stored import (
    WAITING,
    Destination,
    Drawn,
    Writers,
    arithmetic_of,
    group_size,
    groups_of,
    item_row,
    merge_items,
    pending,
)
from sisbench.run.tasks import Editor, TaskResult, image_faults, run_label_task, run_task

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sisbench.core.batch import Batch
    from sisbench.core.progress import Progress
    from sisbench.methods.base import Method
    from sisbench.methods.editor import LayoutEditor


@dataclass(frozen=True)
class Cost:
    """What a batch took: seconds, the peak memory in bytes where the device tells, and the seconds
    of encoding where the method counts them apart."""

    seconds: float = 0.0
    memory: float | None = None
    encoding: float | None = None


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


def to_uint8(images: Tensor, rule: str) -> Tensor:
    """The one place where images become 8-bit: (B, 3, H, W) float in [-1, 1] -> (B, H, W, 3) uint8.

    ``round``: half up, as torchvision's save_image; ``truncate``: as the papers' code.
    """
    import torch

    scaled = (images.float() + 1) / 2 * 255
    if rule == "round":
        scaled = scaled + 0.5
    return scaled.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class TooLarge(Exception):
    """A group that does not fit into the device's memory."""

    def __init__(self, size: int) -> None:
        super().__init__(f"out of memory at batch size {size}")
        self.size = size


class CellRunner:
    """Makes the missing items of one cell: decode ahead, render, write behind. Cells of the plan
    that differ from it in the quantisation alone get theirs from the same rendering.

    On a CPU every image is computed alone, so that its bytes depend on nothing else; that costs
    nothing there. Elsewhere groups of the configured batch size are computed together: they follow
    from the plan, and a resumed cell keeps the size that it was begun with.
    """

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
        self.cells = (cell, *same_rendering(cell, plan.cells))
        dataset: Dataset = plan.datasets[cell.dataset.shown]
        self.fit = fit(method, dataset, cell.method.resize)
        self.position = {item.id: index for index, item in enumerate(cell.items)}
        self.parameters = parameters(method)
        method.on_step = progress.step
        self.profiled = not plan.config.engine.profile or share[0] > 0
        self.able = False
        self.tries = self.tried = self.made = 0
        self.size = 1 if method.device.type == "cpu" else self._begun_with()

    def _begun_with(self) -> int:
        """Images a group: as the cell was begun on this kind of device, else as configured."""
        wanted = self.plan.config.engine.batch_size
        begun = arithmetic_of(CellFolder(self.plan.config.folder / self.cell.folder))
        if begun.partition(":")[0] != self.method.device.type or group_size(begun) == wanted:
            return wanted
        self.progress.say(
            f"{self.cell.folder} was begun at batch size {group_size(begun)} and goes on so: "
            "images of two sizes differ in their last bits"
        )
        return group_size(begun)

    @property
    def arithmetic(self) -> str:
        """What the last bits of an image depend on beside its content."""
        return f"{self.method.device.type}:{self.size}"

    def run(self, tries: int = 0) -> str:
        """Work off what is pending; safe to be killed at any moment. Returns why the method turned
        out to be unable to do the task, "" where it is able to.

        Args:
            tries: stop at the first image that is made, or once so many were tried, far apart from
                each other; 0 works off all. ``tried`` and ``made`` count.
        """
        self.tries = tries
        while True:
            try:
                self._run()
            except Unavailable as error:
                return error.message
            except TooLarge as error:
                _free(self.method.device)
                self.size = max(1, error.size // 2)
                self.progress.say(f"{error}: the cell is made at {self.size}")
                continue
            return ""

    def _run(self) -> None:
        reads = "; ".join(filter(None, (self.fit.reads, self.method.how_encoded())))
        said = {k: v for k, v in (("reads", reads), ("resized", self.fit.resized)) if v}
        about = {"method": self.method.describe() | said, "arithmetic": self.arithmetic}
        root = self.plan.config.folder
        for cell in self.cells:
            write_json(root / cell.folder / "cell.json", {"key": cell.key, **about})
        self.destinations = [self._destination(cell) for cell in self.cells]
        own = self.destinations[0].missing
        mine = groups_of(self.cell.items, self.size)[self.share[0] :: self.share[1]]
        groups = [group for group in mine if any(item.id in own for item in group)]
        if self.tries:
            groups = spaced(groups, self.tries)
        wanted = [[x for i in g for x in (i.target, i.reference) if x] for g in groups]
        label = f"{self.cell.method.shown} {self.cell.task.slug} on {self.cell.dataset.shown}"
        if len(self.plan.protocols) > 1:
            label += f" ({', '.join(p.split('@')[0] for p in self.cell.protocols)})"
        total = sum(map(len, mine))
        left = sum(item.id in own for group in groups for item in group)
        loaded = prefetch(self.fit.dataset, wanted, self.plan.config.engine.workers)
        try:
            with (
                self.progress.bar(label, total, total - left) as advance,
                self._writers() as writers,
            ):
                for group in groups:
                    if self.tries and (self.made or self.tried >= self.tries):
                        break
                    with self.timer.stage("decode"):
                        samples = next(loaded)
                    batches = self._draw(group, samples)
                    with self.timer.stage("write"):
                        for destination, drawn in batches:
                            writers.write(destination, drawn)
                    count = sum(item.id in own for item in group)
                    self.timer.images += count
                    advance(count)
                    self.progress.count(sum(len(drawn) for _, drawn in batches))
                with self.timer.stage("write"):
                    writers.finish()
        finally:
            for destination in self.destinations:
                destination.close()
        if self.share == (0, 1):
            for destination in self.destinations:
                merge_items(destination.folder)

    def _writers(self) -> Writers:
        """As many threads as decode; on a CPU one, beside which the network has the other cores."""
        threads = 1 if self.method.device.type == "cpu" else self.plan.config.engine.workers
        waiting = max(WAITING * self.size * len(self.cells), 2 * threads)
        return Writers(max(1, threads), waiting)

    def _destination(self, cell: Cell) -> Destination:
        root = self.plan.config.folder
        missing = frozenset(i.id for i in pending(root, cell, self.share, self.size))
        return Destination(root / cell.folder, cell.key, cell.protocol.quantise, missing)

    def _draw(
        self, group: Sequence[Item], samples: dict[str, Sample | UserError]
    ) -> list[tuple[Destination, list[Drawn]]]:
        """What of one group goes where."""
        drawn: dict[str, list[Drawn]] = {}
        usable: list[Item] = []
        for item in group:
            faults = [samples[x] for x in (item.target, item.reference) if x]
            fault = next((f for f in faults if isinstance(f, UserError)), None)
            if fault is None:
                usable.append(item)
            else:
                failed = Drawn(self._row(item, error=fault.message))
                drawn[item.id] = [failed] * len(self.destinations)
        counted = self._operations(usable, samples)
        for part, result, cost in self._render(usable, samples):
            if isinstance(result, str):
                for item in part:
                    failed = Drawn(self._row(item, error=result))
                    drawn[item.id] = [failed] * len(self.destinations)
            else:
                drawn |= self._quantised(part, result, cost, counted)
        self.tried += len(usable)
        self.made += sum(ones[0].image is not None for ones in drawn.values())
        return [
            (destination, own)
            for k, destination in enumerate(self.destinations)
            if (own := [drawn[i.id][k] for i in group if i.id in destination.missing])
        ]

    def _quantised(
        self, part: Sequence[Item], result: TaskResult, cost: Cost, counted: Mapping[str, float]
    ) -> dict[str, list[Drawn]]:
        """By item id, what each destination gets of a rendered part."""
        wrong = image_faults(result.image)
        result = self.fit.kept(result)
        rules = {d.quantise for d in self.destinations}
        eight_bit = {rule: to_uint8(result.image, rule).cpu().numpy() for rule in rules}
        edited, absent = result.edited.cpu(), result.absent.cpu().tolist()
        labels = None if result.label is None else result.label.cpu().numpy()
        drawn = {}
        for k, item in enumerate(part):
            if wrong[k]:
                drawn[item.id] = [Drawn(self._row(item, error=wrong[k]))] * len(self.destinations)
                continue
            row = self._row(item, edited[k].nonzero()[:, 0].tolist(), absent[k], cost, len(part))
            row |= {"flops": counted.get(item.id)}
            label = None if labels is None else labels[k]
            drawn[item.id] = [
                Drawn(row, eight_bit[d.quantise][k], label) for d in self.destinations
            ]
        return drawn

    def _operations(
        self, items: Sequence[Item], samples: dict[str, Sample | UserError]
    ) -> dict[str, float]:
        """Operations of the cell's first image by its id, where profiling is on."""
        if self.profiled or not items:
            return {}
        self.profiled = True
        try:
            counted = operations(lambda: self._forward(items[:1], samples))
            if self.method.encoding_cost is not None:  # apart, and done now: the rendering alone
                counted = operations(lambda: self._forward(items[:1], samples))
            return {items[0].id: counted}
        except Exception as error:  # a method of anybody's: the run itself says what it raised
            self.progress.say(f"not profiled: {described(error)}")
            return {}

    def _render(
        self, items: Sequence[Item], samples: dict[str, Sample | UserError]
    ) -> Iterator[tuple[Sequence[Item], TaskResult | str, Cost]]:
        """(items, what came of them or the error, its cost); a group that raises is tried in
        halves, so that one bad item costs itself alone.

        Raises:
            Unavailable: the method is unable to do the task, before its first image.
            TooLarge: the group does not fit into the device's memory.
        """
        if not items:
            return
        try:
            result, cost = self._forward(items, samples)
            self.able = True
        except Exception as error:  # a method of anybody's may raise anything
            if isinstance(error, Unavailable) and not self.able:
                raise
            if self.size > 1 and is_out_of_memory(error):
                raise TooLarge(self.size) from error
            if len(items) == 1:
                yield items, described(error), Cost()
                return
            half = (len(items) + 1) // 2
            yield from self._render(items[:half], samples)
            yield from self._render(items[half:], samples)
            return
        yield items, result, cost

    def _forward(
        self, items: Sequence[Item], samples: dict[str, Sample | UserError]
    ) -> tuple[TaskResult, Cost]:
        space, device = self.fit.dataset.space, self.method.device

        def batch(ids: list[str]) -> Any:
            return to_batch([s for i in ids if isinstance(s := samples[i], Sample)], space).to(
                device
            )

        target = batch([i.target for i in items])
        reference = batch([i.reference for i in items]) if items[0].reference else None
        with self.timer.stage("network"):
            reset_peak(device)
            self.method.encoding_cost = None
            start = time.perf_counter()
            result = self._call(items, target, reference)
            _synchronise(device)
            seconds = time.perf_counter() - start
        cost = self.method.encoding_cost
        if cost is None:
            return result, Cost(seconds, peak_memory(device))
        return result, Cost(max(0.0, seconds - cost.spent), peak_memory(device), cost.whole)

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
        return item_row(item, self.position[item.id], classes, absent, error) | {
            "seconds": cost.seconds / max(batch, 1),
            "encode_seconds": None if cost.encoding is None else cost.encoding / max(batch, 1),
            "batch": batch,
            "arithmetic": self.arithmetic,
            "peak_memory": cost.memory,
            "parameters": self.parameters,
        }


def spaced(groups: Sequence[list[Item]], count: int) -> list[list[Item]]:
    """``count`` of the groups, evenly spaced from the first on; all where there are no more."""
    count = min(count, len(groups))
    return [groups[k * len(groups) // count] for k in range(count)]


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
