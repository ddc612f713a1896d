"""What a layout editor can be asked for, as declared objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from sisbench.core.tasks import Edit


class EditsLayouts(Protocol):
    """What an edit calls: the contract of ``methods.editor.LayoutEditor``, by its signatures."""

    def reconstruct(self, x: Any, noise: Any, /) -> Tensor: ...
    def generate(self, x: Any, noise: Any, classes: Any, /) -> Tensor: ...
    def perturb(self, x: Any, noise: Any, classes: Any, /) -> Tensor: ...
    def swap(self, x: Any, r: Any, noise: Any, classes: Any, /) -> Tensor: ...
    def interpolate(self, x: Any, r: Any, noise: Any, a: float, classes: Any, /) -> Tensor: ...


@dataclass(frozen=True)
class LayoutEdit:
    """One edit of a label map.

    Attributes:
        name: the method of the editor that does it, and the name in configurations.
        call: (editor, edit) -> (B, H, W) int64 label maps.
        reference: whether it takes a second label map, the protocol's reference.
    """

    name: str
    call: Callable[[EditsLayouts, Edit], Tensor]
    reference: bool = False


LAYOUT_EDITS: dict[str, LayoutEdit] = {
    edit.name: edit
    for edit in (
        LayoutEdit("reconstruct", lambda m, e: m.reconstruct(e.target, e.noise)),
        LayoutEdit("generate", lambda m, e: m.generate(e.target, e.noise, e.classes)),
        LayoutEdit("perturb", lambda m, e: m.perturb(e.target, e.noise, e.classes)),
        LayoutEdit("swap", lambda m, e: m.swap(e.target, e.other, e.noise, e.classes), True),
        LayoutEdit(
            "interpolate",
            lambda m, e: m.interpolate(e.target, e.other, e.noise, e.alpha, e.classes),
            True,
        ),
    )
}
"""Every edit by its name."""
