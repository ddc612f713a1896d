"""Filling a cell: by a method's network, or with images that were made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from sisbench.core.errors import UserError
from sisbench.core.label_maps import present_classes
from sisbench.core.log import MethodEntry
from sisbench.core.store import write_json
from sisbench.core.tasks import TASKS, Edit
from sisbench.data.elsewhere import counted, read_at, resize_basis, shown, sizes_of, some
from sisbench.data.loader import load_or_error, to_batch
from sisbench.run.elsewhere import Images
from sisbench.run.images import CellRunner
from sisbench.run.items import Item, noise_of
from sisbench.run.stored import (
    Destination,
    Drawn,
    Writers,
    groups_of,
    item_row,
    merge_items,
    pending,
)
from sisbench.run.tasks import Exchange, wanted_classes

if TYPE_CHECKING:
    import numpy as np

    from sisbench.core.progress import Progress
    from sisbench.data import Sample
    from sisbench.methods.base import Method
    from sisbench.methods.editor import LayoutEditor
    from sisbench.run.images import Timer
    from sisbench.run.plan import Cell, Plan
    from sisbench.run.tasks import Editor

_GROUP = 64
"""Images whose rows are written together."""


def fill_cell(
    plan: Plan,
    cell: Cell,
    source: Method | LayoutEditor | Images,
    editor: Editor | None,
    timer: Timer,
    progress: Progress,
    share: tuple[int, int] = (0, 1),
) -> str:
    """Bring the pending images of a cell; returns why that is impossible, "" where it is not."""
    if isinstance(source, Images):
        return ImageImporter(plan, cell, source, timer, progress, share).run()
    return CellRunner(plan, cell, source, editor, timer, progress, share).run()


class ImageImporter:
    """Brings the missing items of one cell from a folder of images: each is decoded strictly and
    kept as 8-bit PNG, with the very values of its file unless it had to be resized."""

    def __init__(
        self,
        plan: Plan,
        cell: Cell,
        source: Images,
        timer: Timer,
        progress: Progress,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        assert cell.found is not None  # a cell of images made elsewhere
        self.plan, self.cell, self.found = plan, cell, cell.found
        self.timer, self.progress, self.share = timer, progress, share
        self.by = source.options.resize
        self.dataset = plan.datasets[cell.dataset.shown]
        self.root = plan.config.folder / cell.folder
        self.position = {item.id: index for index, item in enumerate(cell.items)}

    def run(self) -> str:
        """Bring what is pending; safe to be killed at any moment. Returns why images are refused,
        "" where they are not."""
        sizes = sizes_of(self.found.files.values())
        size = (self.dataset.size[0], self.dataset.size[1])
        if self.by is None and set(sizes) - {size}:
            return (
                f"images of {counted(sizes)}, the data set is opened at {shown(size)} "
                "(set its 'size', or name a filter: 'resize')"
            )
        name = f"{self.cell.method.shown} {self.cell.task.slug}"
        for remark in self.found.remarks:
            self.progress.say(f"{name}: {remark}")
        if self.found.unused:
            files = f"{len(self.found.unused)} files are no item's: {some(self.found.unused)}"
            self.progress.say(f"{name}: {files}")
        resized = resize_basis(sizes, size, self.by)
        about = MethodEntry(label="", title="", size=size, resized=resized).written()
        own = {k: v for k, v in about.items() if k not in ("label", "title")}
        write_json(self.root / "cell.json", {"key": self.cell.key, "method": own})
        self._bring(f"{name} on {self.cell.dataset.shown}", size)
        return ""

    def _bring(self, label: str, size: tuple[int, int]) -> None:
        missing = pending(self.plan.config.folder, self.cell, self.share)
        names = frozenset(item.id for item in missing)
        destination = Destination(self.root, self.cell.key, "", names)
        total = len(self.cell.items[self.share[0] :: self.share[1]])
        workers = max(1, self.plan.config.engine.workers)
        try:
            with (
                self.progress.bar(label, total, total - len(missing)) as advance,
                ThreadPoolExecutor(workers) as pool,
                Writers(workers, 2 * workers) as writers,
            ):
                for group in groups_of(missing, _GROUP):
                    with self.timer.stage("decode"):
                        edits = self._edits(group)
                        args = [(item, size, edit) for item, edit in zip(group, edits, strict=True)]
                        drawn = list(pool.map(lambda a: self._read(*a), args))
                    with self.timer.stage("write"):
                        writers.write(destination, drawn)
                    self.timer.images += len(group)
                    advance(len(group))
                    self.progress.count(len(group))
                with self.timer.stage("write"):
                    writers.finish()
        finally:
            destination.close()
        if self.share == (0, 1):
            merge_items(self.root)

    def _read(self, item: Item, size: tuple[int, int], edit: _Edited | UserError) -> Drawn:
        """One item as it is to be stored."""
        if isinstance(edit, UserError):
            return Drawn(item_row(item, self.position[item.id], error=edit.message))
        try:
            image = read_at(self.found.files[item.id], size, self.by)
        except UserError as error:
            return Drawn(item_row(item, self.position[item.id], error=error.message))
        classes, absent, label = edit
        return Drawn(item_row(item, self.position[item.id], classes, absent), image, label)

    def _edits(self, group: Sequence[Item]) -> list[_Edited | UserError]:
        """What the task edits of each item, from its label maps where it has a reference."""
        if not TASKS[self.cell.task.name].reference:
            every = range(len(self.dataset.space))
            return [(list(item.classes or every), 0, None) for item in group]
        ids = {i for item in group for i in (item.target, item.reference)}
        samples = {i: load_or_error(self.dataset, i) for i in sorted(ids)}
        return [self._edit(item, samples) for item in group]

    def _edit(self, item: Item, samples: dict[str, Sample | UserError]) -> _Edited | UserError:
        target, reference = samples[item.target], samples[item.reference]
        if isinstance(target, UserError):
            return target
        if isinstance(reference, UserError):
            return reference
        task, protocol, space = TASKS[self.cell.task.name], self.cell.protocol, self.dataset.space
        x, r = to_batch([target], space), to_batch([reference], space)
        here, there = (present_classes(b.label, len(space)) for b in (x, r))
        wanted = wanted_classes([item], here)
        exchange = Exchange(task, protocol, wanted, here, not item.classes)
        if "shape_swap" in task.fields:
            exchange.shapes(there)
        elif "absent" in task.fields:
            exchange.styles(there)
        noise = noise_of(task.name, protocol, [item])
        layout = protocol.subject_layout
        drawn = task.label(Edit(x, noise, r, exchange.edited, item.alpha, layout))
        edited = exchange.edited[0].nonzero()[:, 0].tolist()
        label = None if drawn is None else drawn[0].numpy()
        return edited, int(exchange.absent[0]), label


_Edited = tuple[list[int], int, "np.ndarray | None"]
"""(classes that are edited, how many of them the reference lacks, (H, W) int64 label map drawn)."""
