"""The tasks as declared objects: what each needs, what its images depend on, and the call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.label_maps import swap_labels

if TYPE_CHECKING:
    from torch import Tensor

    from sisbench.core.batch import Batch
    from sisbench.core.noise import NoiseSource

Capability = Literal["style", "per_class", "prior", "layout_lerp", "label_model"]

MISSING: dict[Capability, str] = {
    "style": "no encoder: the style of a photograph cannot be read",
    "per_class": "one global style vector: single classes cannot be exchanged",
    "prior": "no prior to draw styles from",
    "layout_lerp": "a raw label map cannot be interpolated; the method has no layout embedding",
    "label_model": "the layout editor does not reconstruct label maps",
}
"""What a method, or a layout editor, may be capable of, with the reason where it is not."""


@dataclass(frozen=True)
class Edit:
    """What a task is called with, for one batch.

    Attributes:
        target: the samples whose label maps are drawn.
        noise: the noise of the batch.
        reference: the samples that styles or shapes are taken from, in the target's order.
        classes: the classes that are edited: (B, C) bool, ids, None for all, or a function from
            the reference's encoded style to (B, C) bool or None.
        alpha: weight of the reference in an interpolation, in [0, 1].
        subject_layout: whose label map a subject transfer draws: "target" or "reference".
        drawn: the target with the label maps of a layout editor, to draw in place of its own.
    """

    target: Batch
    noise: NoiseSource
    reference: Batch | None = None
    classes: Tensor | Sequence[int] | Callable[[Any], Tensor | None] | None = None
    alpha: float = 0.0
    subject_layout: str = "target"
    drawn: Batch | None = None

    @property
    def other(self) -> Batch:
        """The reference.

        Raises:
            UserError: there is none.
        """
        if self.reference is None:
            raise UserError("the task needs references, and got none")
        return self.reference


class DoesTasks(Protocol):
    """What a task calls: the algebra of ``methods.base.Method``, by its signatures."""

    def reconstruct(self, batch: Any, noise: Any, drawn: Any = None) -> Tensor: ...
    def transfer(self, x: Any, r: Any, noise: Any, classes: Any, drawn: Any, /) -> Tensor: ...
    def shape_transfer(self, x: Any, r: Any, noise: Any, classes: Any, /) -> Tensor: ...
    def subject_transfer(self, x: Any, r: Any, noise: Any, c: Any, layout: str, /) -> Tensor: ...
    def sample(self, x: Any, noise: Any, /) -> Tensor: ...
    def mixed(self, x: Any, noise: Any, classes: Any, /) -> Tensor: ...
    def interpolate_style(self, x: Any, r: Any, noise: Any, a: float, c: Any, /) -> Tensor: ...
    def interpolate_shape(self, x: Any, r: Any, noise: Any, a: float, c: Any, /) -> Tensor: ...


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: as in configurations, tables and folders.
        call: (method, edit) -> (B, 3, H, W) photographs in [-1, 1], or (B, H, W) label maps where
            ``by`` is "editor".
        needs: what the method must be capable of; the first that it lacks gives the reason.
        by: whose task it is: a "method" or a layout "editor".
        reference: whether every item has a reference from the protocol's pair list.
        classes: the classes of an item where the configuration names none: "all"; one "drawn" a
            sample from the protocol's list; the "subject", which is all but the background.
        variants: images of one target: one, "samples" (the protocol says how many) or "alphas".
        edits: "style", "shape" or nothing.
        fields: the protocol's fields that the images depend on, beside ``COMMON_FIELDS``. A rule
            acts on a task if and only if its field stands here, so that no rule misses the key.
        own_label: whether the target's own label map is drawn (scores of the photograph apply).
        editable: whether a layout editor may stand before it.
        label: the label map that was drawn, (B, H, W), where it is not the target's: from the edit.
    """

    name: str
    call: Callable[[Any, Edit], Tensor]
    needs: tuple[Capability, ...]
    by: Literal["method", "editor"] = "method"
    reference: bool = False
    classes: Literal["all", "drawn", "subject"] = "all"
    variants: Literal["one", "samples", "alphas"] = "one"
    edits: Literal["style", "shape"] | None = None
    fields: frozenset[str] = frozenset()
    own_label: bool = False
    editable: bool = False
    label: Callable[[Edit], Tensor | None] = lambda edit: None

    def lacks(self, capable: frozenset[Capability]) -> str | None:
        """Why something with these capabilities is unable to do the task; None if it is able."""
        return next((MISSING[need] for need in self.needs if need not in capable), None)


def _swapped(edit: Edit) -> Tensor:
    classes: Any = edit.classes  # the mask of a shape task
    return swap_labels(edit.target.label, edit.other.label, classes)[0]


def _reconstruct(m: DoesTasks, e: Edit) -> Tensor:
    return m.reconstruct(e.target, e.noise, e.drawn)


def _transfer(m: DoesTasks, e: Edit) -> Tensor:
    return m.transfer(e.target, e.other, e.noise, e.classes, e.drawn)


def _shape_transfer(m: DoesTasks, e: Edit) -> Tensor:
    return m.shape_transfer(e.target, e.other, e.noise, e.classes)


def _subject_transfer(m: DoesTasks, e: Edit) -> Tensor:
    return m.subject_transfer(e.target, e.other, e.noise, e.classes, e.subject_layout)


def _sample(m: DoesTasks, e: Edit) -> Tensor:
    return m.sample(e.target, e.noise)


def _mixed(m: DoesTasks, e: Edit) -> Tensor:
    return m.mixed(e.target, e.noise, e.classes)


def _interpolate_style(m: DoesTasks, e: Edit) -> Tensor:
    return m.interpolate_style(e.target, e.other, e.noise, e.alpha, e.classes)


def _interpolate_shape(m: DoesTasks, e: Edit) -> Tensor:
    return m.interpolate_shape(e.target, e.other, e.noise, e.alpha, e.classes)


def _layout_reconstruction(editor: DoesTasks, e: Edit) -> Tensor:
    return editor.reconstruct(e.target, e.noise)


COMMON_FIELDS = frozenset({"noise", "quantise", "seed"})
"""Fields of a protocol that the images of every task depend on."""

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("reconstruct", _reconstruct, ("style",), own_label=True, editable=True),
        Task(
            "transfer",
            _transfer,
            ("style",),
            reference=True,
            edits="style",
            fields=frozenset({"pairs", "absent"}),
            own_label=True,
            editable=True,
        ),
        Task(
            "class_transfer",
            _transfer,
            ("style", "per_class"),
            reference=True,
            classes="drawn",
            edits="style",
            fields=frozenset({"pairs", "absent", "shape_classes"}),
            own_label=True,
            editable=True,
        ),
        Task(
            "shape_transfer",
            _shape_transfer,
            ("style",),
            reference=True,
            classes="drawn",
            edits="shape",
            fields=frozenset({"pairs", "shape_swap", "shape_classes"}),
            label=_swapped,
        ),
        Task(
            "subject_transfer",
            _subject_transfer,
            ("style", "per_class"),
            reference=True,
            classes="subject",
            edits="style",
            fields=frozenset({"pairs", "absent", "subject_layout"}),
            label=lambda e: e.other.label if e.subject_layout == "reference" else None,
        ),
        Task("sample", _sample, ("prior",), variants="samples", fields=frozenset({"samples"})),
        Task(
            "mixed",
            _mixed,
            ("style", "per_class", "prior"),
            classes="drawn",
            edits="style",
            fields=frozenset({"shape_classes"}),
        ),
        Task(
            "interpolate_style",
            _interpolate_style,
            ("style",),
            reference=True,
            variants="alphas",
            edits="style",
            fields=frozenset({"pairs", "absent", "noise_of"}),
        ),
        Task(
            "interpolate_shape",
            _interpolate_shape,
            ("style", "layout_lerp"),
            reference=True,
            variants="alphas",
            edits="shape",
            fields=frozenset({"pairs", "shape_swap", "noise_of"}),
        ),
        Task("layout_reconstruction", _layout_reconstruction, ("label_model",), by="editor"),
    )
}
"""Every task by its name, in the order in which they are listed."""


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UserError: there is none; the nearest is named.
    """
    if name not in TASKS:
        raise UserError(f"no task is called '{name}'", did_you_mean(name, TASKS))
    return TASKS[name]


def method_tasks() -> tuple[Task, ...]:
    """The tasks that a method (not a layout editor) can be asked for."""
    return tuple(task for task in TASKS.values() if task.by == "method")
