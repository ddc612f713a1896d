"""Batch: samples of one label space, as methods see them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Samples of one label space.

    Attributes:
        ids: one sample id a row.
        image: (B, 3, H, W) float32 in [-1, 1].
        label: (B, H, W) int64 class ids.
        instance: (B, H, W) int64 instance ids, or None.
        space: the label space of ``label``.
    """

    ids: tuple[str, ...]
    image: Tensor
    label: Tensor
    instance: Tensor | None
    space: LabelSpace

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(self.ids))
        b = len(self.ids)
        if self.image.ndim != 4 or self.image.shape[:2] != (b, 3):
            raise UserError(f"Batch.image must be ({b}, 3, H, W), got {tuple(self.image.shape)}")
        if self.label.shape != (b, *self.image.shape[2:]):
            raise UserError(
                f"Batch.label must be {(b, *self.image.shape[2:])}, got {tuple(self.label.shape)}"
            )
        if self.instance is not None and self.instance.shape != self.label.shape:
            raise UserError(
                f"Batch.instance must be {tuple(self.label.shape)}, "
                f"got {tuple(self.instance.shape)}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: str | torch.device) -> Batch:
        """The same batch on ``device``."""
        instance = None if self.instance is None else self.instance.to(device)
        return replace(
            self, image=self.image.to(device), label=self.label.to(device), instance=instance
        )

    def __getitem__(self, rows: slice) -> Batch:
        instance = None if self.instance is None else self.instance[rows]
        return replace(
            self,
            ids=self.ids[rows],
            image=self.image[rows],
            label=self.label[rows],
            instance=instance,
        )
