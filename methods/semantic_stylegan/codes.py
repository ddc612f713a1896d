"""Layouts and styles of SemanticStyleGAN: rows of W+, addressed by the classes of a label space.

Several classes may share a generator (both eyes, both brows): they form a group, whose classes hold
the same row and are exchanged together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sisbench.core.errors import UserError
from sisbench.core.label_space import HOLE
from sisbench.methods.base import Classes, Layout, Style, class_mask, close_classes
from sisbench.methods.semantic_stylegan.inversion import Inversion

GROUPS_OF_19 = (0, 1, 5, 10, 2, 2, 3, 3, 6, 6, 4, 4, 4, 7, 11, 12, 8, 8, 9)
"""Generator of each of the 19 classes of CelebAMask-HQ."""

BACKGROUND_SHAPE = "background_shape"
"""Name in ``Style.extra`` of the background's first row: it shapes nothing, so that it belongs to
the style."""


@dataclass(frozen=True)
class CodesStyle(Style):
    """Texture rows by class: codes (B, C, D), those of a group equal.

    Attributes:
        groups: the generator of each class.
    """

    groups: tuple[int, ...] = field(kw_only=True)

    def swap(self, other: Style, classes: Classes = None) -> Style:
        """As ``Style.swap``, for whole groups."""
        return super().swap(other, self._closed(classes))

    def lerp(self, other: Style, alpha: float, classes: Classes = None) -> Style:
        """As ``Style.lerp``, for whole groups."""
        return super().lerp(other, alpha, self._closed(classes))

    def _closed(self, classes: Classes) -> Tensor:
        return close_classes(class_mask(classes, self.present), self.groups)


@dataclass(frozen=True)
class CodesLayout(Layout):
    """Shape rows by class, which are what is drawn, beside a label map.

    ``label`` is the map that an edit asks for in pixel space: what mIoU is compared with. The
    network's own segmentation may differ from it (``SemanticStyleGAN.segmentation``).

    Attributes:
        codes: (B, C, D) float, the shape row of each class's generator; the background's is 0.
        base: (B, base_layers, D) float, rows that all generators but the background's share: pose
            and coarse structure.
        groups: the generator of each class.
        inversions: where the rows came from, one a sample; their noise maps are drawn with it.
    """

    codes: Tensor = field(kw_only=True)
    base: Tensor = field(kw_only=True)
    groups: tuple[int, ...] = field(kw_only=True)
    inversions: tuple[Inversion, ...] = field(kw_only=True, default=())

    def swap(self, other: Layout, classes: Classes = None) -> CodesLayout:
        """``other``'s shape rows for the groups of ``classes``; the base rows come along only when
        every class does."""
        mask = self._closed(classes)
        return self._merge(self._like(other), mask, lambda a, b: b, super().swap(other, mask))

    def lerp(self, other: Layout, alpha: float, classes: Classes = None) -> CodesLayout:
        """(1 - alpha) * this + alpha * other on the rows that ``swap`` takes; 1 gives ``swap``.

        In between no label map is asked for where the two differ: those pixels are holes.
        """
        if alpha == 0:
            return self
        swapped = self.swap(other, classes)
        if alpha == 1:
            return swapped
        mask = self._closed(classes)
        drawn = replace(
            swapped,
            label=torch.where(self.label == swapped.label, self.label, HOLE),
            present=torch.where(mask, self.present | other.present, self.present),
        )
        return self._merge(self._like(other), mask, lambda a, b: torch.lerp(a, b, alpha), drawn)

    def _closed(self, classes: Classes) -> Tensor:
        return close_classes(class_mask(classes, self.present), self.groups)

    def _merge(
        self,
        other: CodesLayout,
        mask: Tensor,
        merge: Callable[[Tensor, Tensor], Tensor],
        drawn: Layout,
    ) -> CodesLayout:
        whole = mask.all(1)[:, None, None]
        return replace(
            self,
            label=drawn.label,
            present=drawn.present,
            instance=drawn.instance,
            codes=torch.where(mask[..., None], merge(self.codes, other.codes), self.codes),
            base=torch.where(whole, merge(self.base, other.base), self.base),
        )

    def _like(self, other: Layout) -> CodesLayout:
        if not isinstance(other, CodesLayout) or other.codes.shape != self.codes.shape:
            raise UserError(
                f"a SemanticStyleGAN layout of shape {tuple(self.codes.shape)} meets another kind",
                "encode both photographs with the same method",
            )
        return other
