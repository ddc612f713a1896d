"""The tasks: which items a task has, and the one place where the protocol's class rules apply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sisbench.config import WITH_CLASSES, EditorConfig, TaskConfig
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import Noise, ZeroNoise
from sisbench.protocol import Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from sisbench.methods.base import Method, NoiseSource
    from sisbench.methods.editor import LayoutEditor

WITH_REFERENCE = frozenset(
    {
        "transfer",
        "class_transfer",
        "shape_transfer",
        "subject_transfer",
        "interpolate_style",
        "interpolate_shape",
    }
)
WITH_OTHER_LAYOUT = ("swap", "interpolate")
"""Edits of a layout editor that take a second label map."""


def generation_of(
    task: TaskConfig, protocol: Protocol, editor: EditorConfig | None = None
) -> dict[str, Any]:
    """The protocol's fields that the images of a task depend on, as JSON has them: two protocols
    that agree in them share the images."""
    fields = {"noise", "quantise", "seed"}
    if task.name in WITH_REFERENCE or (editor and editor.edit in WITH_OTHER_LAYOUT):
        fields.add("pairs")
    if task.name in WITH_REFERENCE:
        swaps_shape = task.name in ("shape_transfer", "interpolate_shape")
        fields.add("shape_swap" if swaps_shape else "absent")
    if task.name in WITH_CLASSES and not task.classes:
        fields.add("shape_classes")
    if task.name == "subject_transfer":
        fields.add("subject_layout")
    if task.name == "sample":
        fields.add("samples")
    return {k: v for k, v in protocol.generation.items() if k in fields}


@dataclass(frozen=True)
class Item:
    """One image to be made.

    Attributes:
        id: unique within the cell, and the name of its files: the target's id, with ``~k3`` for the
            fourth sample of a label map or ``~a0.25`` for a step of an interpolation.
        target, reference: sample ids; reference is "" where the task has none.
        classes: class ids that the task means to edit; () means all.
        alpha: weight of the reference in an interpolation.
    """

    id: str
    target: str
    reference: str = ""
    classes: tuple[int, ...] = ()
    alpha: float = 0.0


@dataclass(frozen=True)
class Made:
    """What a task made of a batch.

    Attributes:
        image: (B, 3, H, W) float in [-1, 1].
        label: (B, H, W) int64, the label map that was drawn; None where it is the target's own.
        edited: (B, C) bool, the classes that were really exchanged.
        absent: (B,) int64, edited or requested classes of the target that the reference lacks.
    """

    image: Tensor
    label: Tensor | None
    edited: Tensor
    absent: Tensor


EDITABLE = frozenset({"reconstruct", "transfer", "class_transfer"})
"""Tasks that draw the label map of a layout editor in place of the target's."""


def plan_items(
    task: TaskConfig,
    protocol: Protocol,
    ids: Sequence[str],
    space: LabelSpace,
    editor: EditorConfig | None = None,
) -> list[Item]:
    """Every item of a task on a split, in the order in which images are made.

    Raises:
        UserError: an unknown class, or too few samples for references.
    """
    paired = task.name in WITH_REFERENCE or (editor and editor.edit in WITH_OTHER_LAYOUT)
    references = protocol.references(ids) if paired else {}
    given = space.indices(task.classes or ())
    candidates = given or _candidates(protocol, space)
    items = []
    for suffix, alpha in _variants(task, protocol):
        for sample_id in ids:
            classes = given
            if task.name in WITH_CLASSES and not given:
                classes = (protocol.drawn_class(sample_id, candidates),)
            if task.name == "subject_transfer" and not given:
                classes = tuple(c for c in range(len(space)) if c not in space.background)
            reference = references.get(sample_id, "")
            items.append(Item(sample_id + suffix, sample_id, reference, classes, alpha))
    return items


def _candidates(protocol: Protocol, space: LabelSpace) -> tuple[int, ...]:
    listed = protocol.shape_classes.get(space.name)
    if listed:
        return space.indices(listed)
    return tuple(c for c in range(len(space)) if c not in space.background and c != space.ignore)


def _variants(task: TaskConfig, protocol: Protocol) -> list[tuple[str, float]]:
    """(suffix of the item's id, alpha) of the images that a task makes of one target."""
    if task.name == "sample":
        return [(f"~k{k}", 0.0) for k in range(protocol.samples)]
    if task.name.startswith("interpolate"):
        return [(f"~a{alpha:g}", alpha) for alpha in task.alpha]
    return [("", 0.0)]


def noise_for(protocol: Protocol, ids: Sequence[str]) -> NoiseSource:
    """The noise that the protocol names, by item id."""
    return ZeroNoise() if protocol.noise == "zero" else Noise(ids, protocol.seed)


def make(
    method: Method,
    task: TaskConfig,
    protocol: Protocol,
    items: Sequence[Item],
    target: Batch,
    reference: Batch | None,
    editor: Editor | None = None,
) -> Made:
    """Run a task on a batch of items of one alpha.

    Args:
        items: from ``plan_items``; ``target`` and ``reference`` hold their samples in order.

    Raises:
        Unavailable: the method is unable to do the task.
        UserError: the method returned something else than (B, 3, H, W) images.
    """
    from sisbench.methods.base import present_classes

    noise = noise_for(protocol, [item.id for item in items])
    count = method.num_classes
    here = present_classes(target.label, count)
    there = here if reference is None else present_classes(reference.label, count)
    wanted = _wanted(items, here)
    edited, absent = _apply_rules(task.name, protocol, wanted, here, there)
    drawn = None if editor is None else editor(target, reference, noise)
    label = None if drawn is None else drawn.label
    if task.name == "reconstruct":
        image = method.reconstruct(target, noise, drawn)
    elif task.name == "sample":
        image = method.sample(target, noise)
    elif task.name == "mixed":
        image = method.mixed(target, noise, edited)
    else:
        if reference is None:
            raise UserError(f"task '{task.name}' needs references")
        image, swapped = _with_reference(
            method, task.name, protocol, items, target, reference, noise, edited, drawn
        )
        label = label if swapped is None else swapped
    expected = (len(items), 3, *target.label.shape[1:])
    if tuple(image.shape) != expected:
        raise UserError(f"{method.name} rendered {tuple(image.shape)}, expected {expected}")
    return Made(image, label, edited, absent)


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
        edit = self.config.edit
        if edit in WITH_OTHER_LAYOUT:
            if reference is None:
                raise UserError(f"layout editor: '{edit}' needs references")
            if edit == "swap":
                label = self.model.swap(target, reference, noise, self.classes)
            else:
                alpha = self.config.alpha
                label = self.model.interpolate(target, reference, noise, alpha, self.classes)
        elif edit == "reconstruct":
            label = self.model.reconstruct(target, noise)
        else:
            call = self.model.generate if edit == "generate" else self.model.perturb
            label = call(target, noise, self.classes)
        return replace(target, label=label, instance=None)


def make_layout(editor: LayoutEditor, protocol: Protocol, items: Sequence[Item], x: Batch) -> Made:
    """The editor's own task: label maps through the model, shown in the label space's colours."""
    import torch

    noise = noise_for(protocol, [item.id for item in items])
    label = editor.reconstruct(x, noise)
    palette = torch.tensor(editor.space.palette, dtype=torch.float32, device=label.device)
    image = palette[label].permute(0, 3, 1, 2) / 127.5 - 1
    edited = torch.zeros(len(items), len(editor.space), dtype=torch.bool)
    return Made(image, label, edited, torch.zeros(len(items), dtype=torch.int64))


def _wanted(items: Sequence[Item], here: Tensor) -> Tensor:
    """(B, C) bool of the classes that each item means to edit."""
    import torch

    wanted = torch.zeros_like(here)
    for row, item in enumerate(items):
        wanted[row, list(item.classes) if item.classes else slice(None)] = True
    return wanted


def _apply_rules(
    task: str, protocol: Protocol, wanted: Tensor, here: Tensor, there: Tensor
) -> tuple[Tensor, Tensor]:
    """(classes that are exchanged, how many of the target's wanted classes the reference lacks)."""
    absent = (wanted & here & ~there).sum(1)
    if task in ("shape_transfer", "interpolate_shape"):
        keep = here & there if protocol.shape_swap == "present_in_both" else wanted
        return wanted & keep, absent
    if task in WITH_REFERENCE and protocol.absent == "own":
        return wanted & there, absent
    return wanted, absent


def _with_reference(
    method: Method,
    task: str,
    protocol: Protocol,
    items: Sequence[Item],
    target: Batch,
    reference: Batch,
    noise: NoiseSource,
    edited: Tensor,
    drawn: Batch | None,
) -> tuple[Tensor, Tensor | None]:
    """(image, the label map that was drawn where it is not the target's)."""
    from sisbench.methods.base import Layout, present_classes

    whole = not any(item.classes for item in items)
    if task == "transfer":
        single = whole and (protocol.absent == "reference" or "class_transfer" not in method.can)
        return method.transfer(target, reference, noise, None if single else edited, drawn), None
    if task == "class_transfer":
        return method.transfer(target, reference, noise, edited, drawn), None
    if task == "subject_transfer":
        image = method.subject_transfer(target, reference, noise, edited, protocol.subject_layout)
        return image, reference.label if protocol.subject_layout == "reference" else None
    if task == "interpolate_style":
        single = whole and "class_transfer" not in method.can
        classes = None if single else edited
        return method.interpolate_style(target, reference, noise, items[0].alpha, classes), None
    if task == "interpolate_shape":
        return method.interpolate_shape(target, reference, noise, items[0].alpha, edited), None
    image = method.shape_transfer(target, reference, noise, edited)
    own, other = (
        Layout(b.label, present_classes(b.label, method.num_classes)) for b in (target, reference)
    )
    return image, own.swap(other, edited).label
