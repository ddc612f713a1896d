"""The contract of a data set: ids, a label space, and 8-bit samples at one size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.resize import Filter


@dataclass(frozen=True)
class Sample:
    """One item.

    Attributes:
        id: its name within the data set (file stem).
        image: (H, W, 3) uint8 RGB.
        label: (H, W) int64 class ids.
        instance: (H, W) int64 instance ids, or None.
    """

    id: str
    image: np.ndarray
    label: np.ndarray
    instance: np.ndarray | None = None


class Dataset(ABC):
    """One split of a data set at one size.

    Attributes:
        name, split, space, size: registry name, split name, label space, (H, W) of every sample.
        ids: sample ids in their fixed order.
    """

    name: ClassVar[str] = ""
    split: str
    space: LabelSpace
    size: tuple[int, int]
    ids: Sequence[str]

    @abstractmethod
    def load(self, sample_id: str) -> Sample:
        """Decode one sample.

        Raises:
            UserError: a file is missing or corrupt, sizes or label values are wrong; names
                the file, the value and the remedy.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Content hash of the split: ids, file contents or generator, size, label space."""

    def read_at(
        self, size: tuple[int, int], by: Filter = "bicubic", stored_labels: bool = False
    ) -> Dataset:
        """The same split with its files read at another size, for a method whose own it is.

        Args:
            size: (H, W) of every sample.
            by: PIL's filter for the photographs; label maps come by its nearest rule.
            stored_labels: label maps as they are stored, whatever ``size``; photographs are brought
                to the size of theirs.

        Raises:
            UserError: the data set knows its own size alone.
        """
        raise UserError(f"data set '{self.name}' is read at its own size alone")

    def truth(
        self, task: str, target: str, reference: str, classes: Sequence[int]
    ) -> np.ndarray | None:
        """The *true* image (H, W, 3) uint8 of ``task`` applied to the pair, where the data set can
        render it (toyfaces: "transfer", "class_transfer", "shape_transfer"); None elsewhere."""
        return None

    def remarks(self) -> list[str]:
        """What whoever reads a score on this data must know, one line each: files that are missing
        from an official download, files that were passed over."""
        return []

    def __len__(self) -> int:
        return len(self.ids)


def short_of(found: int, official: int | None, what: str) -> list[str]:
    """The remark that a split is not complete; [] where it is, or where no count is known."""
    if official is None or found == official:
        return []
    return [f"{found:,} of the official {official:,} {what}"]
