"""The items of a task, and what of a protocol their images depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sisbench.config import EditorConfig, TaskConfig
from sisbench.core.label_space import LabelSpace
from sisbench.core.layout_edits import LAYOUT_EDITS
from sisbench.core.noise import Noise, ZeroNoise
from sisbench.core.tasks import COMMON_FIELDS, TASKS
from sisbench.protocol import Protocol

if TYPE_CHECKING:
    from sisbench.core.noise import NoiseSource


def generation_of(
    task: TaskConfig, protocol: Protocol, editor: EditorConfig | None = None
) -> dict[str, Any]:
    """The protocol's fields that the images of a task depend on, as JSON has them: two protocols
    that agree in them share the images."""
    fields = COMMON_FIELDS | TASKS[task.name].fields
    if editor and LAYOUT_EDITS[editor.edit].reference:
        fields |= {"pairs"}
    if task.classes:
        fields -= {"shape_classes"}  # nothing is drawn from them
    if "absent" in fields and protocol.absent == "own":
        fields |= {"absent_by"}
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
    declared = TASKS[task.name]
    paired = declared.reference or (editor and LAYOUT_EDITS[editor.edit].reference)
    references = protocol.references(ids) if paired else {}
    given = space.indices(task.classes or ())
    candidates = given or _candidates(protocol, space)
    items = []
    for suffix, alpha in _variants(task, protocol):
        for sample_id in ids:
            classes = given
            if declared.classes == "drawn" and not given:
                classes = (protocol.drawn_class(sample_id, candidates),)
            if declared.classes == "subject" and not given:
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
    variants = TASKS[task.name].variants
    if variants == "samples":
        return [(f"~k{k}", 0.0) for k in range(protocol.samples)]
    if variants == "alphas":
        return [(f"~a{alpha:g}", alpha) for alpha in task.alpha]
    return [("", 0.0)]


def noise_of(task: str, protocol: Protocol, items: Sequence[Item]) -> NoiseSource:
    """The noise that the protocol names. It belongs to the target, so that the steps of an
    interpolation share it; each sample of a label map has its own."""
    if protocol.noise == "zero":
        return ZeroNoise()
    own = TASKS[task].variants == "samples"
    return Noise([item.id if own else item.target for item in items], protocol.seed)
