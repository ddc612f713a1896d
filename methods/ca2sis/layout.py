"""Layouts of CA2-SIS: a label map together with the embeddings that are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sisbench.core.errors import UserError
from sisbench.core.label_space import HOLE
from sisbench.methods.base import Classes, Layout, class_mask


@dataclass(frozen=True)
class CA2Layout(Layout):
    """A label map and its mask embeddings, which are what is drawn.

    Attributes:
        embedding: (B, ne, E) float, one row per class; without a row for the background, ne = C - 1
            and rows start at class 1.
    """

    embedding: Tensor = field(kw_only=True)

    def swap(self, other: Layout, classes: Classes = None) -> CA2Layout:
        """``other``'s mask embeddings for ``classes``; ``label`` is the map that this asks for.

        A background without embedding comes along only when every other class does; alone it is
        left as it is. Nothing is repaired.
        """
        mask, theirs = self._mask(classes), self._embedding_of(other)
        drawn = super().swap(other, mask)
        rows = self._rows(mask)
        return replace(
            self,
            label=drawn.label,
            present=drawn.present,
            instance=drawn.instance,
            embedding=torch.where(rows, theirs, self.embedding),
        )

    def lerp(self, other: Layout, alpha: float, classes: Classes = None) -> CA2Layout:
        """(1 - alpha) * this + alpha * other on the embeddings of ``classes``; 1 gives ``swap``.

        In between no label map is asked for where the two differ: those pixels are holes.
        """
        if alpha == 0:
            return self
        swapped = self.swap(other, classes)
        if alpha == 1:
            return swapped
        mask, theirs = self._mask(classes), self._embedding_of(other)
        mixed = torch.lerp(self.embedding, theirs, alpha)
        return replace(
            self,
            label=torch.where(self.label == swapped.label, self.label, HOLE),
            present=torch.where(mask, self.present | other.present, self.present),
            embedding=torch.where(self._rows(mask), mixed, self.embedding),
        )

    def _mask(self, classes: Classes) -> Tensor:
        mask = class_mask(classes, self.present).clone()
        if self.embedding.shape[1] < mask.shape[1]:
            mask[:, 0] = mask[:, 1:].all(1)
        return mask

    def _rows(self, mask: Tensor) -> Tensor:
        return mask[:, mask.shape[1] - self.embedding.shape[1] :, None]

    def _embedding_of(self, other: Layout) -> Tensor:
        if not isinstance(other, CA2Layout) or other.embedding.shape != self.embedding.shape:
            raise UserError(
                f"a CA2-SIS layout of shape {tuple(self.embedding.shape)} meets another kind",
                "encode both label maps with the same method",
            )
        return other.embedding
