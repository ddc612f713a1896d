"""Running a task on a batch: the one place where the protocol's class rules apply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sisbench.config import EditorConfig, TaskConfig
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_maps import present_classes
from sisbench.core.layout_edits import LAYOUT_EDITS
from sisbench.core.tasks import TASKS, Edit, Task
from sisbench.protocol import Protocol
from sisbench.run.items import Item, noise_of

if TYPE_CHECKING:
    from torch import Tensor

    from sisbench.core.noise import NoiseSource
    from sisbench.methods.base import Method
    from sisbench.methods.editor import LayoutEditor

RANGE = 1.001
"""Largest absolute value of a photograph in [-1, 1], with what arithmetic leaves."""


@dataclass(frozen=True)
class TaskResult:
    """What a task made of a batch.

    Attributes:
        image: (B, 3, H, W) float in [-1, 1].
        label: (B, H, W) int64, the label map that was drawn; None where it is the target's own.
        edited: (B, C) bool, the classes that were really exchanged.
        absent: (B,) int64, wanted classes of the target that the reference lacks: its shapes lack
            them in a shape task, its encoded style in a style task.
    """

    image: Tensor
    label: Tensor | None
    edited: Tensor
    absent: Tensor


class Exchange:
    """The classes of each item that are exchanged: what is wanted, under the protocol's rules.

    Args:
        task, protocol: which rules apply; a rule acts where its field is one of the task's.
        wanted: (B, C) bool, what the items ask for.
        here: (B, C) bool, what the target's label map holds.
        whole: whether the items name no classes.
        closed: how classes come in groups (``Method.closed``): a group counts as wanted, or as
            held, where any of its classes is, so that no rule cuts it in two.
    """

    def __init__(
        self,
        task: Task,
        protocol: Protocol,
        wanted: Tensor,
        here: Tensor,
        whole: bool,
        closed: Callable[[Tensor], Tensor] = lambda mask: mask,
    ) -> None:
        self.task, self.protocol, self.closed = task, protocol, closed
        self.wanted, self.here, self.whole = closed(wanted), closed(here), whole
        self.edited, self.absent = self.wanted, wanted.new_zeros(len(wanted)).long()

    def shapes(self, there: Tensor) -> Tensor:
        """(B, C) bool, the classes whose shape is swapped; ``there`` is what the reference's label
        map holds."""
        there = self.closed(there)
        self.absent = (self.wanted & self.here & ~there).sum(1)
        if self.protocol.shape_swap == "present_in_both":
            self.edited = self.wanted & self.here & there
        return self.edited

    def styles(self, there: Tensor, per_class: bool = True) -> Tensor | None:
        """(B, C) bool, the classes whose style is exchanged, or None for the whole style.

        Args:
            there: (B, C) bool, what the method found in the reference's photograph.
            per_class: whether single classes can be exchanged; one style vector has none.
        """
        keeps_own = self.protocol.absent == "own"
        there = self.closed(there)
        self.absent = (self.wanted & self.here & ~there).sum(1)
        if self.whole and (not keeps_own or not per_class):
            return None
        if keeps_own:
            self.edited = self.wanted & there
        return self.edited


def run_task(
    method: Method,
    task: TaskConfig,
    protocol: Protocol,
    items: Sequence[Item],
    target: Batch,
    reference: Batch | None,
    editor: Editor | None = None,
) -> TaskResult:
    """Run a task of a method on a batch of items of one alpha.

    Args:
        items: from ``plan_items``; ``target`` and ``reference`` hold their samples in order.

    Raises:
        Unavailable: the method is unable to do the task.
        UserError: the method returned something else than (B, 3, H, W) floating-point images.
    """
    declared = TASKS[task.name]
    if declared.reference and reference is None:
        raise UserError(f"task '{task.name}' needs references")
    noise = noise_of(task.name, protocol, items)
    here = present_classes(target.label, method.num_classes)
    whole = not any(item.classes for item in items)
    wanted = wanted_classes(items, here)
    exchange = Exchange(declared, protocol, wanted, here, whole, method.closed)
    edit = Edit(
        target,
        noise,
        reference,
        _classes(exchange, reference, method),
        items[0].alpha,
        protocol.subject_layout,
        None if editor is None else editor(target, reference, noise),
    )
    image = declared.call(method, edit)
    size = method.size if method.stored_labels else target.label.shape[1:]
    check_images(method.name, image, (len(items), 3, *size))
    label = declared.label(edit)
    if label is None and edit.drawn is not None:
        label = edit.drawn.label
    return TaskResult(image, label, exchange.edited, exchange.absent)


def _classes(exchange: Exchange, reference: Batch | None, method: Method) -> Any:
    """What the task is called with: a mask, or the rule that asks the reference's style."""
    if reference is not None and "shape_swap" in exchange.task.fields:
        return exchange.shapes(present_classes(reference.label, exchange.wanted.shape[1]))
    if "absent" in exchange.task.fields:
        return lambda style: exchange.styles(style.present, "class_transfer" in method.can)
    return exchange.wanted


def wanted_classes(items: Sequence[Item], here: Tensor) -> Tensor:
    """(B, C) bool of the classes that each item means to edit."""
    import torch

    wanted = torch.zeros_like(here)
    for row, item in enumerate(items):
        wanted[row, list(item.classes) if item.classes else slice(None)] = True
    return wanted


def check_images(name: str, image: Tensor, expected: tuple[int, ...]) -> None:
    """Refuse what is no batch of images at all.

    Raises:
        UserError: another shape than ``expected``, or no floating-point values.
    """
    if tuple(image.shape) != expected:
        raise UserError(f"{name} rendered {tuple(image.shape)}, expected {expected}")
    if not image.is_floating_point():
        raise UserError(f"{name} rendered {image.dtype}, expected floating point in [-1, 1]")


def image_faults(image: Tensor) -> list[str]:
    """What is wrong with each of (B, 3, H, W) images, "" where it is finite and in [-1, 1]."""
    flat = image.flatten(1)
    low, high = flat.amin(1).cpu().tolist(), flat.amax(1).cpu().tolist()
    finite = flat.isfinite().all(1).cpu().tolist()
    faults = []
    for a, b, whole in zip(low, high, finite, strict=True):
        if not whole:
            faults.append("the method rendered non-finite values")
        elif max(-a, b) > RANGE:
            faults.append(f"the method rendered values in [{a:.3g}, {b:.3g}], expected [-1, 1]")
        else:
            faults.append("")
    return faults


class Editor:
    """A loaded layout editor with what the configuration has it do."""

    def __init__(self, model: LayoutEditor, config: EditorConfig) -> None:
        self.model, self.config = model, config
        self.classes = None if config.classes is None else model.space.indices(config.classes)

    def __call__(self, target: Batch, reference: Batch | None, noise: NoiseSource) -> Batch:
        """``target`` with edited label maps.

        Raises:
            UserError: the edit needs references and the task brings none.
        """
        edit = LAYOUT_EDITS[self.config.edit]
        if edit.reference and reference is None:
            raise UserError(f"layout editor: '{edit.name}' needs references")
        asked = Edit(target, noise, reference, self.classes, self.config.alpha)
        return replace(target, label=edit.call(self.model, asked), instance=None)


def run_label_task(
    editor: LayoutEditor, task: TaskConfig, protocol: Protocol, items: Sequence[Item], x: Batch
) -> TaskResult:
    """An editor's own task: its label maps, shown in the label space's colours."""
    import torch

    label = TASKS[task.name].call(editor, Edit(x, noise_of(task.name, protocol, items)))
    palette = torch.tensor(editor.space.palette, dtype=torch.float32, device=label.device)
    image = palette[label].permute(0, 3, 1, 2) / 127.5 - 1  # (B, H, W, 3) -> (B, 3, H, W)
    edited = torch.zeros(len(items), len(editor.space), dtype=torch.bool)
    return TaskResult(image, label, edited, torch.zeros(len(items), dtype=torch.int64))
