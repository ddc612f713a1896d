"""LayoutEditor: a label map in, an edited label map out, to stand before any method."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable
from sisbench.core.layout_edits import LAYOUT_EDITS
from sisbench.core.noise import NoiseSource
from sisbench.core.tasks import Capability, find_task
from sisbench.methods.base import Classes
from sisbench.methods.loadable import Loadable


class _Can:
    """``LayoutEditor.can``: the edits that a class overrides."""

    def __get__(self, instance: LayoutEditor | None, owner: type[LayoutEditor]) -> frozenset[str]:
        base = {edit: getattr(LayoutEditor, edit, None) for edit in LAYOUT_EDITS}
        return frozenset(e for e, none in base.items() if getattr(owner, e, None) is not none)


class LayoutEditor(Loadable):
    """A generative model of label maps behind one interface.

    An edited label map replaces the layout of a batch; the style still comes from the photograph
    with its own label map. Options and weights are handled as a ``Method``'s are.

    Class attributes: those of ``Loadable``; ``can`` holds the edits that a subclass overrides.
    """

    can: ClassVar[frozenset[str]] = _Can()  # type: ignore[assignment]

    # ---- the contract: every result is (B, H, W) int64 ------------------------------------------

    def reconstruct(self, batch: Batch, noise: NoiseSource) -> Tensor:
        """The label map through the model, unedited."""
        raise self._unable("reconstruct")

    def generate(self, batch: Batch, noise: NoiseSource, classes: Classes = None) -> Tensor:
        """New shapes for ``classes`` (None: all of them), drawn from the prior."""
        raise self._unable("generate")

    def perturb(self, batch: Batch, noise: NoiseSource, classes: Classes = None) -> Tensor:
        """Random variations of the shapes of ``classes``."""
        raise self._unable("perturb")

    def swap(
        self, target: Batch, reference: Batch, noise: NoiseSource, classes: Classes = None
    ) -> Tensor:
        """``target`` with the shapes of ``classes`` from ``reference``."""
        raise self._unable("swap")

    def interpolate(
        self,
        target: Batch,
        reference: Batch,
        noise: NoiseSource,
        alpha: float,
        classes: Classes = None,
    ) -> Tensor:
        """Shapes of ``classes`` between ``target`` (alpha 0) and ``reference`` (alpha 1)."""
        raise self._unable("interpolate")

    def _unable(self, edit: str) -> Unavailable:
        return Unavailable(f"{self.title or self.name} {no_edit(type(self), edit)}")


def no_edit(editor: type[LayoutEditor], edit: str) -> str | None:
    """Why an editor is unable to do ``edit`` of ``LAYOUT_EDITS``; None when it is able to."""
    if edit in editor.can:
        return None
    return f"does not do '{edit}' (it does: {', '.join(sorted(editor.can)) or 'nothing'})"


def no_task(editor: type[LayoutEditor], task: str) -> str | None:
    """Why an editor is unable to do a task of its own; None when it is able to."""
    found: set[Capability] = {"label_model"} if "reconstruct" in editor.can else set()
    return find_task(task).lacks(frozenset(found))
