"""LayoutEditor: a label map in, an edited label map out, to stand before any method."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from sisbench.core.batch import Batch
from sisbench.methods.base import Classes, NoiseSource
from sisbench.methods.loadable import Loadable


class LayoutEditor(Loadable):
    """A generative model of label maps behind one interface.

    An edited label map replaces the layout of a batch; the style still comes from the photograph
    with its own label map. Options and weights are handled as a ``Method``'s are.
    """

    # ---- the contract: every result is (B, H, W) int64 ------------------------------------------

    @abstractmethod
    def reconstruct(self, batch: Batch, noise: NoiseSource) -> Tensor:
        """The label map through the model, unedited."""

    @abstractmethod
    def generate(self, batch: Batch, noise: NoiseSource, classes: Classes = None) -> Tensor:
        """New shapes for ``classes`` (None: all of them), drawn from the prior."""

    @abstractmethod
    def perturb(self, batch: Batch, noise: NoiseSource, classes: Classes = None) -> Tensor:
        """Random variations of the shapes of ``classes``."""

    @abstractmethod
    def swap(
        self, target: Batch, reference: Batch, noise: NoiseSource, classes: Classes = None
    ) -> Tensor:
        """``target`` with the shapes of ``classes`` from ``reference``."""

    @abstractmethod
    def interpolate(
        self,
        target: Batch,
        reference: Batch,
        noise: NoiseSource,
        alpha: float,
        classes: Classes = None,
    ) -> Tensor:
        """Shapes of ``classes`` between ``target`` (alpha 0) and ``reference`` (alpha 1)."""
