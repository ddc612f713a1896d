"""Channels of the label maps that the networks of the SPADE family take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sisbench.core.errors import UserError
from sisbench.core.label_space import HOLE, LabelSpace
from sisbench.methods.layers.labels import read_labels


@dataclass(frozen=True)
class Semantics:
    """How label values become channels.

    Attributes:
        label_nc: classes without the don't-care class.
        dontcare: whether class ``label_nc`` stands for unlabelled pixels.
        instances: whether a channel of instance edges follows.
    """

    label_nc: int
    dontcare: bool
    instances: bool

    @property
    def classes(self) -> int:
        """One-hot channels."""
        return self.label_nc + int(self.dontcare)

    @property
    def channels(self) -> int:
        """All channels."""
        return self.classes + int(self.instances)

    @staticmethod
    def of(
        space: LabelSpace,
        label_nc: int | None,
        dontcare: bool | None,
        no_instance: bool | None,
        semantic_nc: int | None,
    ) -> Semantics:
        """The official channels of ``space``, but for what is given.

        Raises:
            UserError: ``semantic_nc`` is not the number of channels that follows, or ``label_nc``
                is not positive.
        """
        ade = space.name == "ade20k"
        if dontcare is None:
            dontcare = ade and label_nc in (None, len(space) - 1)
        if label_nc is None:
            label_nc = len(space) - int(ade and dontcare)
        instances = space.name == "cityscapes" if no_instance is None else not no_instance
        found = Semantics(label_nc, dontcare, instances)
        if label_nc < 1:
            raise UserError(f"label_nc must be positive, got {label_nc}")
        if semantic_nc not in (None, found.channels):
            raise UserError(
                f"semantic_nc is {semantic_nc}, but label_nc {label_nc}, don't-care {dontcare} and "
                f"instances {instances} make {found.channels} channels",
                "leave semantic_nc out, or mend the others",
            )
        return found

    def read(self, label: Tensor, unlabelled: int | None = None) -> Tensor:
        """255 becomes ``unlabelled``, by default the don't-care class; (B, H, W) int64, holes
        stay -1.

        Raises:
            UserError: a value that is no class.
        """
        dontcare = self.label_nc if unlabelled is None else unlabelled
        return read_labels(
            label,
            self.classes,
            dontcare if self.dontcare else None,
            "check the label space and the options label_nc and contain_dontcare_label",
        )

    def shifted(self, label: Tensor) -> Tensor:
        """Labels whose class 0 (unlabelled) becomes the don't-care class and the others move down
        by one: what SPADE's code for ADE20K means to do; holes stay -1."""
        moved = torch.where(label == 0, self.label_nc, label - 1)
        return torch.where(label == HOLE, label, moved)
