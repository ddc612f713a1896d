"""iDesigner runway photographs with human parts merged to three classes, as SCAM uses them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.label_space import LabelSpace
from sisbench.data.paired import PairedFolders, looked_up

LIP_TO_THREE = np.array([0, 1, 1, 2, 1, *[2] * 8, 1, *[2] * 6])
"""(20,) class of each LIP id: face is hat, hair, sunglasses and face (1, 2, 4, 13); the rest of a
person is body."""
_LABELS = ("lip", "merged")


class IDesigner(PairedFolders):
    """iDesigner (fashion photographs, Dufour et al., SCAM, ECCV 2022, arXiv 2210.04883).

    Classes: 0 background, 1 face, 2 body.

    Args:
        root: folder of {train,test}/{images,labels}; a label map has its photograph's stem.
        split: "train" (50,000 in the paper) or "test" (10,000).
        size: side or [height, width], default the paper's [256, 170].
        limit: only the first items.
        labels: "lip" for the 20 LIP ids of a human parser (merged here), "merged" for the three.

    Raises:
        UserError: missing folders, unpaired stems, an unknown split or kind of labels.
    """

    name = "idesigner"

    def __init__(
        self,
        root: str | Path,
        split: str = "test",
        size: int | Sequence[int] | None = (256, 170),
        limit: int | None = None,
        labels: str = "lip",
    ) -> None:
        if split not in ("train", "test"):
            raise UserError(f"no split '{split}'", did_you_mean(split, ("train", "test")))
        if labels not in _LABELS:
            raise UserError(f"'labels' must be one of {', '.join(_LABELS)}, got {labels!r}")
        self._merge = labels == "lip"
        where = Path(root) / split
        space = LabelSpace.named("idesigner")
        super().__init__(space, split, where / "images", where / "labels", None, size, limit)

    def relabelled(self, label: np.ndarray, path: Path) -> np.ndarray:
        """LIP ids merged to background, face and body."""
        return looked_up(label, LIP_TO_THREE, path) if self._merge else label
